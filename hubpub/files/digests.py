"""sha256 of files, and a cache of them by path, size, time and inode."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path


class Digests:
    """sha256 of files by device, inode, size and mtime, kept across runs: an unchanged file is not read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        with suppress(OSError, ValueError):
            self._known = json.loads(path.read_text(encoding="utf-8"))
        self._new = False

    def of(self, path: Path) -> str:
        """64 hex digits of a file's content."""
        return self._known.get(_identity(path)) or self.remember(path, sha256(path))

    def read(self, paths: Iterable[Path]) -> None:
        """Read the files that are not known yet, two at a time and the largest first: hashing takes a core each."""
        unknown = [path for path in paths if _identity(path) not in self._known]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.of, sorted(unknown, key=lambda path: path.stat().st_size, reverse=True)))

    def remember(self, path: Path, digest: str) -> str:
        """Keep a digest that was computed elsewhere."""
        self._known[_identity(path)] = digest
        self._new = True
        return digest

    def save(self) -> None:
        """Write the cache, if anything is new in it."""
        if self._new:
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self._known), encoding="utf-8")
            temporary.replace(self._path)
            self._new = False


def sha256(path: Path) -> str:
    """64 hex digits of a file's content, read once in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
