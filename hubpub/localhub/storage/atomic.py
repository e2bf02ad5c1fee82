"""Atomic file writes: temporary sibling, fsync, rename."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_THREADS = 16


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new temporary file in `folder`, open for writing; deleted at the end of the block unless it was moved."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
    with path.open("xb") as file:
        try:
            yield path, file
        finally:
            file.close()
            path.unlink(missing_ok=True)


def publish(file: BinaryIO, path: Path, dest: Path) -> None:
    """Rename the finished temporary file to `dest`. If a content-addressed `dest` exists, its bytes are the same."""
    file.flush()
    os.fsync(file.fileno())
    dest.parent.mkdir(parents=True, exist_ok=True)
    path.replace(dest)


def write(dest: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace `dest` in one step."""
    with temporary(dest.parent) as (path, file):
        if mode is not None:
            path.chmod(mode)
        file.write(data)
        publish(file, path, dest)
    sync_folder(dest.parent)


def write_json(dest: Path, value: Any) -> None:
    write(dest, json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def write_once(dest: Path, data: bytes, *, mode: int) -> bytes:
    """Write `dest` unless it exists; returns the bytes that it has then (another process may have written them)."""
    with temporary(dest.parent) as (path, file), contextlib.suppress(FileExistsError):
        path.chmod(mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.link(path, dest)  # unlike rename, this refuses to replace
    return dest.read_bytes()


def read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map` in threads, for work that waits for the disk: syncing many small files is many times faster in parallel."""
    with ThreadPoolExecutor(_THREADS) as pool:
        rest = iter(items)
        while batch := list(itertools.islice(rest, 2 * _THREADS)):
            yield from pool.map(function, batch)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, on systems that support it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
