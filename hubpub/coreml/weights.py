"""Checks a program's weight files and places them in a compiled bundle.

Of each blob only the 64-byte record is read; it is checked against the file's size and the
type that the program declares.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hubpub.coreml.package import MODEL_PATH
from hubpub.coreml.survey import BlobUse
from hubpub.coreml.values import DTYPE_NAMES, blob_bytes
from hubpub.coreml.weight_file import BlobReader
from hubpub.errors import BadPackage


def weight_files(blobs: Iterable[BlobUse], folder: Path) -> dict[PurePosixPath, Path]:
    """Check every blob; returns relative path in the bundle → file, for the files that the program uses.

    `folder` is the folder that `@model_path` names. Raises BadPackage for a missing file, a
    name outside the folder, or a blob that differs from the program's declaration.
    """
    by_file: dict[str, list[BlobUse]] = {}
    for blob in blobs:
        by_file.setdefault(blob.file, []).append(blob)
    files: dict[PurePosixPath, Path] = {}
    for name, uses in by_file.items():
        relative = _relative(name)
        path = folder / relative
        _check(path, uses)
        files[relative] = path
    return files


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
            declared_size = blob_bytes(use.dtype, use.sizes)
            if dtype != use.dtype or size != declared_size:
                raise BadPackage(
                    f"The blob at offset {use.offset} of {path} has {size} bytes of {DTYPE_NAMES[dtype]};"
                    f" the model declares {declared_size} bytes of {DTYPE_NAMES[use.dtype]}.",
                    hint="The weights belong to another model: fetch or build the package again.",
                )
    finally:
        reader.close()
