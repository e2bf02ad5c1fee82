"""Files of a selection → a folder: in parallel, resumed where an earlier run stopped, checked before they appear."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hubpub.errors import CannotWrite, DigestMismatch, UnsafeArchive
from hubpub.files.copies import clone
from hubpub.files.digest import Digest
from hubpub.files.disk import check_space, writing
from hubpub.files.paths import check_relative
from hubpub.remote.offers import OfferedFile, Selection

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub

# Holds what has arrived of unfinished files, each named by its digest.
PARTIAL: Final = ".hubpub-partial"


class _Stopped(Exception):
    """Another file has failed, or the user has stopped the run."""


class _Tally:
    """Counts arrived bytes for `progress`, and says whether to go on."""

    def __init__(self, total: int, done: int, label: str, progress: Callable[[int, int, str], None] | None) -> None:
        self._total, self._done, self._label, self._progress = total, done, label, progress
        self._lock = threading.Lock()
        self.received = 0
        self.stopped = threading.Event()

    @property
    def left(self) -> int:
        """Bytes that have not arrived."""
        return max(0, self._total - self._done)

    def add(self, size: int) -> None:
        """Count arrived bytes (negative: discarded)."""
        if self.stopped.is_set():
            raise _Stopped
        with self._lock:
            self._done += size
            self.received += max(size, 0)
            if self._progress is not None:
                self._progress(max(0, min(self._done, self._total)), self._total, self._label)


def bring(
    hub: Hub,
    selection: Selection,
    files: Sequence[OfferedFile],
    folder: Path,
    *,
    jobs: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> int:
    """Download `files` into `folder`; the number of bytes that came over the network.

    Files appear under their names when all of them are here with the right size and digest.
    Those with the same bytes are downloaded once. Raises NoSpace, CannotWrite, DigestMismatch or FetchError.
    """
    groups: dict[Digest, list[OfferedFile]] = {}
    for file in files:
        _check_place(folder, file)
        groups.setdefault(file.digest, []).append(file)
    partials = folder / PARTIAL
    have = {digest: _size(partials / _partial_name(digest), group[0].size) for digest, group in groups.items()}
    total = sum(group[0].size for group in groups.values())
    tally = _Tally(total, sum(have.values()), f"downloading {selection.repo_id}", progress)
    with writing(folder, kept="What has arrived is kept.", left=lambda: tally.left):
        partials.mkdir(parents=True, exist_ok=True)
        missing = sum(file.size for file in files) - sum(have.values())
        check_space(folder, missing, what="The download", hint="Free some space, or choose another folder with --dest.")
        _all_at_once(hub, selection, groups, folder, tally, jobs)
        for group in groups.values():
            for number, file in enumerate(group):
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                (partials / _partial_name(file.digest, number)).replace(folder / file.path)
        shutil.rmtree(partials, ignore_errors=True)  # what is left is of other commits
    return tally.received


def _all_at_once(
    hub: Hub,
    selection: Selection,
    groups: Mapping[Digest, Sequence[OfferedFile]],
    folder: Path,
    tally: _Tally,
    jobs: int,
) -> None:
    # the largest first, so that the last to end is a small one
    ordered = sorted(groups.values(), key=lambda group: -group[0].size)
    with ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="fetch") as pool:
        futures = [pool.submit(_one, hub, selection, group, folder, tally) for group in ordered]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        finally:
            tally.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _one(hub: Hub, selection: Selection, group: Sequence[OfferedFile], folder: Path, tally: _Tally) -> None:
    """Bring one content, and copy it as often as it has places."""
    file = group[0]
    partial = folder / PARTIAL / _partial_name(file.digest)
    for last in (False, True):
        hub.download(
            selection.repo_id, str(selection.commit), file.path_in_repo, partial, size=file.size, got=tally.add
        )
        if file.digest.is_of(partial):
            break
        partial.unlink()
        if last:
            raise DigestMismatch(
                f"{file.path_in_repo} of {selection.repo_id} arrives with other bytes than were published.",
                hint="Check the network (a proxy?) and run again; if it stays, tell the repo's owner.",
            )
        tally.add(-file.size)
    _sync(partial)  # a file that looks whole after a power cut must be
    for number in range(1, len(group)):
        copy = partial.with_name(_partial_name(file.digest, number))
        clone(partial, copy)
        _sync(copy)


def _check_place(folder: Path, file: OfferedFile) -> None:
    """The file's name stays in the folder, and no link on the way leads out of it."""
    target = folder / check_relative(file.path)
    if target.is_dir() and not target.is_symlink():
        raise CannotWrite(f"{target} is a folder, and the variant has a file there.", hint="Move it away.")
    for parent in target.relative_to(folder).parents:
        standing = folder / parent
        if standing != folder and standing.is_symlink():
            raise UnsafeArchive(f"{standing} is a link, and the variant has files in it.", hint="Move it away.")
        if standing != folder and standing.exists() and not standing.is_dir():
            raise CannotWrite(f"{standing} is a file, and the variant has files in it.", hint="Move it away.")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _partial_name(digest: Digest, copy: int = 0) -> str:
    name = digest.value if digest.kind == "sha256" else f"{digest.kind}-{digest.value}"
    return f"{name}.{copy}" if copy else name


def _size(partial: Path, at_most: int) -> int:
    return min(partial.stat().st_size, at_most) if partial.is_file() else 0
