"""Unpacks untrusted archives safely and atomically."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

from hubpub.errors import UnsafeArchive
from hubpub.files.digest import Digest, FileRef
from hubpub.files.disk import check_space, writing
from hubpub.files.paths import check_all

# zipfile's exceptions for damaged or malicious archives.
DAMAGE: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    struct.error,
    zlib.error,
)

_MAX_FILES: Final = 100_000
_MAX_BYTES: Final = 256 << 30
# Weights hardly compress, a model's text to about a tenth; a zip bomb to a thousandth.
_MAX_RATIO: Final = 100
_SLACK: Final = 16 << 20
_BLOCK: Final = 1 << 20
_JUNK: Final = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"})


def unpack(archive: Path, folder: Path) -> tuple[FileRef, ...]:
    """Unpack an archive into the new folder `folder`, without the archive's single top folder (if it has one).

    Skips files that file managers add. Raises UnsafeArchive before writing anything for names
    that leave the folder or coincide, links, encryption, bombs and overlapping members; also for
    damage found while reading. NoSpace if the disk is too small. After an error, `folder` does
    not exist.
    """
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.unpacking")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked(opened, archive.stat().st_size)
            total = sum(info.file_size for _, info in members)
            check_space(folder.parent, total, what=f"Unpacking {archive.name}")
            with writing(folder, kept="The archive is kept.", left=lambda: total):
                temporary.mkdir(parents=True)
                top = _top_folder([name for name, _ in members])
                files = [_extract(opened, info, temporary, name[len(top) :]) for name, info in members]
                temporary.rename(folder)
    except DAMAGE as error:
        raise UnsafeArchive(f"{archive.name} cannot be unpacked: {error}.", hint="Fetch it again.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tuple(sorted(files, key=lambda file: file.path))


def _checked(opened: zipfile.ZipFile, size: int) -> list[tuple[str, zipfile.ZipInfo]]:
    """The files of an archive with their names, after all checks."""
    infos = opened.infolist()
    if len(infos) > _MAX_FILES:
        raise _unsafe(f"It has {len(infos)} members.")
    for info in infos:
        _check_member(info)
    _check_regions(infos, size)
    members = [(info.filename, info) for info in infos if not info.is_dir() and not _is_junk(info.filename)]
    check_all(name for name, _ in members)
    check_all({info.filename.rstrip("/") for info in infos if info.is_dir()})
    total = sum(info.file_size for _, info in members)
    if total > min(_MAX_BYTES, _MAX_RATIO * size + _SLACK):
        raise _unsafe(f"It would unpack to {total} bytes, from {size}.")
    if not members:
        raise _unsafe("It holds no files.")
    return members


def _check_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _unsafe(f"{info.filename!r} is a link or a device.")
    if info.flag_bits & 0x1:
        raise _unsafe(f"{info.filename!r} is encrypted.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _unsafe(f"{info.filename!r} is compressed in a way that apps cannot read.")
    if info.orig_filename != info.filename:  # zipfile cuts names at a null byte
        raise _unsafe(f"The name {info.orig_filename!r} is not plain.")


def _check_regions(infos: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Refuse overlapping members, with which a small archive can unpack to a large folder."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise _unsafe(f"{info.filename!r} overlaps another member.")
        end = info.header_offset + 30 + info.compress_size
    if end > size:
        raise _unsafe("It is cut off.")


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, name: str) -> FileRef:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with opened.open(info) as source, target.open("xb") as output:
        while block := source.read(_BLOCK):
            size += len(block)
            if size > info.file_size:
                raise _unsafe(f"{info.filename!r} is larger than it says.")
            digest.update(block)
            output.write(block)
        output.flush()
        os.fsync(output.fileno())
    if size != info.file_size:
        raise _unsafe(f"{info.filename!r} is shorter than it says.")
    return FileRef(path=name, size=size, digest=Digest("sha256", digest.hexdigest()))


def _top_folder(names: Sequence[str]) -> str:
    """The single folder that contains all files, with a slash; "" if there is none or it is a model."""
    tops = {name.partition("/")[0] for name in names}
    top = tops.pop() if len(tops) == 1 else ""
    if not top or top.endswith((".mlmodelc", ".mlpackage")) or not all(name.startswith(top + "/") for name in names):
        return ""
    return top + "/"


def _is_junk(name: str) -> bool:
    parts = name.split("/")
    return not _JUNK.isdisjoint(parts) or parts[-1].startswith("._")


def _unsafe(why: str) -> UnsafeArchive:
    return UnsafeArchive(f"The archive is not safe to unpack. {why}", hint="Tell the owner of the repo.")
