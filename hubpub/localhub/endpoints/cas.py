"""The xet store over HTTP (content-addressed storage), as hf-xet 1.8 uses it: version 1 of the protocol.

For newer routes (upload grants, /v2/shards, /v2/reconstructions), a 404 makes hf-xet use version 1.
"""

from __future__ import annotations

import re
import time
from typing import Any

from starlette.responses import JSONResponse, Response

from hubpub.localhub.call import Call, Route
from hubpub.localhub.refused import Refused, bad_request
from hubpub.localhub.tickets import Ticket, check, issue
from hubpub.localhub.views import FileAnswer

_HASH = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def write_token(call: Call) -> Response:
    call.writable()
    return _ticket(issue(call.hub, writes=True, now=time.time()))


def read_token(call: Call) -> Response:
    call.downloadable()
    return _ticket(issue(call.hub, writes=False, now=time.time()))


def grant(call: Call) -> Response:
    """Success if the xorb exists already; else 404, and the client uploads it with `xorb_upload`."""
    _admit(call, writes=True)
    if call.hub.storage.objects.xet.has_xorb(_hash(call)):
        return JSONResponse({})
    raise Refused(404, "Upload it directly")


def xorb_upload(call: Call) -> Response:
    _admit(call, writes=True)
    assert call.upload is not None
    added = call.hub.storage.objects.xet.add_xorb(_hash(call), call.upload.path, call.upload.file)
    return JSONResponse({"was_inserted": added})


def shard_upload(call: Call) -> Response:
    _admit(call, writes=True)
    return JSONResponse({"result": int(call.hub.storage.objects.xet.add_shard(call.body))})


def chunk(call: Call) -> Response:
    """A shard that names the xorb with this chunk; 404 if no xorb has it."""
    _admit(call, writes=False)
    shard = call.hub.storage.objects.xet.shard_with(_hash(call), now=int(time.time()))
    if shard is None:
        raise Refused(404, "No such chunk")
    return Response(shard, media_type="application/octet-stream")


def reconstruction(call: Call) -> Response:
    """The parts of a file (or of a byte range), with signed links to their xorbs."""
    _admit(call, writes=False)
    start, end = _byte_range(call)
    offset, terms, fetches = call.hub.storage.objects.xet.reconstruction(_hash(call), start, end)
    ticket = issue(call.hub, writes=False, now=time.time())
    links = {xorb: f"{ticket.url}/data/{xorb}?{call.hub.signed_query('xorb', xorb)}" for xorb in fetches}
    reply: dict[str, Any] = {
        "offset_into_first_range": offset,
        "terms": [
            {"hash": term.xorb, "unpacked_length": term.size, "range": {"start": term.start, "end": term.end}}
            for term in terms
        ],
        "fetch_info": {
            xorb: [
                {
                    "range": {"start": term.start, "end": term.end},
                    "url": links[xorb],
                    "url_range": {"start": first, "end": end - 1},
                }
                for term, first, end in ranges
            ]
            for xorb, ranges in fetches.items()
        },
    }
    return JSONResponse(reply)


def xorb_data(call: Call) -> Response:
    """Bytes of a xorb, by Range, through a signed link."""
    name = _hash(call)
    _same_store(call)
    call.signed("xorb", name)
    path = call.hub.storage.objects.xet.xorb_path(name)
    if not path.is_file():
        raise Refused(404, "No such xorb")
    return FileAnswer(path, media_type="application/octet-stream")


def _ticket(ticket: Ticket) -> Response:
    headers = {
        "X-Xet-Cas-Url": ticket.url,
        "X-Xet-Access-Token": ticket.token,
        "X-Xet-Token-Expiration": str(ticket.expires),
    }
    return JSONResponse({"casUrl": ticket.url, "accessToken": ticket.token, "exp": ticket.expires}, headers=headers)


def _admit(call: Call, *, writes: bool) -> None:
    _same_store(call)
    token = call.request.headers.get("authorization", "").removeprefix("Bearer ")
    check(call.hub, token, writes=writes, now=time.time())


def _same_store(call: Call) -> None:
    if call.params["store"] != call.hub.storage.id:
        raise Refused(404, "This address belongs to another data folder's xet store")


def _hash(call: Call) -> str:
    name = call.params["hash"]
    if not _HASH.fullmatch(name):
        raise bad_request("A hash has 64 hexadecimal digits")
    return name


def _byte_range(call: Call) -> tuple[int, int | None]:
    header = call.request.headers.get("range")
    if header is None:
        return 0, None
    match = _RANGE.fullmatch(header)
    if match is None:
        raise Refused(416, f"Not a byte range: {header}")
    return int(match[1]), int(match[2]) + 1 if match[2] else None


_REPO = "/api/{types}/{ns}/{name}"
_CAS = "/cas/{store}/v1"
ROUTES: tuple[Route, ...] = (
    Route(methods=("GET",), pattern=f"{_REPO}/xet-write-token/{{rev}}", handler=write_token),
    Route(methods=("GET",), pattern=f"{_REPO}/xet-read-token/{{rev}}", handler=read_token),
    Route(methods=("POST",), pattern=f"{_CAS}/xorb-grants/{{prefix}}/{{hash}}", handler=grant, body="memory"),
    Route(
        methods=("POST",),
        pattern=f"{_CAS}/xorbs/{{prefix}}/{{hash}}",
        handler=xorb_upload,
        body="disk",
        limit=lambda limits: limits.xorb,
    ),
    Route(
        methods=("POST",),
        pattern=f"{_CAS}/shards",
        handler=shard_upload,
        body="memory",
        limit=lambda limits: limits.xorb,
    ),
    Route(methods=("GET",), pattern=f"{_CAS}/chunks/{{prefix}}/{{hash}}", handler=chunk),
    Route(methods=("GET",), pattern=f"{_CAS}/reconstructions/{{hash}}", handler=reconstruction),
    Route(methods=("GET",), pattern="/cas/{store}/data/{hash}", handler=xorb_data),
)
