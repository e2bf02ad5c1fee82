"""The xet store on disk: xorbs, shards, and the chunks of each file. Files in it are never replaced."""

from __future__ import annotations

import bisect
import hashlib
import struct
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from hubpub.localhub.refused import Refused, bad_request
from hubpub.localhub.storage import atomic
from hubpub.localhub.storage.xet_format import (
    ChunkTable,
    Malformed,
    Shard,
    Term,
    XetFile,
    dedup_shard,
    parse_shard,
    scan_xorb,
)

_DEDUP_SECONDS = 24 * 3600  # how long a client may cache a shard


@dataclass(frozen=True, kw_only=True)
class XetName:
    """The xet hash and size of a file."""

    hash: str
    size: int


class XetStore:
    """The folder `xet/`.

    The store does not verify a xorb's hash, because that needs the unpacked chunks. It verifies a file's sha256
    when it rebuilds the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._chunks: dict[str, Path] = {}
        self._read_shards: set[str] = set()
        self._table = lru_cache(maxsize=256)(self._load_table)

    def xorb_path(self, name: str) -> Path:
        return self.folder / "xorbs" / name[:2] / name

    def has_xorb(self, name: str) -> bool:
        return self.xorb_path(name).is_file()

    def add_xorb(self, name: str, path: Path, file: BinaryIO) -> bool:
        """Store an uploaded xorb; returns whether it was new."""
        if self.has_xorb(name):
            return False
        file.flush()
        try:
            table = scan_xorb(path)
        except Malformed as error:
            raise bad_request(f"Invalid xorb: {error}") from None
        rows = [*table.stored, *table.content]
        # write the table first: every xorb must have one
        atomic.write(self._table_path(name), struct.pack(f"<{len(rows)}Q", *rows))
        atomic.publish(file, path, self.xorb_path(name))
        return True

    def add_shard(self, data: bytes) -> bool:
        """Store a shard and its files; returns whether it was new. Refuses a shard that names missing xorbs."""
        try:
            shard = parse_shard(data)
        except Malformed as error:
            raise bad_request(f"Invalid shard: {error}") from None
        self._check(shard)
        path = self.folder / "shards" / hashlib.sha256(data).hexdigest()
        exists = path.is_file()
        if not exists:
            atomic.write(path, data)
        for file in shard.files:
            self._enter(file)
        return not exists

    def named(self, sha256: str) -> XetName | None:
        """The xet hash and size of the content with this sha256; None if it was not uploaded by xet."""
        path = self.folder / "sha256" / sha256[:2] / sha256
        if not path.is_file():
            return None
        return XetName(**atomic.read_json(path))

    def shard_with(self, chunk: str, *, now: int) -> bytes | None:
        """A shard that describes a xorb with this chunk, for the client's deduplication; None if no xorb has it."""
        with self._lock:
            if chunk not in self._chunks:
                self._read_new_shards()
            path = self._chunks.get(chunk)
        return dedup_shard(path.read_bytes(), created=now, expires=now + _DEDUP_SECONDS) if path else None

    def reconstruction(
        self, name: str, start: int, end: int | None
    ) -> tuple[int, list[Term], dict[str, list[tuple[Term, int, int]]]]:
        """How to rebuild bytes `start` to `end` (exclusive) of a file.

        Returns the offset into the first term, the terms, and for each xorb the ranges to fetch as (chunks, first
        byte, end byte).
        """
        terms = self._terms(name)
        size = sum(term.size for term in terms)
        end = size if end is None else min(end, size)
        if start >= end and size:
            raise Refused(416, f"The file has {size} bytes.")
        needed: list[Term] = []
        offset, at = 0, 0
        for term in terms:
            if at < end and at + term.size > start:
                skipped, trimmed = self._trim(term, max(start - at, 0), min(end - at, term.size))
                if not needed:
                    offset = start - at - skipped
                needed.append(trimmed)
            at += term.size
        return offset, needed, self._fetches(needed)

    def _fetches(self, terms: list[Term]) -> dict[str, list[tuple[Term, int, int]]]:
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for term in sorted(terms, key=lambda term: (term.xorb, term.start)):
            ranges_of_xorb = spans[term.xorb]
            if ranges_of_xorb and term.start <= ranges_of_xorb[-1][1]:
                ranges_of_xorb[-1] = (ranges_of_xorb[-1][0], max(ranges_of_xorb[-1][1], term.end))
            else:
                ranges_of_xorb.append((term.start, term.end))
        fetches: dict[str, list[tuple[Term, int, int]]] = {}
        for xorb, ranges in spans.items():
            table = self._table(xorb)
            fetches[xorb] = [
                (
                    Term(xorb=xorb, start=a, end=b, size=table.content[b] - table.content[a]),
                    table.stored[a],
                    table.stored[b],
                )
                for a, b in ranges
            ]
        return fetches

    def _trim(self, term: Term, start: int, end: int) -> tuple[int, Term]:
        """The term's chunks with its bytes `start` to `end`, preceded by the number of bytes before those chunks."""
        content = self._table(term.xorb).content
        base = content[term.start]
        first = bisect.bisect_right(content, base + start) - 1
        last = bisect.bisect_left(content, base + end)
        size = content[last] - content[first]
        return content[first] - base, Term(xorb=term.xorb, start=first, end=last, size=size)

    def _check(self, shard: Shard) -> None:
        xorbs = {*shard.xorbs, *(term.xorb for file in shard.files for term in file.terms)}
        missing = sorted(name for name in xorbs if not self.has_xorb(name))
        if missing:
            raise bad_request(f"The shard names {len(missing)} xorbs that were not uploaded, first {missing[0]}")
        for file in shard.files:
            for term in file.terms:
                content = self._table(term.xorb).content
                if term.end >= len(content) or content[term.end] - content[term.start] != term.size:
                    raise bad_request(f"File {file.hash} names chunks that xorb {term.xorb} does not have")

    def _enter(self, file: XetFile) -> None:
        path = self._file_path(file.hash)
        if not path.is_file():
            atomic.write_json(path, {"size": file.size, "terms": [asdict(term) for term in file.terms]})
        if file.sha256 is not None:
            name = self.folder / "sha256" / file.sha256[:2] / file.sha256
            if not name.is_file():
                atomic.write_json(name, {"hash": file.hash, "size": file.size})

    def _terms(self, name: str) -> list[Term]:
        try:
            entry: Mapping[str, Any] = atomic.read_json(self._file_path(name))
        except FileNotFoundError:
            raise Refused(404, f"No file {name} in this store") from None
        return [Term(**term) for term in entry["terms"]]

    def _read_new_shards(self) -> None:
        folder = self.folder / "shards"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in self._read_shards and len(path.name) == 64:
                self._chunks.update(dict.fromkeys(parse_shard(path.read_bytes()).chunks, path))
                self._read_shards.add(path.name)

    def _load_table(self, name: str) -> ChunkTable:
        data = self._table_path(name).read_bytes()
        rows = struct.unpack(f"<{len(data) // 8}Q", data)
        return ChunkTable(stored=rows[: len(rows) // 2], content=rows[len(rows) // 2 :])

    def _table_path(self, name: str) -> Path:
        return self.folder / "chunks" / name[:2] / name

    def _file_path(self, name: str) -> Path:
        return self.folder / "files" / name[:2] / name
