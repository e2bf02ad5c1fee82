"""The embedded Hub: a small server on loopback that speaks the Hugging Face Hub's protocol, with its data in a folder.

    with running(folder) as hub:
        api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=hub.token)

The real client works with it, with xet and without. `Storage` reads and writes the same folder without a server.
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
    """A running Hub: its address, a token that may write, a token that may only read, and its request log."""

    endpoint: str
    token: str = field(repr=False)
    read_token: str = field(repr=False)
    root: Path
    storage: Storage = field(repr=False)
    faults: Faults = field(repr=False)
    _seen: deque[Seen] = field(repr=False)

    @property
    def requests(self) -> tuple[Seen, ...]:
        """The requests so far, in the order in which they ended (the last 65536)."""
        return tuple(self._seen)

    def received(self, kind: str = "all") -> int:
        """Bytes of request bodies: `all`, large files by `xet` or `lfs`, or `commit` (contains the small files)."""
        parts = {"all": "/", "xet": "/cas/", "lfs": "/lfs/p", "commit": "/commit/"}
        return sum(seen.received for seen in self.requests if parts[kind] in seen.path)


def default_root() -> Path:
    """The default data folder: HUBPUB_HUB, else `hub` in hubpub's user data folder."""
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

    `port` 0 selects a port that is the same for the same folder, if it is free. Both tokens belong to the user
    `owner`, who may write to `owner/…` and to `namespaces`, and may read all repos. Raises ToolMissing,
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
    """Serve the data folder `root` until Ctrl-C or SIGTERM. Calls `ready` once the port is open.

    Raises ConfigError for an address that is not loopback, and the errors of `running`.
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
    bound = listen(host, port) if port else _listen_on_usual_port(host, storage)
    hub = Hub(
        storage=storage,
        endpoint=endpoint(bound),
        owner=owner,
        namespaces=tuple(dict.fromkeys([owner, *namespaces])),
        faults=faults or Faults(),
        limits=limits or Limits(),
    )
    return Application(hub), bound


def _listen_on_usual_port(host: str, storage: Storage) -> socket.socket:
    """Listen on a port derived from the data folder's id, so that cached addresses stay valid; else on a free port."""
    try:
        return listen(host, 49152 + int(storage.id, 16) % 16384)  # 49152 to 65535: dynamic ports, never registered
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
