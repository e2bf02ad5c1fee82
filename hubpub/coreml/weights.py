"""A program's weight files: are they whole, and how they get into a compiled bundle.

Weights are never parsed: of each blob only its 64-byte record is read and checked
against the file's size and the type that the program declares.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from hubpub.coreml.package import MODEL_PATH
from hubpub.coreml.survey import BlobUse
from hubpub.coreml.values import DTYPE_NAMES, blob_bytes
from hubpub.coreml.weight_file import BlobReader
from hubpub.errors import BadPackage

_CLONE = 0x40049409  # FICLONE, linux/fs.h


def weight_files(blobs: Iterable[BlobUse], folder: Path) -> dict[PurePosixPath, Path]:
    """Check every blob; relative path in the bundle → the file, for the files that the program refers to.

    `folder` is what `@model_path` stands for. Raises BadPackage for a file that is
    missing, a name that leaves the folder, or a blob that is not what the program says.
    """
    by_file: dict[str, list[BlobUse]] = {}
    for blob in blobs:
        by_file.setdefault(blob.file, []).append(blob)
    found: dict[PurePosixPath, Path] = {}
    for name, uses in by_file.items():
        relative = _relative(name)
        path = folder / relative
        _check(path, uses)
        found[relative] = path
    return found


def place(source: Path, target: Path, *, link: bool) -> None:
    """Put a file's content at `target`: as a hard link if asked for and possible, else as a clone, else as a copy.

    A hard link shares later edits of either file, so it is only for files that nobody edits.
    """
    source = source.resolve()
    if link:
        with suppress(OSError):  # another volume, or a file system without links
            target.hardlink_to(source)
            return
    if not _clone(source, target):
        shutil.copyfile(source, target)


def _relative(name: str) -> PurePosixPath:
    path = PurePosixPath(name.removeprefix(MODEL_PATH))
    if not name.startswith(MODEL_PATH) or path.is_absolute() or ".." in path.parts or path.parts[:1] != ("weights",):
        raise BadPackage(f"The model's weights are at {name[:120]!r}, which is not in the package's weights folder.")
    return path


def _check(path: Path, uses: Iterable[BlobUse]) -> None:
    reader = BlobReader(path)
    try:
        for use in uses:
            dtype, size, _ = reader.record(use.offset)
            wanted = blob_bytes(use.dtype, use.sizes)
            if dtype != use.dtype or size != wanted:
                raise BadPackage(
                    f"The blob at offset {use.offset} of {path} has {size} bytes of {DTYPE_NAMES[dtype]};"
                    f" the model declares {wanted} bytes of {DTYPE_NAMES[use.dtype]}.",
                    hint="The weights belong to another model: fetch or build the package again.",
                )
    finally:
        reader.close()


def _clone(source: Path, target: Path) -> bool:
    """A copy-on-write clone, where the file system makes one (Btrfs, XFS …); False where it does not."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    with source.open("rb") as original, target.open("wb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), _CLONE, original.fileno())
        except OSError:
            return _copy_range(original.fileno(), copy.fileno(), source.stat().st_size)
    return True


def _copy_range(source: int, target: int, size: int) -> bool:
    """Copy inside the kernel; False where it cannot, and then the target is to be written anew."""
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
