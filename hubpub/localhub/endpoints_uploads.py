"""Endpoints that take files in: preupload, git-LFS uploads, and the commit that makes them part of a repo."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.responses import JSONResponse, Response

from hubpub.localhub import atomic, attributes, git, pulls
from hubpub.localhub.call import Call, Route
from hubpub.localhub.changes import ATTRIBUTES, Change, Delete, Put, check_path
from hubpub.localhub.git import Tree
from hubpub.localhub.refused import Refused, bad_request, revision_not_found
from hubpub.localhub.repository import Repository

_SHA256 = re.compile(r"[0-9a-f]{64}")


def preupload(call: Call) -> Response:
    """Which files are large, which are ignored, and what the repo holds at their paths now."""
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


def lfs_batch(call: Call) -> Response:
    """Where to send large files; without `actions` where the content is here already."""
    repo = call.writable()
    body = call.json()
    objects = body.get("objects")
    if (
        body.get("operation") != "upload"
        or not isinstance(objects, list)
        or body.get("hash_algo", "sha256") != "sha256"
    ):
        raise bad_request("This Hub takes uploads named by sha256; files are downloaded from their /resolve/ address")
    multipart = "multipart" in body.get("transfers", [])
    rows = [_upload_actions(call, repo, row, multipart=multipart) for row in objects]
    transfer = "multipart" if any("chunk_size" in _header(row) for row in rows) else "basic"
    return JSONResponse({"transfer": transfer, "objects": rows}, media_type="application/vnd.git-lfs+json")


def lfs_put(call: Call) -> Response:
    """A large file in one piece; the link is signed."""
    oid, size = _announced(call, "put")
    upload = call.upload
    assert upload is not None
    call.hub.storage.objects.add_lfs(upload.path, upload.file, sha256=upload.sha256, expected=oid, size=size)
    return Response(status_code=200, headers={"ETag": f'"{oid}"'})


def lfs_put_part(call: Call) -> Response:
    """One part of a large file."""
    oid, size = _announced(call, "part", call.params["number"])
    number, part = int(call.params["number"]), call.hub.limits.part
    expected = min(part, size - (number - 1) * part)
    upload = call.upload
    assert upload is not None
    if upload.size != expected:
        raise bad_request(f"Part {number} must have {expected} bytes; got {upload.size}")
    atomic.publish(upload.file, upload.path, _part(call, oid, number))
    return Response(status_code=200, headers={"ETag": f'"{upload.sha256}"'})


def lfs_complete(call: Call) -> Response:
    """Put the parts together; they must be the ones that were sent."""
    oid, size = _announced(call, "complete")
    parts = call.json().get("parts")
    count = -(-size // call.hub.limits.part)
    if not isinstance(parts, list) or [row.get("partNumber") for row in parts] != list(range(1, count + 1)):
        raise bad_request(f"The upload has {count} parts")
    paths = [_part(call, oid, number) for number in range(1, count + 1)]
    for path, row in zip(paths, parts, strict=True):
        if not path.is_file() or _digest(path) != str(row.get("etag")).strip('"'):
            raise bad_request(f"Part {row['partNumber']} is not the one that was announced")
    call.hub.storage.objects.join(paths, sha256=oid, size=size)
    shutil.rmtree(paths[0].parent, ignore_errors=True)
    return JSONResponse({})


def lfs_verify(call: Call) -> Response:
    call.writable()
    oid, size = _named(call.json())
    if call.hub.storage.objects.size(oid) != size:
        raise Refused(404, f"Object {oid} with {size} bytes is not here")
    return JSONResponse({})


def commit(call: Call) -> Response:
    """One commit out of a stream of operations; with create_pr, on a new pull request."""
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
        pull, made = pulls.start_with_commit(
            repo, steps, title=title, message=message, author=call.author, parent=parent, base=revision
        )
        reply["pullRequestUrl"] = f"{call.web_url(repo)}/discussions/{pull['num']}"
    else:
        made = repo.add_commit(ref, steps, title=title, message=message, author=call.author, parent=parent)
    return JSONResponse({**reply, "commitOid": made.id, "commitUrl": f"{call.web_url(repo)}/commit/{made.id}"})


def _ref(revision: str) -> str:
    """The ref that a commit may be put on: a branch or a pull request."""
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


def _upload_actions(call: Call, repo: Repository, row: Any, *, multipart: bool) -> dict[str, Any]:
    oid, size = _named(row)
    reply: dict[str, Any] = {"oid": oid, "size": size}
    if size > call.hub.limits.object:
        return {**reply, "error": {"code": 413, "message": f"Larger than {call.hub.limits.object} bytes"}}
    if call.hub.storage.objects.size(oid) == size:
        return reply
    prefix = "" if repo.repo_type == "model" else f"{repo.repo_type}s/"
    verify = {"href": f"{call.hub.endpoint}/{prefix}{repo.repo_id}.git/info/lfs/verify"}
    if not multipart or size <= call.hub.limits.multipart_above:
        upload: dict[str, Any] = {"href": _link(call, "put", oid, size)}
    else:
        count = -(-size // call.hub.limits.part)
        header = {str(number): _link(call, "part", oid, size, number) for number in range(1, count + 1)}
        upload = {
            "href": _link(call, "complete", oid, size),
            "header": {"chunk_size": str(call.hub.limits.part), **header},
        }
    return {**reply, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def _header(row: dict[str, Any]) -> dict[str, Any]:
    upload = row.get("actions", {}).get("upload", {})
    return dict(upload.get("header", {}))


def _link(call: Call, kind: str, oid: str, size: int, number: int | None = None) -> str:
    tail = f"/{number}" if number is not None else ""
    parts = [kind, oid, size, *([number] if number is not None else [])]
    return f"{call.hub.endpoint}/lfs/{kind}/{oid}{tail}?{urlencode({'size': size})}&{call.hub.signed_query(*parts)}"


def _announced(call: Call, kind: str, *more: object) -> tuple[str, int]:
    """The digest and size that the signed link was made for."""
    oid, size = call.params["oid"], call.query.get("size", "")
    call.signed(kind, oid, size, *more)
    return oid, int(size)


def _named(row: Any) -> tuple[str, int]:
    oid, size = (row.get("oid"), row.get("size")) if isinstance(row, dict) else (None, None)
    if not isinstance(oid, str) or not _SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
        raise bad_request("A large file is named by its sha256 and its size")
    return oid, size


def _part(call: Call, oid: str, number: int) -> Path:
    return call.hub.storage.root / "parts" / oid / str(number)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _operations(call: Call, repo: Repository, path: Path) -> tuple[dict[str, Any], list[Change]]:
    """The header and the operations of a commit, one JSON object a line; small files are stored on the way."""
    header: dict[str, Any] | None = None
    steps: list[Change] = []
    for key, value in _lines(path, call.hub.limits.small_file * 2):
        if key == "header":
            header = value
        elif header is None:
            raise bad_request("The first line of a commit must be its header")
        else:
            steps.append(_change(call, repo, key, value))
    if header is None:
        raise bad_request("The commit has no header")
    return header, steps


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
            raise bad_request(f"This Hub does not know the operation {key}")


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
    """A file that must be here already; a copy of another one comes without its size."""
    oid, size = value.get("oid"), value.get("size")
    if value.get("algo", "sha256") != "sha256" or not isinstance(oid, str) or not _SHA256.fullmatch(oid):
        raise bad_request(f"{value.get('path')} is not named by a sha256")
    actual = repo.objects.size(oid)
    if actual is None or size not in (None, actual):
        raise bad_request(f"{value.get('path')}: large file {oid} was not uploaded")
    return Put(path=check_path(value.get("path")), entry=git.lfs_entry(oid, actual))


_REPO = "/api/{types}/{ns}/{name}"
_POST, _PUT = ("POST",), ("PUT",)
ROUTES: tuple[Route, ...] = (
    Route(methods=_POST, pattern=f"{_REPO}/preupload/{{rev}}", handler=preupload, body="memory"),
    Route(
        methods=_POST,
        pattern=f"{_REPO}/commit/{{rev}}",
        handler=commit,
        body="disk",
        limit=lambda limits: limits.commit,
    ),
    *(
        route
        for prefix in ("", "/{types}")
        for route in (
            Route(
                methods=_POST,
                pattern=prefix + "/{ns}/{name}.git/info/lfs/objects/batch",
                handler=lfs_batch,
                body="memory",
            ),
            Route(
                methods=_POST, pattern=prefix + "/{ns}/{name}.git/info/lfs/verify", handler=lfs_verify, body="memory"
            ),
        )
    ),
    Route(methods=_PUT, pattern="/lfs/put/{oid}", handler=lfs_put, body="disk", limit=lambda limits: limits.object),
    Route(
        methods=_PUT,
        pattern="/lfs/part/{oid}/{number}",
        handler=lfs_put_part,
        body="disk",
        limit=lambda limits: limits.part,
    ),
    Route(methods=_POST, pattern="/lfs/complete/{oid}", handler=lfs_complete, body="memory"),
)
