"""Destinations: where a release goes. Each can say what it holds now, and take one release in one piece.

To add one, write a module with `destination(address, means)` and `check(address)`, and name it in `KINDS` by the
scheme of its addresses: `--to s3://bucket/name` is then opened by the module of `s3`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hubpub.errors import ConfigError, HubpubError
from hubpub.files.digest import Digest
from hubpub.files.digests import Digests
from hubpub.plan.config import Delivery
from hubpub.plan.names import CARD, MANIFEST, SIGNATURE
from hubpub.release.artifact import Artifact
from hubpub.release.release import Operation, Release, RemoteState, diff

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub

# done bytes, total bytes, what is being done
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The result of a delivery.

    `operations` counts lines by action (`new`, `changed`, `same`, `removed`) and, of those,
    `copied` (bytes that the repo had under another path). `planned_bytes` is the new
    content, each once; `sent_bytes` what left this machine (of xet, as hf_xet reports it).
    """

    repo_id: str
    url: str
    commit: str | None
    pull_request: str | None = None
    tag: str | None = None
    operations: Mapping[str, int]
    planned_bytes: int = 0
    sent_bytes: int = 0
    nothing_to_do: bool = False


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a destination may use: the Hub (opened by the call), known digests of files, and how to deliver."""

    hub: Callable[[], Hub]
    digests: Digests
    delivery: Delivery = field(default_factory=lambda: Delivery.model_validate({}))


class Destination(Protocol):
    """Where a release goes."""

    @property
    def url(self) -> str:
        """Its address, for people."""
        ...

    def preflight(self, release: Release) -> list[HubpubError]:
        """All that is in the way of `release`, before any work; of its artifacts only the sizes count."""
        ...

    def current(self) -> RemoteState:
        """What is there now (`commit` None: nothing, or a folder)."""
        ...

    def deliver(
        self,
        release: Release,
        operations: Sequence[Operation],
        *,
        base: RemoteState,
        progress: Progress | None = None,
    ) -> Receipt:
        """Carry out `operations`, which were computed against `base`: all of them or none."""
        ...


# scheme of addresses → the module that opens them
KINDS: Mapping[str, str] = {
    "file": "hubpub.remote.destinations.folder",
    "hf": "hubpub.remote.destinations.hub",
}


def open_destination(address: str, means: Means) -> Destination:
    """The destination at an address: OWNER/NAME of the Hub, or SCHEME://… (`file:///srv/models/coreml-x`)."""
    scheme, rest = _parts(address)
    destination: Destination = import_module(KINDS[scheme]).destination(rest, means)
    return destination


def check_address(address: str) -> str:
    """The address, if it can be one; ConfigError says why not."""
    scheme, rest = _parts(address)
    import_module(KINDS[scheme]).check(rest)
    return address


def is_on_hub(address: str) -> bool:
    """Whether it is a repo of the Hub, for which an account is needed."""
    return _parts(address)[0] == "hf"


def _parts(address: str) -> tuple[str, str]:
    """The scheme, and the rest."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return "hf", address
    if scheme not in KINDS:
        raise ConfigError(
            f"{address!r} is no destination: nothing opens {scheme}://.",
            hint=f"Give OWNER/NAME, or an address that begins with {', '.join(f'{one}://' for one in KINDS)}.",
        )
    return scheme, rest


def release_files(release: Release, folder: Path) -> tuple[Artifact, ...]:
    """All files of a release: its artifacts; card, manifest and its signature, which are written into `folder`."""
    made = []
    for name, text in ((CARD, release.card), (MANIFEST, release.manifest_text()), (SIGNATURE, release.signature)):
        if text is None:
            continue
        path = folder / name
        path.write_text(text, encoding="utf-8", newline="\n")
        made.append(Artifact(path=name, source=path, size=path.stat().st_size, digest=Digest.of_file(path)))
    return (*release.artifacts, *made)


@contextmanager
def laid_out(release: Release, base: RemoteState) -> Iterator[list[Operation]]:
    """The operations that bring `base` to `release`; its card and manifest are files for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="hubpub-release-") as folder:
        yield diff(release, release_files(release, Path(folder)), base)


def send(
    destination: Destination,
    release: Release,
    *,
    base: RemoteState,
    progress: Progress | None = None,
) -> Receipt:
    """Bring a destination, which held `base`, to `release`."""
    with laid_out(release, base) as operations:
        return destination.deliver(release, operations, base=base, progress=progress)


def changes(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """The operations that change something."""
    return tuple(operation for operation in operations if operation.action != "same")


def tally(operations: Sequence[Operation]) -> dict[str, int]:
    """How many operations there are of each action, and how many of them copy."""
    counts = dict.fromkeys(("new", "changed", "same", "removed", "copied"), 0)
    for operation in operations:
        counts[operation.action] += 1
        counts["copied"] += operation.action != "same" and operation.copy_from is not None
    return counts


def planned_bytes(operations: Sequence[Operation]) -> int:
    """Bytes that the operations bring which the destination does not have, each content once."""
    sizes = {
        operation.artifact.digest: operation.size
        for operation in changes(operations)
        if operation.artifact is not None and operation.copy_from is None
    }
    return sum(sizes.values())
