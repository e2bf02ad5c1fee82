"""The embedded Hub: a small server on loopback that speaks the Hugging Face Hub's protocol, with its data in a folder.

    with running(folder) as hub:
        api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=hub.token)

The real client works against it, with xet and without. `Storage` reads and writes the same folder without any request.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_dir

from hubpub.errors import PreflightError
from hubpub.localhub.call import Hub, Limits, Seen
from hubpub.localhub.faults import Fault, Faults
from hubpub.localhub.server import endpoint, in_foreground, in_thread, listen, tool_missing
from hubpub.localhub.storage.storage import Storage

if TYPE_CHECKING:
    from hubpub.localhub.app import Application

__all__ = [
    "DEFAULT_PORT",
    "Fault",
    "Faults",
    "Limits",
    "LocalHub",
    "Seen",
    "Storage",
    "default_root",
    "running",
    "serve",
]

DEFAULT_PORT = 8765


@dataclass(frozen=True, kw_only=True)
class LocalHub:
    """A running Hub: where it is, the token that may write and the one that may only read, and what happened so far."""

    endpoint: str
    token: str = field(repr=False)
    read_token: str = field(repr=False)
    root: Path
    storage: Storage = field(repr=False)
    faults: Faults = field(repr=False)
    _seen: deque[Seen] = field(repr=False)

    @property
    def requests(self) -> tuple[Seen, ...]:
        """The requests so far, in the order of their ends (the last 65536)."""
        return tuple(self._seen)

    def received(self, kind: str = "all") -> int:
        """Bytes of request bodies: `all`, large files by `xet` or `lfs`, or `commit` (small files travel in it)."""
        parts = {"all": "/", "xet": "/cas/", "lfs": "/lfs/p", "commit": "/commit/"}
        return sum(seen.received for seen in self.requests if parts[kind] in seen.path)


def default_root() -> Path:
    """HUBPUB_HUB, else a folder beside the user's other data."""
    if named := os.environ.get("HUBPUB_HUB"):
        return Path(named).expanduser()
    return Path(user_data_dir("hubpub", appauthor=False)) / "hub"


@contextlib.contextmanager
def running(
    root: Path,
    *,
    port: int = 0,
    owner: str = "me",
    namespaces: Sequence[str] = (),
    faults: Faults | None = None,
    limits: Limits | None = None,
) -> Iterator[LocalHub]:
    """Serve the data folder `root` from a thread of this process while the block runs.

    `port` 0 is the same one each time for one folder, as long as it is free. `owner` is the user that both tokens
    stand for, who may write to `owner/…` and to `namespaces`; repos of others can be read. Raises ToolMissing,
    CannotWrite, StoreError or PreflightError.
    """
    application, bound = _prepare(
        root, host="127.0.0.1", port=port, owner=owner, namespaces=namespaces, faults=faults, limits=limits
    )
    with in_thread(application, bound):
        yield _describe(application.hub)


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    owner: str = "me",
    namespaces: Sequence[str] = (),
    limits: Limits | None = None,
    ready: Callable[[LocalHub], None] | None = None,
) -> None:
    """Serve the data folder `root` until the process is told to stop. `ready` is called once the port is open.

    Raises ConfigError for any address that is not loopback, and what `running` raises.
    """
    application, bound = _prepare(
        root, host=host, port=port, owner=owner, namespaces=namespaces, faults=None, limits=limits
    )
    if ready is not None:
        ready(_describe(application.hub))
    in_foreground(application, bound)


def _prepare(
    root: Path,
    *,
    host: str,
    port: int,
    owner: str,
    namespaces: Sequence[str],
    faults: Faults | None,
    limits: Limits | None,
) -> tuple[Application, socket.socket]:
    try:
        from hubpub.localhub.app import Application
    except ImportError as error:
        raise tool_missing() from error
    storage = Storage(root)
    bound = listen(host, port) if port else _listen_as_before(host, storage)
    hub = Hub(
        storage=storage,
        endpoint=endpoint(bound),
        owner=owner,
        namespaces=tuple(dict.fromkeys([owner, *namespaces])),
        faults=faults or Faults(),
        limits=limits or Limits(),
    )
    return Application(hub), bound


def _listen_as_before(host: str, storage: Storage) -> socket.socket:
    """The data folder's own port, so that what was remembered of its address stays true; any, where that is taken."""
    try:
        return listen(host, 49152 + int(storage.id, 16) % 16384)  # of the ports that nobody may register
    except PreflightError:
        return listen(host, 0)


def _describe(hub: Hub) -> LocalHub:
    return LocalHub(
        endpoint=hub.endpoint,
        token=hub.storage.token,
        read_token=hub.storage.read_token,
        root=hub.storage.root,
        storage=hub.storage,
        faults=hub.faults,
        _seen=hub.seen,
    )
