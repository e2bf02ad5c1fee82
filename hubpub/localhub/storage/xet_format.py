"""Reads the two binary formats that hf-xet uploads: shards (which chunks make a file) and xorbs (the chunks).

Source: the Xet protocol specification (huggingface.co/docs/xet) and files written by hf-xet 1.8. Every record of a
shard has 48 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TAG = b"HFRepoMetaData\0UigEj{\x81W\x83\xa5\xbd\xd9\\\xcd\xd1J\xa9"
_RECORD = 48
_END = b"\xff" * 32
_WITH_VERIFICATION = 1 << 31
_WITH_METADATA = 1 << 30
_CHUNK_HEADER = 8
_FOOTER_TAG = b"XETBLOB"
_LARGEST_CHUNK = 1 << 24


class Malformed(ValueError):
    """The bytes are not a valid shard or xorb; the message names the place."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """Chunks `start` to `end` (exclusive) of one xorb: a piece of a file, `size` bytes long."""

    xorb: str
    start: int
    end: int
    size: int


@dataclass(frozen=True, kw_only=True)
class XetFile:
    """A file in a shard; `sha256` is None if the client did not record it."""

    hash: str
    sha256: str | None
    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        return sum(term.size for term in self.terms)


@dataclass(frozen=True, kw_only=True)
class Shard:
    files: tuple[XetFile, ...]
    xorbs: tuple[str, ...]
    chunks: tuple[str, ...]  # of all the xorbs that this shard describes


@dataclass(frozen=True, kw_only=True)
class ChunkTable:
    """Offsets of a xorb's chunks, in its bytes (`stored`) and in its unpacked content; the last entry is the end."""

    stored: tuple[int, ...]
    content: tuple[int, ...]


def hex_hash(raw: bytes) -> str:
    """A 32-byte hash in the protocol's text form: four little-endian 64-bit numbers."""
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", raw))


def parse_shard(data: bytes) -> Shard:
    """The files, xorbs and chunks that a shard names; raises Malformed."""
    if len(data) < _RECORD or data[:32] != _TAG:
        raise Malformed("not a shard: its first bytes are wrong")
    version = struct.unpack_from("<Q", data, 32)[0]
    if version != 2:
        raise Malformed(f"a shard of version {version}; this Hub reads version 2")
    records = _Records(data)
    files = tuple(_files(records))
    xorbs: list[str] = []
    chunks: list[str] = []
    while (header := records.next())[:32] != _END:
        xorbs.append(hex_hash(header[:32]))
        count = struct.unpack_from("<I", header, 36)[0]
        chunks += [hex_hash(record[:32]) for record in records.take(count)]
    return Shard(files=files, xorbs=tuple(xorbs), chunks=tuple(chunks))


def dedup_shard(data: bytes, *, created: int, expires: int) -> bytes:
    """A complete shard file with the xorbs and chunks of an uploaded shard, plus the footer that uploads lack.

    Its lookup tables are empty (readers then scan it) and its chunk hashes are not keyed; times are seconds since
    1970.
    """
    records = _Records(data)
    for _ in _files(records):
        pass  # skip the file section: clients must not see other users' files
    xorbs = data[records.at :]
    begin, files = _RECORD, _END + bytes(_RECORD - len(_END))
    footer_at = begin + len(files) + len(xorbs)
    tables = (footer_at, 0) * 3
    footer = struct.pack("<9Q", 1, begin, begin + len(files), *tables) + bytes(32)
    footer += struct.pack("<2Q9QQ", created, expires, *(0,) * 9, footer_at)
    return _TAG + struct.pack("<2Q", 2, len(footer)) + files + xorbs + footer


def scan_xorb(path: Path) -> ChunkTable:
    """Walk the chunk headers of a xorb (1 byte version, 3 packed length, 1 scheme, 3 length); raises Malformed."""
    stored, content = [0], [0]
    total = path.stat().st_size
    with path.open("rb") as file:
        while stored[-1] < total:
            header = file.read(_CHUNK_HEADER)
            if header.startswith(_FOOTER_TAG[: len(header)]):
                break  # older clients append a footer
            if len(header) < _CHUNK_HEADER or header[0] != 0:
                raise Malformed(f"no chunk begins at byte {stored[-1]}")
            packed = int.from_bytes(header[1:4], "little")
            unpacked = int.from_bytes(header[5:8], "little")
            stored.append(stored[-1] + _CHUNK_HEADER + packed)
            content.append(content[-1] + unpacked)
            if stored[-1] > total or not 0 < unpacked < _LARGEST_CHUNK:
                raise Malformed(f"the chunk at byte {stored[-2]} is cut short")
            file.seek(stored[-1])
    if len(stored) == 1:
        raise Malformed("a xorb without chunks")
    return ChunkTable(stored=tuple(stored), content=tuple(content))


def _files(records: _Records) -> Iterator[XetFile]:
    while (header := records.next())[:32] != _END:
        flags, count = struct.unpack_from("<II", header, 32)
        terms = tuple(_term(record) for record in records.take(count))
        if flags & _WITH_VERIFICATION:
            records.take(count)
        sha256 = hex_hash(records.next()[:32]) if flags & _WITH_METADATA else None
        yield XetFile(hash=hex_hash(header[:32]), sha256=sha256, terms=terms)


def _term(record: bytes) -> Term:
    _, size, start, end = struct.unpack_from("<4I", record, 32)
    if end <= start:
        raise Malformed("a file segment without chunks")
    return Term(xorb=hex_hash(record[:32]), start=start, end=end, size=size)


class _Records:
    """Reads the 48-byte records after the shard's header, in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = _RECORD

    def next(self) -> bytes:
        return self.take(1)[0]

    def take(self, count: int) -> list[bytes]:
        end = self.at + count * _RECORD
        if end > len(self._data):
            raise Malformed("the shard ends within a record")
        records = [self._data[at : at + _RECORD] for at in range(self.at, end, _RECORD)]
        self.at = end
        return records
