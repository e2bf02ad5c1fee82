"""Endpoints for discussions and pull requests."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from hubpub.localhub.call import Call, Route
from hubpub.localhub.refused import bad_request
from hubpub.localhub.storage import pulls
from hubpub.localhub.storage.pulls import Discussion
from hubpub.localhub.storage.repository import Repository
from hubpub.localhub.views import page

_PER_PAGE = 50


def listing(call: Call) -> Response:
    repo = call.readable()
    only_pulls = {"pull_request": True, "discussion": False}.get(call.query.get("type", ""))
    rows = [row for row in pulls.listed(repo) if only_pulls is None or row["isPullRequest"] is only_pulls]
    status = call.query.get("status")
    if status in ("open", "closed"):
        rows = [row for row in rows if (row["status"] in ("open", "draft")) is (status == "open")]
    author = call.query.get("author")
    rows = [row for row in rows if author in (None, row["author"])]
    at = call.query.get("p", "0")
    start = int(at) * _PER_PAGE if at.isdigit() else 0
    shown, _ = page(rows, start, _PER_PAGE)
    return JSONResponse({"discussions": [_row(repo, row) for row in shown], "count": len(rows), "start": start})


def create(call: Call) -> Response:
    repo = call.writable()
    body = call.json()
    row = pulls.start(
        repo,
        title=str(body.get("title") or ""),
        description=str(body.get("description") or ""),
        author=call.author,
        pull_request=bool(body.get("pullRequest")),
    )
    return JSONResponse({"num": row["num"], "url": f"{call.web_url(repo)}/discussions/{row['num']}"})


def details(call: Call) -> Response:
    repo = call.readable()
    row = pulls.get(repo, _num(call))
    reply = {**_row(repo, row), "events": row["events"]}
    if row["isPullRequest"]:
        reply |= {
            "changes": {"base": f"refs/heads/{row['base']}", "mergeCommitId": row["merged"]},
            "filesWithConflicts": pulls.conflicts(repo, row),
        }
    return JSONResponse(reply)


def merge(call: Call) -> Response:
    commit = pulls.merge(call.writable(), _num(call), author=call.author)
    return JSONResponse({"commitOid": commit.id})


def comment(call: Call) -> Response:
    event = pulls.comment(call.writable(), _num(call), author=call.author, text=str(call.json().get("comment") or ""))
    return JSONResponse({"newMessage": event})


def status(call: Call) -> Response:
    event = pulls.change_status(call.writable(), _num(call), author=call.author, status=str(call.json().get("status")))
    return JSONResponse({"newStatus": event})


def title(call: Call) -> Response:
    event = pulls.change_title(
        call.writable(), _num(call), author=call.author, title=str(call.json().get("title") or "")
    )
    return JSONResponse({"newTitle": event})


def _num(call: Call) -> int:
    if not call.params["num"].isdigit():
        raise bad_request("A discussion has a number")
    return int(call.params["num"])


def _row(repo: Repository, row: Discussion) -> dict[str, Any]:
    return {
        "num": row["num"],
        "title": row["title"],
        "author": {"name": row["author"]},
        "createdAt": row["createdAt"],
        "status": row["status"],
        "isPullRequest": row["isPullRequest"],
        "repo": {"name": repo.repo_id, "type": repo.repo_type},
    }


_ALL = "/api/{types}/{ns}/{name}/discussions"
_ONE = f"{_ALL}/{{num}}"
ROUTES: tuple[Route, ...] = (
    Route(methods=("GET",), pattern=_ALL, handler=listing),
    Route(methods=("POST",), pattern=_ALL, handler=create, body="memory"),
    Route(methods=("GET",), pattern=_ONE, handler=details),
    Route(methods=("POST",), pattern=f"{_ONE}/merge", handler=merge, body="memory"),
    Route(methods=("POST",), pattern=f"{_ONE}/comment", handler=comment, body="memory"),
    Route(methods=("POST",), pattern=f"{_ONE}/status", handler=status, body="memory"),
    Route(methods=("POST",), pattern=f"{_ONE}/title", handler=title, body="memory"),
)
