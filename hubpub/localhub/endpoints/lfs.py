"""Endpoints for large files without xet: git-LFS uploads, whole or in parts.

Source: the git-LFS batch API, and the multipart transfer of huggingface_hub's lfs.py.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from hubpub.localhub.call import Call, Route
from hubpub.localhub.refused import Refused, bad_request
from hubpub.localhub.storage import atomic
from hubpub.localhub.storage.repository import Repository

_SHA256 = re.compile(r"[0-9a-f]{64}")


def batch(call: Call) -> Response:
    """Upload addresses for large files; a row without `actions` means that the content exists already."""
    repo = call.writable()
    body = call.json()
    objects = body.get("objects")
    if (
        body.get("operation") != "upload"
        or not isinstance(objects, list)
        or body.get("hash_algo", "sha256") != "sha256"
    ):
        raise bad_request("This endpoint accepts uploads with sha256 only; download files from their /resolve/ address")
    multipart = "multipart" in body.get("transfers", [])
    rows = [_upload_actions(call, repo, row, multipart=multipart) for row in objects]
    transfer = "multipart" if any("chunk_size" in _header(row) for row in rows) else "basic"
    return JSONResponse({"transfer": transfer, "objects": rows}, media_type="application/vnd.git-lfs+json")


def put(call: Call) -> Response:
    """Receive a large file in one request, through a signed link."""
    oid, size = _announced(call, "put")
    upload = call.upload
    assert upload is not None
    call.hub.storage.objects.add_lfs(upload.path, upload.file, sha256=upload.sha256, expected=oid, size=size)
    return Response(status_code=200, headers={"ETag": f'"{oid}"'})


def put_part(call: Call) -> Response:
    """Receive one part of a large file."""
    _, size = _announced(call, "part", call.params["id"], call.params["number"])
    number, part = int(call.params["number"]), call.hub.limits.part
    expected = min(part, size - (number - 1) * part)
    upload = call.upload
    assert upload is not None
    if upload.size != expected:
        raise bad_request(f"Part {number} must have {expected} bytes; got {upload.size}")
    atomic.publish(upload.file, upload.path, _part(call, number))
    return Response(status_code=200, headers={"ETag": f'"{upload.sha256}"'})


def complete(call: Call) -> Response:
    """Join the parts of an upload; refuses if their digests differ from the received parts."""
    oid, size = _announced(call, "complete", call.params["id"])
    parts = call.json().get("parts")
    count = -(-size // call.hub.limits.part)
    if not isinstance(parts, list) or [row.get("partNumber") for row in parts] != list(range(1, count + 1)):
        raise bad_request(f"The upload has {count} parts")
    paths = [_part(call, number) for number in range(1, count + 1)]
    if call.hub.storage.objects.size(oid) == size:
        return _completed(paths[0].parent)  # the client repeats this request if the response was lost
    for path, row in zip(paths, parts, strict=True):
        if not path.is_file() or _digest(path) != str(row.get("etag")).strip('"'):
            raise bad_request(f"Part {row['partNumber']} differs from the part that was uploaded")
    call.hub.storage.objects.join(paths, sha256=oid, size=size)
    return _completed(paths[0].parent)


def verify(call: Call) -> Response:
    call.writable()
    oid, size = _named(call.json())
    if call.hub.storage.objects.size(oid) != size:
        raise Refused(404, f"There is no object {oid} with {size} bytes")
    return JSONResponse({})


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
        upload_id = secrets.token_hex(16)  # two uploads of the same file at the same time stay apart
        parts = {str(number): _link(call, "part", oid, size, upload_id, number) for number in range(1, count + 1)}
        upload = {
            "href": _link(call, "complete", oid, size, upload_id),
            "header": {"chunk_size": str(call.hub.limits.part), **parts},
        }
    return {**reply, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def _header(row: dict[str, Any]) -> dict[str, Any]:
    upload = row.get("actions", {}).get("upload", {})
    return dict(upload.get("header", {}))


def _link(call: Call, kind: str, oid: str, size: int, *more: object) -> str:
    path = "/".join([kind, oid, *map(str, more)])
    return f"{call.hub.endpoint}/lfs/{path}?size={size}&{call.hub.signed_query(kind, oid, size, *more)}"


def _announced(call: Call, kind: str, *more: object) -> tuple[str, int]:
    """The digest and size in the signed link."""
    oid, size = call.params["oid"], call.query.get("size", "")
    call.signed(kind, oid, size, *more)
    return oid, int(size)


def _named(row: Any) -> tuple[str, int]:
    oid, size = (row.get("oid"), row.get("size")) if isinstance(row, dict) else (None, None)
    if not isinstance(oid, str) or not _SHA256.fullmatch(oid) or not isinstance(size, int) or size < 0:
        raise bad_request("A large file needs its sha256 and its size")
    return oid, size


def _part(call: Call, number: int) -> Path:
    return call.hub.storage.root / "parts" / call.params["id"] / str(number)


def _completed(parts: Path) -> Response:
    shutil.rmtree(parts, ignore_errors=True)
    return JSONResponse({})


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_LFS = ".git/info/lfs"
_POST, _PUT = ("POST",), ("PUT",)
ROUTES: tuple[Route, ...] = (
    Route(methods=_POST, pattern=f"/{{ns}}/{{name}}{_LFS}/objects/batch", handler=batch, body="memory"),
    Route(methods=_POST, pattern=f"/{{types}}/{{ns}}/{{name}}{_LFS}/objects/batch", handler=batch, body="memory"),
    Route(methods=_POST, pattern=f"/{{ns}}/{{name}}{_LFS}/verify", handler=verify, body="memory"),
    Route(methods=_POST, pattern=f"/{{types}}/{{ns}}/{{name}}{_LFS}/verify", handler=verify, body="memory"),
    Route(methods=_PUT, pattern="/lfs/put/{oid}", handler=put, body="disk", limit=lambda limits: limits.object),
    Route(
        methods=_PUT,
        pattern="/lfs/part/{oid}/{id}/{number}",
        handler=put_part,
        body="disk",
        limit=lambda limits: limits.part,
    ),
    Route(methods=_POST, pattern="/lfs/complete/{oid}/{id}", handler=complete, body="memory"),
)
