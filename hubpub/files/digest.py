"""Digest and FileRef: which content, and which file; of all that is stored, listed, offered or published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from hubpub.files.digests import Digests, sha256

Kind = Literal["sha256", "git"]


@dataclass(frozen=True)
class Digest:
    """What a content is known by: its sha256, or the git blob id that the Hub gives for small files.

    >>> str(Digest.parse("git:0123"))
    'git:0123'
    """

    kind: Kind
    value: str  # hex

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The inverse of str(); ValueError for anything else."""
        kind, colon, value = text.partition(":")
        if not colon or kind not in get_args(Kind):
            raise ValueError(f"{text[:80]!r} is not a digest")
        return cls(kind, value)  # type: ignore[arg-type]  # one of the two

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    @classmethod
    def of_file(cls, path: Path, digests: Digests | None = None) -> Digest:
        """The sha256 of a file; `digests` spares reading an unchanged one."""
        return cls("sha256", digests.of(path) if digests is not None else sha256(path))

    @classmethod
    def of_bytes(cls, data: bytes) -> Digest:
        """The sha256 of `data`."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    def is_of(self, path: Path, digests: Digests | None = None) -> bool:
        """Whether a file has this content; `digests` spares reading an unchanged one for its sha256."""
        if self.kind == "git":
            return git_blob_id(path) == self.value
        return self.of_file(path, digests) == self

    def is_of_bytes(self, data: bytes) -> bool:
        """Whether this is the digest of `data`."""
        if self.kind == "git":
            return hashlib.sha1(_blob_header(len(data)) + data, usedforsecurity=False).hexdigest() == self.value
        return self.of_bytes(data) == self

    def contradicts(self, other: Digest) -> bool:
        """Whether the two cannot be of one content; digests of different kinds do not say."""
        return self.kind == other.kind and self.value != other.value


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A file: its path, in whatever it belongs to, its bytes, and its digest."""

    path: str
    size: int
    digest: Digest

    @property
    def sha256(self) -> str | None:
        """64 hex digits; None where only the git blob id is known."""
        return self.digest.value if self.digest.kind == "sha256" else None

    def is_at(self, place: Path, digests: Digests | None = None) -> bool:
        """Whether a plain file with this size and content is at `place`."""
        if place.is_symlink() or not place.is_file() or place.stat().st_size != self.size:
            return False
        return self.digest.is_of(place, digests)

    def contradicts(self, other: FileRef) -> bool:
        """Whether the two cannot have one content, whatever their paths are."""
        return self.size != other.size or self.digest.contradicts(other.digest)

    def to_entry(self) -> dict[str, Any]:
        """The file in a manifest, and in an entry of the store: `path`, `size`, `sha256`."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256}

    @staticmethod
    def from_entry(entry: Mapping[str, Any]) -> FileRef:
        """The inverse of to_entry."""
        return FileRef(path=entry["path"], size=entry["size"], digest=Digest("sha256", entry["sha256"]))

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "digest": str(self.digest)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of to_json; KeyError, TypeError or ValueError for anything else."""
        return cls(path=data["path"], size=data["size"], digest=Digest.parse(data["digest"]))


def git_blob_id(path: Path) -> str:
    """git's id of a file's content, 40 hex digits: what the Hub gives for small files."""
    digest = hashlib.sha1(_blob_header(path.stat().st_size), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _blob_header(size: int) -> bytes:
    return b"blob %d\0" % size
