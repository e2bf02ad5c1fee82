"""The store: finished steps as folders named by their keys. A step is stored completely or not at all.

    <root>/steps/<2 hex>/<key>/payload/…     what the step wrote, read-only
    <root>/steps/<2 hex>/<key>/entry.json    what it was, what it measured, sha256 of every file
    <root>/work/<key>.<pid>.<random>/        being written; removed when nobody holds its lock
    <root>/locks/<key>.lock                  held while a step is made, so that two processes share the work
    <root>/locks/use-<random>.lock           held by a command that needs what is in the store
    <root>/digests.json                      sha256 of files elsewhere, by path, size, mtime and inode

An entry is written in `work`, synced, and renamed into place: a crash leaves nothing
that looks done. Large files with the same content are one file. What leaves the store is
a reflink or a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock
from platformdirs import user_cache_dir

from hubpub.errors import Damaged, StoreError
from hubpub.files.copies import link_in_place
from hubpub.files.digest import Digest, FileRef
from hubpub.files.digests import Digests, sha256
from hubpub.files.disk import writing

_ENTRY = "entry.json"
_PAYLOAD = "payload"
_SHARED = 1 << 20  # bytes from which on a file is worth being looked for


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished step."""

    key: str
    kind: str
    label: str
    payload: Path
    files: tuple[FileRef, ...]
    measurements: Mapping[str, Any]
    seconds: float
    created: float

    @property
    def size(self) -> int:
        """Bytes of the payload's files."""
        return sum(file.size for file in self.files)

    def under(self, path: str) -> Iterator[tuple[str, FileRef]]:
        """The files at or below `path`, each with its path relative to it ("" for a file itself)."""
        for file in self.files:
            if not path:
                yield file.path, file
            elif file.path == path:
                yield "", file
            elif file.path.startswith(path + "/"):
                yield file.path[len(path) + 1 :], file


