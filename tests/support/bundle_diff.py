"""How a bundle of ours differs from Apple's of the same package: nowhere, apart from what must."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hubpub.coreml.coremldata import read_archive


def differences(ours: Path, theirs: Path) -> list[str]:
    """What differs, one line each; not line 2 of the text, the order of user metadata, or the spelling of JSON."""
    return list(_differences(ours, theirs))


def _differences(ours: Path, theirs: Path) -> Iterator[str]:
    names = [{path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file()} for one in (ours, theirs)]
    for name in sorted(names[0] ^ names[1]):
        yield f"{name}: only in {'our' if name in names[0] else 'their'} bundle"
    for name in sorted(names[0] & names[1]):
        mine, other = ((one / name).read_bytes() for one in (ours, theirs))
        if name == "model.mil":
            yield from _lines(mine.decode(), other.decode())
        elif name == "metadata.json":
            yield from _documents(mine, other)
        elif (sorted_metadata(mine) if name == "coremldata.bin" else mine) != (
            sorted_metadata(other) if name == "coremldata.bin" else other
        ):
            yield f"{name}: {len(mine)} and {len(other)} bytes that differ"


def _lines(mine: str, other: str) -> Iterator[str]:
    ours, theirs = mine.split("\n"), other.split("\n")
    if len(ours) != len(theirs):
        yield f"model.mil: {len(ours)} and {len(theirs)} lines"
    for number, (one, two) in enumerate(zip(ours, theirs, strict=False), 1):
        if one != two and number != 2:
            yield f"model.mil:{number}:\n    ours   {one[:400]}\n    theirs {two[:400]}"


def _documents(mine: bytes, other: bytes) -> Iterator[str]:
    ours, theirs = (json.loads(one)[0] for one in (mine, other))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield f"metadata.json: {key}\n    ours   {ours.get(key)}\n    theirs {theirs.get(key)}"


def sorted_metadata(data: bytes) -> bytes:
    """An archive with its user metadata in the order of their keys: Apple's is random."""
    archive = read_archive(data, name="coremldata.bin")
    content = archive.description.SerializeToString(deterministic=True)
    start = len(data) - 16 * archive.functions - len(content)
    return data[:start] + content + data[start + len(content) :]
