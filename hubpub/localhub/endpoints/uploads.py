"""Endpoints that receive files: preupload, and commit."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from hubpub.localhub.call import Call, Route
from hubpub.localhub.refused import Refused, bad_request, revision_not_found
from hubpub.localhub.storage import atomic, attributes, git, pulls
from hubpub.localhub.storage.changes import ATTRIBUTES, Change, Delete, Put, check_path
from hubpub.localhub.storage.git import Tree
from hubpub.localhub.storage.repository import Repository

_SHA256 = re.compile(r"[0-9a-f]{64}")


def preupload(call: Call) -> Response:
    """For each file: whether it is large, whether .gitignore excludes it, and the current file at its path."""
    repo = call.writable()
    body = call.json()
    tree = repo.tree(repo.find(call.params["rev"]))
    gitattributes = repo.text(tree, ATTRIBUTES)
    gitignore = body.get("gitIgnore")
    gitignore = gitignore if isinstance(gitignore, str) else repo.text(tree, ".gitignore")
    files = body.get("files")
    if not isinstance(files, list) or len(files) > 1000:
        raise bad_request('"files" must be a list of at most 1000 files')
    return JSONResponse({"files": [_mode(file, tree, gitattributes, gitignore) for file in files]})


def commit(call: Call) -> Response:
    """One commit from a stream of operations; with create_pr, on a new pull request."""
    repo = call.writable()
    revision = call.params["rev"]
    ref = _ref(revision)
    assert call.upload is not None
    header, steps = _operations(call, repo, call.upload.path)
    title = str(header.get("summary") or "Commit")
    message = str(header.get("description") or "")
    parent = header.get("parentCommit")
    if parent is not None and not isinstance(parent, str):
        raise bad_request('"parentCommit" must be a commit id')
    reply: dict[str, Any] = {"success": True}
    if call.flag("create_pr"):
        pull, new_commit = pulls.start_with_commit(
            repo, steps, title=title, message=message, author=call.author, parent=parent, base=revision
        )
        reply["pullRequestUrl"] = f"{call.web_url(repo)}/discussions/{pull['num']}"
    else:
        new_commit = repo.add_commit(ref, steps, title=title, message=message, author=call.author, parent=parent)
    return JSONResponse(
        {**reply, "commitOid": new_commit.id, "commitUrl": f"{call.web_url(repo)}/commit/{new_commit.id}"}
    )


def duplicate(call: Call) -> Response:
    """Copy large files from one repo to another. Repos share contents, so this only checks that they exist."""
    repo = call.downloadable()
    body = call.json()
    target = body.get("target")
    if not isinstance(target, dict) or not isinstance(body.get("files"), list):
        raise bad_request('A copy needs a "target" and "files"')
    call.may_write(str(target.get("name")).partition("/")[0])
    rows = [row if isinstance(row, dict) else {} for row in body["files"]]
    missing = [str(row.get("sha256")) for row in rows if not _is_here(repo, row.get("sha256"))]
    return JSONResponse({"failed": [{"sha256": sha256, "error": "This Hub does not have it"} for sha256 in missing]})


def _is_here(repo: Repository, sha256: Any) -> bool:
    named = isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None
    return named and repo.objects.size(sha256) is not None


def _ref(revision: str) -> str:
    """The ref of a branch or pull request; refuses other revisions, which cannot get commits."""
    if revision.startswith("refs/pr/") or revision.startswith("refs/heads/"):
        return revision.removeprefix("refs/")
    if revision.startswith("refs/"):
        raise revision_not_found(revision)
    return f"heads/{revision}"


def _mode(file: Any, tree: Tree, gitattributes: str, gitignore: str) -> dict[str, Any]:
    try:
        path, size = check_path(file["path"]), int(file["size"])
        sample = base64.b64decode(file.get("sample", ""))
    except (TypeError, KeyError, ValueError):
        raise bad_request('Each of "files" needs a path, a size and a sample') from None
    large = attributes.is_large(path, size=size, sample=sample, attributes=gitattributes)
    now = tree.get(path)
    return {
        "path": path,
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": attributes.ignored(path, gitignore),
        "oid": now.digest if now else None,
    }


def _operations(call: Call, repo: Repository, path: Path) -> tuple[dict[str, Any], list[Change]]:
    """The header and the operations of a commit (one JSON object per line); stores small files."""
    lines = _lines(path, call.hub.limits.small_file * 2)
    key, header = next(lines, ("", {}))
    if key != "header":
        raise bad_request("The first line of a commit must be its header")
    return header, list(atomic.in_parallel(lambda line: _change(call, repo, *line), lines))


def _lines(path: Path, longest: int) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        while line := file.readline(longest + 1):
            if len(line) > longest:
                raise Refused(413, "A line of the commit is too long: send large files by LFS or xet")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                key, value = row["key"], row["value"]
            except (ValueError, KeyError, TypeError):
                raise bad_request("A line of the commit is not a JSON object with key and value") from None
            if not isinstance(value, dict):
                raise bad_request(f"The value of {key} is not an object")
            yield str(key), value


def _change(call: Call, repo: Repository, key: str, value: dict[str, Any]) -> Change:
    match key:
        case "file":
            return Put(path=check_path(value.get("path")), entry=repo.objects.add_blob(_content(call, value)))
        case "lfsFile":
            return _put_large(repo, value)
        case "deletedFile" | "deletedEntry":
            return Delete(path=check_path(value.get("path")), folder=False)
        case "deletedFolder":
            return Delete(path=check_path(str(value.get("path")).rstrip("/")), folder=True)
        case _:
            raise bad_request(f"Unknown operation: {key}")


def _content(call: Call, value: dict[str, Any]) -> bytes:
    content = value.get("content")
    if not isinstance(content, str):
        raise bad_request(f"{value.get('path')} has no content")
    if value.get("encoding", "utf-8") != "base64":
        return content.encode()
    try:
        data = base64.b64decode(content, validate=True)
    except binascii.Error:
        raise bad_request(f"The content of {value.get('path')} is not base64") from None
    if len(data) > call.hub.limits.small_file:
        raise bad_request(f"{value.get('path')} is too large for plain git: send it by LFS or xet")
    return data


def _put_large(repo: Repository, value: dict[str, Any]) -> Put:
    """A large file, whose content must exist already; its size is missing if it is a copy."""
    oid, size = value.get("oid"), value.get("size")
    if value.get("algo", "sha256") != "sha256" or not isinstance(oid, str) or not _SHA256.fullmatch(oid):
        raise bad_request(f"{value.get('path')} has no sha256")
    actual = repo.objects.size(oid)
    if actual is None or size not in (None, actual):
        raise bad_request(f"{value.get('path')}: large file {oid} was not uploaded")
    return Put(path=check_path(value.get("path")), entry=git.lfs_entry(oid, actual))


_REPO = "/api/{types}/{ns}/{name}"
ROUTES: tuple[Route, ...] = (
    Route(methods=("POST",), pattern=f"{_REPO}/preupload/{{rev}}", handler=preupload, body="memory"),
    Route(methods=("POST",), pattern=f"{_REPO}/lfs-files/duplicate", handler=duplicate, body="memory"),
    Route(
        methods=("POST",),
        pattern=f"{_REPO}/commit/{{rev}}",
        handler=commit,
        body="disk",
        limit=lambda limits: limits.commit,
    ),
)
