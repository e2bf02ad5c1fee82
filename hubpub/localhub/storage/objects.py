"""Content-addressed file contents: large files by sha256, small ones by git blob id."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hubpub.localhub.refused import bad_request
from hubpub.localhub.storage import atomic, git
from hubpub.localhub.storage.git import Entry
from hubpub.localhub.storage.xet_store import XetStore

_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes on disk, by upload protocol; `rebuilt`: plain copies of xet files for downloads without xet."""

    git: int
    lfs: int
    xet: int
    rebuilt: int


class Objects:
    """The contents of all repos of one data folder; repos share them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / "tmp"
        self.xet = XetStore(root / "xet")

    def lfs_path(self, sha256: str) -> Path:
        return self.root / "lfs" / sha256[:2] / sha256[2:4] / sha256

    def rebuilt_path(self, sha256: str) -> Path:
        return self.root / "rebuilt" / sha256[:2] / sha256

    def blob_path(self, oid: str) -> Path:
        return self.root / "git" / oid[:2] / oid

    def size(self, sha256: str) -> int | None:
        """The size of a large file, uploaded by LFS or xet; None if it does not exist."""
        path = self.lfs_path(sha256)
        if path.is_file():
            return path.stat().st_size
        name = self.xet.named(sha256)
        return name.size if name else None

    def plain_path(self, entry: Entry) -> Path | None:
        """The file with the entry's bytes; None if they exist only as xet chunks."""
        if entry.sha256 is None:
            return self.blob_path(entry.oid)
        return next(
            (path for path in (self.lfs_path(entry.sha256), self.rebuilt_path(entry.sha256)) if path.is_file()), None
        )

    def add_blob(self, data: bytes) -> Entry:
        """Store a small file."""
        oid = git.blob_id(data)
        path = self.blob_path(oid)
        if not path.is_file():
            with atomic.temporary(self.scratch) as (temporary, file):
                file.write(data)
                atomic.publish(file, temporary, path)
        return Entry(oid=oid, size=len(data))

    def add_lfs(self, path: Path, file: BinaryIO, *, sha256: str, expected: str, size: int) -> None:
        """Store an uploaded large file (the temporary file `path`, `file`) if it has the announced digest and size."""
        actual = file.tell()
        if sha256 != expected or actual != size:
            raise bad_request(f"The upload is not {expected} ({size} bytes): got {sha256} ({actual} bytes)")
        atomic.publish(file, path, self.lfs_path(expected))

    def copy_in(self, source: Path) -> Entry:
        """Store a copy of a local file as a large file."""
        digest = hashlib.sha256()
        with source.open("rb") as stream, atomic.temporary(self.scratch) as (path, file):
            while block := stream.read(_BLOCK):
                digest.update(block)
                file.write(block)
            size = file.tell()
            self.add_lfs(path, file, sha256=digest.hexdigest(), expected=digest.hexdigest(), size=size)
        return git.lfs_entry(digest.hexdigest(), size)

    def join(self, parts: Iterable[Path], *, sha256: str, size: int) -> None:
        """Store a large file that is the concatenation of `parts`."""
        digest = hashlib.sha256()
        with atomic.temporary(self.scratch) as (path, file):
            for part in parts:
                with part.open("rb") as stream:
                    while block := stream.read(_BLOCK):
                        digest.update(block)
                        file.write(block)
            self.add_lfs(path, file, sha256=digest.hexdigest(), expected=sha256, size=size)

    def sweep(self, *, older_than: float) -> None:
        """Remove leftovers of interrupted uploads that are older than that many seconds."""
        for path in (*_children(self.scratch), *_children(self.root / "parts")):
            with contextlib.suppress(FileNotFoundError):  # another process may sweep at the same time
                if time.time() - path.stat().st_mtime < older_than:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()

    def usage(self) -> Usage:
        sizes = {name: _folder_size(self.root / name) for name in ("git", "lfs", "rebuilt")}
        return Usage(**sizes, xet=_folder_size(self.root / "xet" / "xorbs"))


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
