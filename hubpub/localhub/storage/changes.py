"""Applies the operations of a commit to a tree. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hubpub.localhub.refused import bad_request, entry_not_found
from hubpub.localhub.storage import attributes
from hubpub.localhub.storage.git import Entry, Tree

ATTRIBUTES = ".gitattributes"


@dataclass(frozen=True, kw_only=True)
class Put:
    path: str
    entry: Entry


@dataclass(frozen=True, kw_only=True)
class Delete:
    """`folder`: delete everything below the path."""

    path: str
    folder: bool


Change = Put | Delete


def check_path(path: object) -> str:
    """The path, if it is relative, normalized and stays inside the folder that a repo is downloaded into."""
    if not isinstance(path, str) or not path:
        raise bad_request("A path in the repo is missing")
    parts = path.split("/")
    if len(path.encode()) > 4096 or any(len(part.encode()) > 255 for part in parts):
        raise bad_request(f"The path is too long: {path[:80]}…")
    if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or "\\" in path:
        raise bad_request(f"Not a path in a repo: {path}")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise bad_request("A path in the repo contains control characters")
    return path


def apply(tree: Tree, changes: Iterable[Change]) -> dict[str, Entry]:
    """The tree after the changes, in their order."""
    result = dict(tree)
    for change in changes:
        if isinstance(change, Put):
            result[change.path] = change.entry
        elif change.folder:
            below = [path for path in result if path.startswith(change.path.rstrip("/") + "/")]
            if not below:
                raise entry_not_found(change.path)
            for path in below:
                del result[path]
        else:
            if change.path not in result:
                raise entry_not_found(f"A file with this name doesn't exist: {change.path}")
            del result[change.path]
    _check_folders(result)
    return result


def untracked(tree: Tree, gitattributes: str) -> list[str]:
    """Large files of the tree that no line of .gitattributes matches; the Hub adds a line for each."""
    return sorted(path for path, entry in tree.items() if entry.sha256 and not attributes.tracked(path, gitattributes))


def merge(base: Tree, ours: Tree, theirs: Tree) -> tuple[dict[str, Entry], list[str]]:
    """A three-way merge: the merged tree, and the paths that `ours` and `theirs` changed differently since `base`."""
    merged, conflicts = dict(ours), []
    for path in sorted(base.keys() | theirs.keys()):
        new = theirs.get(path)
        if new == base.get(path) or new == ours.get(path):
            continue
        if ours.get(path) != base.get(path):
            conflicts.append(path)
        elif new is None:
            merged.pop(path, None)
        else:
            merged[path] = new
    return merged, conflicts


def _check_folders(tree: Tree) -> None:
    for path in tree:
        parent = path.rpartition("/")[0]
        while parent:
            if parent in tree:
                raise bad_request(f"{parent} cannot be a file and a folder")
            parent = parent.rpartition("/")[0]
