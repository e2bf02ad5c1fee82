"""Disks that are full, and places that may not be written: the system's errors become NoSpace and CannotWrite here."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hubpub.errors import CannotWrite, HubpubError, NoSpace
from hubpub.files.sizes import human

# Bytes left free on a disk for everything else.
SPARE: Final = 64 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(
    place: Path, *, hint: str = "Choose another folder.", kept: str = "", left: Callable[[], int] | None = None
) -> Iterator[None]:
    """Raise NoSpace or CannotWrite for an OSError of the block, which writes to `place`.

    `left` gives the bytes that are still to be written; `kept` says what a second run need not do again.

    >>> with writing(Path("release")):
    ...     Path("release").mkdir()
    """
    try:
        yield
    except OSError as error:
        raise refused(error, place, hint=hint, kept=kept, left=left) from error


def refused(
    error: OSError,
    place: Path,
    *,
    hint: str = "Choose another folder.",
    kept: str = "",
    left: Callable[[], int] | None = None,
) -> HubpubError:
    """The error for what the system refused at `place`."""
    if not is_full(error):
        return CannotWrite(f"{place} cannot be written: {error.strerror or error}.", hint=hint)
    missing = max(0, left() + SPARE - free(place)) if left is not None else None
    more = f"; {human(missing)} more are needed" if missing else ""
    return NoSpace(
        f"The disk of {place} is full{more}.", hint=f"{kept} Free some space and run again.".strip(), missing=missing
    )


def is_full(error: OSError) -> bool:
    """True if the disk, or the user's share of it, is full."""
    return error.errno in _FULL


def check_space(place: Path, wanted: int, *, what: str, hint: str = "Free some space.") -> None:
    """Raise NoSpace unless `wanted` bytes fit on the disk of `place`, which need not exist; `what` writes them."""
    there = free(place)
    if there < wanted + SPARE:
        raise NoSpace(
            f"{what} needs {human(wanted)} in {place}, and {human(there)} are free.",
            hint=hint,
            missing=wanted + SPARE - there,
        )


def check_writable(place: Path, *, hint: str = "Choose another folder.") -> None:
    """Raise CannotWrite unless files can be made in `place`, or in the nearest folder above it that exists."""
    if not os.access(nearest(place), os.W_OK | os.X_OK):
        raise CannotWrite(f"{place} cannot be written.", hint=hint)


def free(place: Path) -> int:
    """Free bytes on the disk of a path that need not exist."""
    return shutil.disk_usage(nearest(place)).free


def nearest(place: Path) -> Path:
    """The path itself, else the nearest folder above it that exists."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
