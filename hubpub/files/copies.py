"""Copies of files that cost as little as the file system allows: links, reflinks, copies inside the kernel."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_FICLONE = 0x40049409  # linux/fs.h


def clone(source: Path, target: Path) -> None:
    """Copy a file: a reflink where the file system has them, else the system's own copy; writable, never linked."""
    if not _clone(source, target):
        shutil.copyfile(source, target)


def place(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file to `target`: as a hard link (with `link`, if possible), else as a clone, else as a copy.

    Edits of a hard-linked file change both names, so use `link` only for files that are never edited.
    """
    source = source.resolve()
    if link:
        with suppress(OSError):  # another volume, or a file system without links
            target.hardlink_to(source)
            return
    clone(source, target)


def link_in_place(source: Path, target: Path) -> None:
    """Put a hard link in a file's place, at once; nothing where it is one already, which a rename would leave twice."""
    if source.samefile(target):
        return
    temporary = target.with_name(f"{target.name}.{uuid4().hex[:8]}")
    os.link(source, temporary)
    temporary.replace(target)


def _clone(source: Path, target: Path) -> bool:
    """Make a copy-on-write clone; False if the file system cannot (Btrfs and XFS can)."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    with source.open("rb") as original, target.open("wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        except OSError:
            return _copy_range(original.fileno(), copy.fileno(), source.stat().st_size)
    return True


def _copy_range(source: int, target: int, size: int) -> bool:
    """Copy inside the kernel; False if it cannot: the target is then incomplete and must be written again."""
    done = 0
    while done < size:
        try:
            copied = os.copy_file_range(source, target, size - done)
        except OSError:
            return False
        if not copied:
            return False
        done += copied
    return True