class Store:
    """Content-addressed folders under one root; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._digests: Digests | None = None
        self._marks: set[Path] = set()  # of this object's own uses
        with self._writing():
            for name in ("steps", "work", "locks"):
                (root / name).mkdir(parents=True, exist_ok=True)

    @property
    def digests(self) -> Digests:
        """The cache of digests of files outside the store."""
        if self._digests is None:
            self._digests = Digests(self.root / "digests.json")
        return self._digests

    def get(self, key: str) -> Entry | None:
        """The entry of a finished step, or None. Raises Damaged when it is not whole."""
        folder = self._folder(key)
        try:
            data = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
            return Entry(
                key=key,
                kind=data["kind"],
                label=data["label"],
                payload=folder / _PAYLOAD,
                files=tuple(FileRef.from_entry(file) for file in data["files"]),
                measurements=data["measurements"],
                seconds=data["seconds"],
                created=data["created"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"The store's entry {key[:12]} cannot be read.", hint="Run `hubpub cache verify`.") from error

    def entries(self) -> Iterator[Entry]:
        """All finished steps, in no order."""
        for folder in sorted((self.root / "steps").glob("??/*")):
            entry = self.get(folder.name)
            if entry is not None:
                yield entry

    def unreadable(self) -> Iterator[str]:
        """Keys of the entries that `get` finds damaged."""
        for folder in sorted((self.root / "steps").glob("??/*")):
            try:
                self.get(folder.name)
            except Damaged:
                yield folder.name

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Nobody prunes the store for as long as the block lasts."""
        path = self.root / "locks" / f"use-{uuid4().hex}.lock"
        mark = FileLock(path)
        with self._writing(), self._pruning():
            mark.acquire()
        self._marks.add(path)
        try:
            yield
        finally:
            self._marks.remove(path)
            mark.release()
            path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else uses the store for as long as the block lasts; StoreError where somebody does so already."""
        with self._pruning():
            for path in set((self.root / "locks").glob("use-*.lock")) - self._marks:
                try:
                    with FileLock(path, timeout=0):
                        path.unlink(missing_ok=True)  # of a process that was killed
                except TimeoutError:
                    raise StoreError(
                        f"Another hubpub is at work with {self.root}.", hint="Run again when it has ended."
                    ) from None
            yield

    def _writing(self) -> AbstractContextManager[None]:
        hint = "Set HUBPUB_CACHE to a folder that can be written."
        return writing(self.root, hint=hint, kept="Finished steps are kept.")

    def _pruning(self) -> FileLock:
        return FileLock(self.root / "locks" / "pruning.lock")

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held while a step is made; a second process waits here and then finds the entry."""
        with FileLock(self.root / "locks" / f"{key}.lock"):
            yield

    def work_folder(self, key: str) -> Path:
        """A new empty folder to write a payload into (call with the lock of `key` held)."""
        for stale in (self.root / "work").glob(f"{key}.*"):  # whoever made it is gone: we hold the lock
            _remove(stale)
        folder = self.root / "work" / f"{key}.{os.getpid()}.{uuid4().hex[:8]}" / _PAYLOAD
        folder.mkdir(parents=True)
        return folder

    def commit(
        self, key: str, payload: Path, *, kind: str, label: str, measurements: Mapping[str, Any], seconds: float
    ) -> Entry:
        """Make what lies in `payload` (a work folder) the finished step `key`."""
        with self._writing():
            files = tuple(self._seal(payload))
            self._share(payload, files)
            data = {
                "key": key,
                "kind": kind,
                "label": label,
                "files": [file.to_entry() for file in files],
                "measurements": dict(measurements),
                "seconds": round(seconds, 3),
                "created": round(time.time(), 3),
            }
            entry = payload.parent / _ENTRY
            with entry.open("w", encoding="utf-8") as file:
                json.dump(data, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            folder = self._folder(key)
            folder.parent.mkdir(exist_ok=True)
            self.remove(key)  # a damaged one that is being replaced
            payload.parent.rename(folder)
            _sync_folder(folder.parent)
        found = self.get(key)
        if found is None:  # cannot happen while the lock is held
            raise StoreError(f"The store's entry {key[:12]} vanished.", hint="Is another program cleaning the store?")
        return found

    def discard(self, payload: Path) -> None:
        """Forget a work folder."""
        _remove(payload.parent)

    def clean(self) -> None:
        """Remove what killed runs have left in `work`."""
        for folder in self.stale_work():
            _remove(folder)

    def remove(self, key: str) -> None:
        """Forget a finished step: all of it at once, as half of it would look whole."""
        gone = self.root / "work" / f"gone-{uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            self._folder(key).rename(gone)
            _remove(gone)

    def damage(self, entry: Entry) -> str | None:
        """What is wrong with an entry's files, or None: every byte is read."""
        for file in entry.files:
            path = entry.payload / file.path
            if not path.is_file():
                return f"{file.path} is missing"
            if not file.is_at(path):
                return f"{file.path} has changed"
        return None

    def stale_work(self) -> Iterator[Path]:
        """Work folders that no running process holds the lock of; nobody gets it while one is looked at."""
        for folder in list((self.root / "work").iterdir()):
            lock = FileLock(self.root / "locks" / f"{folder.name.partition('.')[0]}.lock")
            with suppress(TimeoutError), lock.acquire(timeout=0):
                yield folder

    def _folder(self, key: str) -> Path:
        return self.root / "steps" / key[:2] / key

    def _seal(self, payload: Path) -> Iterator[FileRef]:
        """Sync every file, make it read-only and name its digest; hard links are hashed once."""
        for path in sorted(payload.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise StoreError(f"The step wrote {path.name}, which is no plain file.")
            if path.is_dir():
                continue
            status = path.stat()
            path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            digest = self.digests.of(path) if status.st_nlink > 1 else self.digests.remember(path, sha256(path))
            yield FileRef(
                path=path.relative_to(payload).as_posix(), size=status.st_size, digest=Digest("sha256", digest)
            )

    def _share(self, payload: Path, files: Iterable[FileRef]) -> None:
        """Make large files that the store has already links to those: attentions have the same weights of a UNet."""
        large: dict[str | None, list[str]] = {}
        for file in files:
            if file.size >= _SHARED:
                large.setdefault(file.sha256, []).append(file.path)
        for folder in sorted((self.root / "steps").glob("??/*")) if large else ():
            with suppress(Damaged, OSError):  # what is damaged, or being pruned, is not shared
                entry = self.get(folder.name)
                for there in entry.files if entry else ():
                    same = folder / _PAYLOAD / there.path
                    if there.sha256 in large and self.digests.of(same) == there.sha256:
                        for path in large.pop(there.sha256):
                            link_in_place(same, payload / path)


def default_root() -> Path:
    """HUBPUB_CACHE, else the user's cache folder."""
    given = os.environ.get("HUBPUB_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(user_cache_dir("hubpub", appauthor=False))


def _remove(folder: Path) -> None:
    """rmtree of files that may be read-only (Windows refuses those), and that another process may be removing too."""
    if os.name == "nt":
        for path in folder.rglob("*"):
            path.chmod(stat.S_IWRITE)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut (where folders can be opened)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
