"""One repo on disk: immutable commits and trees, and one file with its refs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from hubpub.localhub.refused import Refused, bad_request, revision_not_found
from hubpub.localhub.storage import atomic, attributes, changes, git
from hubpub.localhub.storage.changes import ATTRIBUTES, Change
from hubpub.localhub.storage.git import Commit, Entry, Tree
from hubpub.localhub.storage.objects import Objects

_ID = re.compile(r"[0-9a-f]{40}")
_LOCK_SECONDS = 60


class Repository:
    """A repo. Refs are `heads/…`, `tags/…` and `pr/…`. Every write holds the repo's lock and ends with one rename."""

    def __init__(self, *, folder: Path, repo_type: str, repo_id: str, objects: Objects) -> None:
        self.folder = folder
        self.repo_type = repo_type
        self.repo_id = repo_id
        self.objects = objects
        self._lock = FileLock(folder / "lock", timeout=_LOCK_SECONDS)  # reentrant within a thread

    @property
    def settings(self) -> dict[str, Any]:
        """`private` (bool), `gated` (False, "auto", "manual"), `granted` (users with access), `created` (date)."""
        return dict(atomic.read_json(self.folder / "settings.json"))

    def change_settings(self, **values: Any) -> None:
        with self.locked():
            atomic.write_json(self.folder / "settings.json", {**self.settings, **values})

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the repo's lock: one writer at a time, across threads and processes."""
        with self._lock:
            yield

    def refs(self) -> dict[str, str]:
        return dict(atomic.read_json(self.folder / "refs.json"))

    def find(self, revision: str) -> Commit:
        """The commit of a branch, tag, `refs/…` name or full commit id; 404 if there is none."""
        refs = self.refs()
        plain = revision.removeprefix("refs/") if revision.startswith("refs/") else None
        names = [plain] if plain else [f"heads/{revision}", f"tags/{revision}"]
        for name in names:
            if name in refs:
                return self.commit(refs[name])
        if _ID.fullmatch(revision) and self._commit_path(revision).is_file():
            return self.commit(revision)
        raise revision_not_found(revision)

    def commit(self, commit_id: str) -> Commit:
        row = atomic.read_json(self._commit_path(commit_id))
        return Commit(
            id=commit_id,
            tree=row["tree"],
            parents=tuple(row["parents"]),
            author=row["author"],
            date=datetime.fromisoformat(row["date"]),
            title=row["title"],
            message=row["message"],
        )

    def tree(self, commit: Commit) -> Tree:
        return _load_tree(self._tree_path(commit.tree))

    def text(self, tree: Tree, path: str) -> str:
        """The text of a small file of the tree; '' if it is missing."""
        entry = tree.get(path)
        if entry is None or entry.sha256 is not None:
            return ""
        return self.objects.blob_path(entry.oid).read_bytes().decode(errors="replace")

    def log(self, commit: Commit) -> Iterator[Commit]:
        """The commit and its first parents, newest first."""
        yield commit
        while commit.parents:
            commit = self.commit(commit.parents[0])
            yield commit

    def add_commit(
        self,
        ref: str,
        steps: Sequence[Change],
        *,
        title: str,
        message: str = "",
        author: str,
        parent: str | None = None,
    ) -> Commit:
        """Add a commit to `ref`. `parent`: refuse with 412 unless it is the ref's head."""
        with self.locked():
            refs = self.refs()
            if ref not in refs:
                raise revision_not_found(ref.partition("/")[2])
            head = self.commit(refs[ref])
            if parent is not None and parent != head.id:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            tree = self._with_attributes(changes.apply(self.tree(head), steps))
            commit = self._write(tree, parents=(head.id,), title=title, message=message, author=author)
            self._write_refs({**refs, ref: commit.id})
        return commit

    def first_commit(self, tree: Tree, *, title: str, author: str) -> Commit:
        """Add the first commit of a new repo, on main."""
        commit = self._write(tree, parents=(), title=title, message="", author=author)
        self._write_refs({"heads/main": commit.id})
        return commit

    def squash(self, branch: str, *, title: str, author: str) -> Commit:
        """Replace the branch's history with one commit of its files."""
        with self.locked():
            refs = self.refs()
            if f"heads/{branch}" not in refs:
                raise revision_not_found(branch)
            tree = self.tree(self.commit(refs[f"heads/{branch}"]))
            commit = self._write(tree, parents=(), title=title, message="", author=author)
            self._write_refs({**refs, f"heads/{branch}": commit.id})
        return commit

    def add_ref(self, name: str, commit_id: str) -> None:
        """Create a branch or tag; 409 if it exists."""
        check_ref_name(name.partition("/")[2])
        with self.locked():
            refs = self.refs()
            if name in refs:
                raise Refused(409, f"Reference already exists: refs/{name}")
            self._write_refs({**refs, name: commit_id})

    def delete_ref(self, name: str) -> None:
        if name == "heads/main":
            raise Refused(403, "The default branch cannot be deleted")
        with self.locked():
            refs = self.refs()
            if refs.pop(name, None) is None:
                raise revision_not_found(name.partition("/")[2])
            self._write_refs(refs)

    def last_commits(self, commit: Commit, paths: Sequence[str]) -> dict[str, Commit]:
        """For each path (file or folder), the newest commit that changed it."""
        newest: dict[str, Commit] = {}
        state = _digests(self.tree(commit), paths)
        for older in self.log(commit):
            before = _digests(self.tree(self.commit(older.parents[0])), paths) if older.parents else {}
            for path in paths:
                if path not in newest and state.get(path) != before.get(path):
                    newest[path] = older
            if len(newest) == len(paths):
                break
            state = before
        return newest

    def _with_attributes(self, tree: dict[str, Entry]) -> dict[str, Entry]:
        text = self.text(tree, ATTRIBUTES)
        missing = changes.untracked(tree, text)
        if not missing:
            return tree
        for path in missing:
            text = attributes.track(path, text)
        return {**tree, ATTRIBUTES: self.objects.add_blob(text.encode())}

    def _write(self, tree: Tree, *, parents: tuple[str, ...], title: str, message: str, author: str) -> Commit:
        root = git.tree_ids(tree)[""]
        date = datetime.now(UTC).replace(microsecond=0)
        row = {"tree": root, "parents": parents, "author": author, "title": title, "message": message}
        commit_id = git.commit_id(tree=root, parents=parents, author=author, date=date, title=title, message=message)
        if not self._tree_path(root).is_file():
            atomic.write_json(self._tree_path(root), {path: asdict(entry) for path, entry in tree.items()})
        atomic.write_json(self._commit_path(commit_id), {**row, "date": date.isoformat()})
        return self.commit(commit_id)

    def _write_refs(self, refs: Mapping[str, str]) -> None:
        atomic.write_json(self.folder / "refs.json", dict(refs))

    def _commit_path(self, commit_id: str) -> Path:
        return self.folder / "commits" / commit_id

    def _tree_path(self, tree_id: str) -> Path:
        return self.folder / "trees" / tree_id


def check_ref_name(name: str) -> None:
    """Refuse invalid branch and tag names: the rules of git-check-ref-format that matter for this storage."""
    parts = name.split("/")
    bad = re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{", name) or name in ("", "@") or name.startswith(("-", "refs/"))
    if bad or any(not part or part.startswith(".") or part.endswith((".", ".lock")) for part in parts):
        raise bad_request(f"Not a valid reference name: {name!r}")
    if _ID.fullmatch(name) or len(name) > 200:
        raise bad_request(f"Not a valid reference name: {name!r}")


@lru_cache(maxsize=64)
def _load_tree(path: Path) -> Tree:
    return {name: Entry(**row) for name, row in atomic.read_json(path).items()}


def _digests(tree: Tree, paths: Sequence[str]) -> dict[str, str]:
    """Path → id, for the paths that the tree has; a folder's id is its tree id."""
    ids = git.tree_ids(tree)
    return {path: tree[path].oid if path in tree else ids[path] for path in paths if path in tree or path in ids}
