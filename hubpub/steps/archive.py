"""archive: models and tokenizer files → one stored zip, the same bytes every time.

Apps unzip it into their models folder and then open `<models>/<stem>/`, so the zip
holds exactly one top folder equal to its stem. Members are stored (palettized weights
do not deflate, and stored members let the Hub's chunk store find the bytes of the
files beside it), sorted, dated 1980-01-01, mode 644.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hubpub.steps.step import Step

_BLOCK = 1 << 22
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Archive(Step):
    """Write `out/archive.zip` with one top folder `stem`; inputs: name in that folder → file or folder."""

    VERSION: ClassVar[int] = 1

    stem: str

    @property
    def label(self) -> str:
        return f"archive {self.stem}"

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        size = 0
        with zipfile.ZipFile(out / "archive.zip", "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            members = sorted(_members(inputs))
            for name, path in members:
                size += _store(archive, f"{self.stem}/{name}", path)
        return {"files": len(members), "bytes": size}


def _members(inputs: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for name, path in inputs.items():
        if path.is_file():
            yield name, path
        else:
            for file in path.rglob("*"):
                if file.is_file():
                    yield f"{name}/{file.relative_to(path).as_posix()}", file


def _store(archive: zipfile.ZipFile, name: str, path: Path) -> int:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = 3  # Unix, wherever this runs
    info.external_attr = 0o100644 << 16
    info.file_size = path.stat().st_size  # known beforehand, so that ZIP64 is chosen when it must be
    with path.open("rb") as source, archive.open(info, "w") as target:
        while block := source.read(_BLOCK):
            target.write(block)
    return info.file_size
