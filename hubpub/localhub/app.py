"""The ASGI application: authenticates requests, routes them to endpoints and logs them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import anyio.to_thread
from filelock import Timeout
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from hubpub.errors import HubpubError
from hubpub.files.disk import is_full
from hubpub.localhub import pages
from hubpub.localhub.call import Call, Hub, Route, Seen, Upload, User
from hubpub.localhub.endpoints import cas, content, lfs, pulls, repos, uploads
from hubpub.localhub.faults import handle_with_fault
from hubpub.localhub.refused import Refused
from hubpub.localhub.storage import atomic
from hubpub.localhub.storage.changes import Put

_ROUTES: tuple[Route, ...] = (
    *repos.ROUTES,
    *content.ROUTES,
    *uploads.ROUTES,
    *lfs.ROUTES,
    *pulls.ROUTES,
    *cas.ROUTES,
    *pages.ROUTES,  # the last: their patterns fit more than repos
)
_LOG = logging.getLogger("hubpub.localhub")
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_COMMIT = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/commit/([^/?]+)")


class Application:
    """Serves one Hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._routes = [(route, _expression(route.pattern)) for route in _ROUTES]
        self._slow = anyio.CapacityLimiter(4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this server does not speak {scope['type']}")
        path = scope["raw_path"].decode("latin-1")
        fault = self.hub.faults.pick(scope["method"], path)
        meter = _Meter(scope, receive, send, fault=fault.kind if fault else None, log=self.hub.seen.append)
        try:
            if fault is None:
                await self._handle(scope, meter.receive, meter.send)
            else:
                await handle_with_fault(
                    fault,
                    functools.partial(self._handle, scope),
                    meter.receive,
                    meter.send,
                    transport=_transport(send),
                    intrude=functools.partial(self._intrude, path),
                )
        finally:
            meter.finish()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except Refused as refusal:
            response = _refusal(refusal)
        except ClientDisconnect:
            return
        except Timeout:
            response = _refusal(Refused(503, "Another writer has locked this repo"))
        except HubpubError as error:
            response = _refusal(Refused(500, f"{error.message} {error.hint}".strip()))
        except OSError as error:
            _LOG.exception("%s %s", scope["method"], scope["raw_path"].decode("latin-1"))
            response = _refusal(Refused(507 if is_full(error) else 500, f"The data folder failed: {error.strerror}"))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        _check_host(request)
        user = _user(self.hub, request)
        route, params = self._find(request)
        call = functools.partial(Call, hub=self.hub, request=request, params=params, user=user)
        limiter = self._slow if route.slow else None
        if route.body == "disk":
            async with _on_disk(request, self.hub, route) as upload:
                return await anyio.to_thread.run_sync(route.handler, call(upload=upload), limiter=limiter)
        body = await _in_memory(request, route.limit(self.hub.limits)) if route.body == "memory" else b""
        return await anyio.to_thread.run_sync(route.handler, call(body=body), limiter=limiter)

    def _find(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        path = request.scope["raw_path"].decode("latin-1")
        path_exists = False
        for route, expression in self._routes:
            match = expression.fullmatch(path)
            if match is None:
                continue
            path_exists = True
            if request.method in route.methods:
                return route, {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
        raise Refused(405, "Method not allowed") if path_exists else Refused(404, "There is nothing here")

    async def _intrude(self, path: str) -> None:
        """For the fault `stale`: make another user's commit on the branch to which this request commits."""
        match = _COMMIT.search(path)
        if match is None:
            return
        types, repo_id, revision = (unquote(part) for part in match.groups())

        def commit() -> None:
            repo = self.hub.storage.repo(repo_id, repo_type=types.removesuffix("s"))
            entry = repo.objects.add_blob(secrets.token_hex(8).encode())
            ref = revision.removeprefix("refs/") if revision.startswith("refs/") else f"heads/{revision}"
            repo.add_commit(ref, [Put(path="somebody-else.txt", entry=entry)], title="Somebody else", author="somebody")

        await anyio.to_thread.run_sync(commit)


class _Meter:
    """Counts the bytes of a request and its response; logs the request just before the response's last part is sent."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, fault: str | None, log: Callable[[Seen], None]
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._fault = fault
        self._log: Callable[[Seen], None] | None = log
        self._began = time.monotonic()
        self._received = 0
        self._sent = 0
        self._status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        else:
            self._sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.finish()
        await self._send(message)

    def finish(self) -> None:
        """Log the request, once."""
        if self._log is not None:
            self._log(
                Seen(
                    method=self._scope["method"],
                    path=self._scope["raw_path"].decode("latin-1"),
                    query=self._scope["query_string"].decode("latin-1"),
                    status=self._status,
                    received=self._received,
                    sent=self._sent,
                    seconds=time.monotonic() - self._began,
                    fault=self._fault,
                )
            )
        self._log = None


def _expression(pattern: str) -> re.Pattern[str]:
    """`/a/{b}/{c*}` → a regular expression with the groups b (one segment) and c (the rest)."""
    types = re.escape(pattern).replace(r"\{types\}", "(?P<types>models|datasets|spaces)")
    rest = re.sub(r"\\{(\w+)\\\*\\}", r"(?P<\1>.+)", types)
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+?)", rest))


def _check_host(request: Request) -> None:
    """Refuse host names that are not loopback: a web page could use one to reach this server (DNS rebinding)."""
    host = request.headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in _LOOPBACK:
        raise Refused(421, "This Hub answers to loopback names only")


def _user(hub: Hub, request: Request) -> User | None:
    # the xet store has its own tokens, and signed links need no token
    if request.url.path.startswith(("/cas/", "/lfs/", "/cdn/", "/v1/")):
        return None
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return None
    presented = token.strip().encode()
    # always compare both: the response time must not depend on which token matches
    writes = hmac.compare_digest(presented, hub.storage.token.encode())
    reads = hmac.compare_digest(presented, hub.storage.read_token.encode())
    if not writes and not reads:
        raise Refused(401, "Invalid credentials in Authorization header")
    return User(name=hub.owner, can_write=writes)


async def _in_memory(request: Request, limit: int) -> bytes:
    return b"".join([part async for part in _bounded(request, limit)])


@contextlib.asynccontextmanager
async def _on_disk(request: Request, hub: Hub, route: Route) -> AsyncIterator[Upload]:
    digest = hashlib.sha256()
    with atomic.temporary(hub.storage.objects.scratch) as (path, file):
        async for part in _bounded(request, route.limit(hub.limits)):
            digest.update(part)
            file.write(part)
        file.flush()
        yield Upload(path=path, file=file, sha256=digest.hexdigest(), size=file.tell())


async def _bounded(request: Request, limit: int) -> AsyncIterator[bytes]:
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise Refused(413, f"The body is larger than {limit} bytes")
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > limit:
            raise Refused(413, f"The body is larger than {limit} bytes")
        yield part


def _refusal(refusal: Refused) -> JSONResponse:
    # a header is one line of latin-1
    message = refusal.message.encode("latin-1", "replace").decode("latin-1").replace("\n", " ").replace("\r", " ")
    headers = {"X-Error-Message": message, "X-Request-Id": secrets.token_hex(8)}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    return JSONResponse({"error": refusal.message}, status_code=refusal.status, headers=headers)


def _transport(send: Callable[..., Any]) -> asyncio.Transport:
    """The connection of a request: `send` is a bound method of uvicorn's object that holds it."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if not isinstance(transport, asyncio.Transport):
        raise RuntimeError("faults need uvicorn's own server under the application")
    return transport
