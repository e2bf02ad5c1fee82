"""git's ids of files, trees and commits, which clients of the Hub can verify.

Formats: gitformat-tree and gitformat-commit of git's documentation; the pointer text: git-lfs specification, v1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a tree. `oid` is git's blob id; if `sha256` is set, the blob is an LFS pointer to that object."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def digest(self) -> str:
        """The file's oid and ETag on the Hub: sha256 of a large file, the blob id of a small one."""
        return self.sha256 or self.oid


Tree = Mapping[str, Entry]  # path in the repo → file


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One immutable state of a repo; `date` is UTC, in whole seconds."""

    id: str
    tree: str
    parents: tuple[str, ...]
    author: str
    date: datetime
    title: str
    message: str


def stamp(moment: datetime) -> str:
    """A time (UTC) in the Hub's format: ISO 8601 with milliseconds and Z."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def blob_id(data: bytes) -> str:
    return _object_id(b"blob", data)


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_entry(sha256: str, size: int) -> Entry:
    return Entry(oid=blob_id(pointer(sha256, size)), size=size, sha256=sha256)


def tree_ids(tree: Tree) -> dict[str, str]:
    """Folder path → tree id, for every folder; the root is ''."""
    children: dict[str, dict[str, tuple[bytes, str]]] = {"": {}}
    for path, entry in tree.items():
        parent, _, name = path.rpartition("/")
        _folder(children, parent)[name] = (b"100644", entry.oid)
    ids: dict[str, str] = {}
    for path in sorted(children, key=lambda folder: folder.count("/") if folder else -1, reverse=True):
        ids[path] = _tree_id(children[path])
        if path:
            parent, _, name = path.rpartition("/")
            children[parent][name] = (b"40000", ids[path])
    return ids


def commit_id(*, tree: str, parents: Sequence[str], author: str, date: datetime, title: str, message: str) -> str:
    """git's id of the commit object with these fields."""
    stamp = f"{author} <{author}@localhost> {int(date.timestamp())} +0000"
    lines = [
        f"tree {tree}",
        *(f"parent {parent}" for parent in parents),
        f"author {stamp}",
        f"committer {stamp}",
        "",
        title,
    ]
    if message:
        lines += ["", message]
    return _object_id(b"commit", ("\n".join(lines) + "\n").encode())


def _folder(children: dict[str, dict[str, tuple[bytes, str]]], path: str) -> dict[str, tuple[bytes, str]]:
    """The folder's children; creates the folder and its parents."""
    if path not in children:
        children[path] = {}
        if path:
            _folder(children, path.rpartition("/")[0])
    return children[path]


def _tree_id(children: Mapping[str, tuple[bytes, str]]) -> str:
    # git sorts folders as if their names ended in a slash
    names = sorted(children, key=lambda name: name.encode() + (b"/" if children[name][0] == b"40000" else b""))
    rows = (children[name][0] + b" " + name.encode() + b"\0" + bytes.fromhex(children[name][1]) for name in names)
    return _object_id(b"tree", b"".join(rows))


def _object_id(kind: bytes, data: bytes) -> str:
    return hashlib.sha1(b"%s %d\0" % (kind, len(data)) + data, usedforsecurity=False).hexdigest()
