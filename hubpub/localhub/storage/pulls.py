"""Discussions and pull requests of a repo: one JSON file beside its refs, and a ref `pr/N` for each pull request."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hubpub.localhub.refused import Refused, bad_request
from hubpub.localhub.storage import atomic, changes
from hubpub.localhub.storage.changes import Change, Delete, Put
from hubpub.localhub.storage.git import Commit, stamp
from hubpub.localhub.storage.repository import Repository

Discussion = dict[str, Any]
_OPEN = ("open", "draft")


def listed(repo: Repository) -> list[Discussion]:
    """All discussions, newest first."""
    path = repo.folder / "discussions.json"
    rows = list(atomic.read_json(path)) if path.is_file() else []
    return sorted(rows, key=lambda row: -int(row["num"]))


def get(repo: Repository, num: int) -> Discussion:
    for row in listed(repo):
        if row["num"] == num:
            return row
    raise Refused(404, f"No discussion {num}", code="EntryNotFound")


def start(
    repo: Repository, *, title: str, description: str, author: str, pull_request: bool, base: str = "main"
) -> Discussion:
    """Open a discussion, or a pull request (a draft, as on the Hub) that starts at the head of `base`."""
    if not 3 <= len(title) <= 200:
        raise bad_request("The title must have 3 to 200 characters")
    return _start(repo, title=title, description=description, author=author, pull_request=pull_request, base=base)


def _start(repo: Repository, *, title: str, description: str, author: str, pull_request: bool, base: str) -> Discussion:
    with repo.locked():
        rows = listed(repo)
        numbers = [int(row["num"]) for row in rows] + [int(ref[3:]) for ref in repo.refs() if ref.startswith("pr/")]
        num = max(numbers, default=0) + 1
        row: Discussion = {
            "num": num,
            "title": title,
            "author": author,
            "createdAt": _now(),
            "status": "draft" if pull_request else "open",
            "isPullRequest": pull_request,
            "events": [],
        }
        _add_event(row, "comment", author, {"edited": False, "hidden": False, "latest": {"raw": description}})
        if pull_request:
            head = repo.find(base)
            row |= {"base": base, "start": head.id, "merged": None}
            repo.add_ref(f"pr/{num}", head.id)
        _save(repo, row)
    return row


def start_with_commit(
    repo: Repository,
    steps: Sequence[Change],
    *,
    title: str,
    message: str,
    author: str,
    parent: str | None,
    base: str,
) -> tuple[Discussion, Commit]:
    """Open a pull request with one commit; opens nothing if the commit is refused."""
    with repo.locked():
        row = _start(repo, title=title, description=message, author=author, pull_request=True, base=base)
        try:
            commit = repo.add_commit(
                f"pr/{row['num']}", steps, title=title, message=message, author=author, parent=parent
            )
        except Refused:
            repo.delete_ref(f"pr/{row['num']}")
            _save(repo, row, remove=True)
            raise
        row["status"] = "open"
        _add_event(row, "commit", author, {"subject": title, "oid": commit.id})
        _save(repo, row)
    return row, commit


def comment(repo: Repository, num: int, *, author: str, text: str) -> dict[str, Any]:
    with repo.locked():
        row = get(repo, num)
        event = _add_event(row, "comment", author, {"edited": False, "hidden": False, "latest": {"raw": text}})
        _save(repo, row)
    return event


def change_status(repo: Repository, num: int, *, author: str, status: str) -> dict[str, Any]:
    if status not in ("open", "closed", "draft"):
        raise bad_request("The status must be open, closed or draft")
    with repo.locked():
        row = get(repo, num)
        if row["status"] == "merged":
            raise bad_request("A merged pull request keeps its status")
        row["status"] = status
        event = _add_event(row, "status-change", author, {"status": status})
        _save(repo, row)
    return event


def change_title(repo: Repository, num: int, *, author: str, title: str) -> dict[str, Any]:
    with repo.locked():
        row = get(repo, num)
        event = _add_event(row, "title-change", author, {"from": row["title"], "to": title})
        row["title"] = title
        _save(repo, row)
    return event


def conflicts(repo: Repository, row: Discussion) -> list[str]:
    """Files that both the base branch and the pull request have changed since it was opened."""
    if row["status"] == "merged":
        return []
    base, ours, theirs = (repo.tree(commit) for commit in _sides(repo, row))
    return changes.merge(base, ours, theirs)[1]


def merge(repo: Repository, num: int, *, author: str) -> Commit:
    """Commit the pull request's changes to its base branch, as one commit."""
    with repo.locked():
        row = get(repo, num)
        if not row["isPullRequest"] or row["status"] not in _OPEN:
            raise bad_request("Only an open pull request can be merged")
        begin, head, tip = _sides(repo, row)
        ours = repo.tree(head)
        merged, clashes = changes.merge(repo.tree(begin), ours, repo.tree(tip))
        if clashes:
            raise Refused(409, f"This pull request has conflicts: {', '.join(clashes[:5])}")
        deletes = [Delete(path=path, folder=False) for path in ours if path not in merged]
        puts = [Put(path=path, entry=entry) for path, entry in merged.items() if ours.get(path) != entry]
        title = f"{row['title']} (#{num})"
        commit = repo.add_commit(f"heads/{row['base']}", [*deletes, *puts], title=title, author=author, parent=head.id)
        row["status"], row["merged"] = "merged", commit.id
        _add_event(row, "status-change", author, {"status": "merged"})
        _save(repo, row)
    return commit


def _sides(repo: Repository, row: Discussion) -> tuple[Commit, Commit, Commit]:
    return repo.commit(row["start"]), repo.find(row["base"]), repo.find(f"refs/pr/{row['num']}")


def _add_event(row: Discussion, kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
    event = {"id": secrets.token_hex(12), "type": kind, "createdAt": _now(), "author": {"name": author}, "data": data}
    row["events"].append(event)
    return event


def _save(repo: Repository, row: Discussion, *, remove: bool = False) -> None:
    others = [other for other in listed(repo) if other["num"] != row["num"]]
    atomic.write_json(repo.folder / "discussions.json", others if remove else [*others, row])


def _now() -> str:
    return stamp(datetime.now(UTC))
