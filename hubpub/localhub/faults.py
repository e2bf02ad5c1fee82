"""Fault injection: cut connections, lost responses, flipped bytes. Without rules nothing is injected.

faults = Faults(Fault(kind="lost", method="POST", path=r"/commit/"), seed=7)
with running(root, faults=faults) as hub: ...
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send

Kind = Literal[
    "refuse",
    "reset",
    "reset-upload",
    "truncate",
    "delay",
    "throttle",
    "status",
    "corrupt",
    "corrupt-upload",
    "stale",
    "lost",
    "watch",
]

_PIECE = 1 << 16  # bytes of a throttled response that are sent at once


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One rule.

    kind:
      `refuse`          reset the connection before any response
      `reset`           reset the connection after `at` bytes of the response body
      `truncate`        close the connection normally after `at` bytes of the response body
      `reset-upload`    reset the connection after `at` bytes of the request body (at the latest at its end)
      `delay`           wait `seconds`, then handle the request
      `throttle`        limit both bodies to `rate`
      `status`          respond with `status`, and with Retry-After if `retry_after` is set
      `corrupt`         flip a bit of byte `at` of the response body
      `corrupt-upload`  flip a bit of byte `at` of the request body
      `stale`           commit as another user just before the request
      `lost`            handle the request, then reset the connection instead of responding
      `watch`           no fault: call `on_piece(size, is_last)` for every piece of both bodies
    rate: bytes per second of both bodies, for every kind.
    method, path: the requests that the rule applies to (`path` is a regular expression, searched in the path).
    skip, times, chance: skip the first `skip` of them, then hit `times` (None: all), each with probability `chance`.
    """

    kind: Kind
    method: str = "*"
    path: str = ""
    skip: int = 0
    times: int | None = 1
    chance: float = 1.0
    at: int = 0
    seconds: float = 0.0
    rate: float = math.inf
    status: int = 503
    retry_after: int | None = None
    on_piece: Callable[[int, bool], None] = lambda size, is_last: None


class Faults:
    """The rules of one embedded Hub, and their hits (`fired`). Thread-safe; deterministic for a seed and requests."""

    def __init__(self, *rules: Fault, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._rules: list[Fault] = []
        self._seen: list[int] = []
        self._hits: list[int] = []
        self.fired: list[tuple[Fault, str, str]] = []
        for rule in rules:
            self.add(rule)

    def add(self, rule: Fault) -> None:
        with self._lock:
            self._rules.append(rule)
            self._seen.append(0)
            self._hits.append(0)

    def clear(self) -> None:
        """Remove all rules; `fired` stays."""
        with self._lock:
            self._rules, self._seen, self._hits = [], [], []

    def pick(self, method: str, path: str) -> Fault | None:
        """The first rule that hits this request, or None."""
        with self._lock:
            for at, rule in enumerate(self._rules):
                if rule.method not in ("*", method) or not re.search(rule.path, path):
                    continue
                self._seen[at] += 1
                spent = rule.times is not None and self._hits[at] >= rule.times
                if spent or self._seen[at] <= rule.skip or self._random.random() >= rule.chance:
                    continue
                self._hits[at] += 1
                self.fired.append((rule, method, path))
                return rule
        return None


async def handle_with_fault(
    fault: Fault,
    handle: Callable[[Receive, Send], Awaitable[None]],
    receive: Receive,
    send: Send,
    *,
    transport: asyncio.Transport,
    intrude: Callable[[], Awaitable[None]],
) -> None:
    """Handle one request with a fault. `intrude` commits as another user (for `stale`)."""
    match fault.kind:
        case "refuse":
            _cut(transport)
            return
        case "status":
            await _answer(fault, send)
            return
        case "delay":
            await asyncio.sleep(fault.seconds)
        case "stale":
            await intrude()
    await handle(*_wrapped(fault, receive, send, transport))
    if fault.kind == "lost":
        _cut(transport)


def _wrapped(fault: Fault, receive: Receive, send: Send, transport: asyncio.Transport) -> tuple[Receive, Send]:
    """`receive` and `send` with the fault's effect on both bodies."""
    if fault.rate < math.inf:
        receive, send = _throttled(receive, send, fault.rate)
    match fault.kind:
        case "corrupt":
            send = _flipping(send, fault.at)
        case "corrupt-upload":
            receive = _flipping_receive(receive, fault.at)
        case "reset-upload":
            receive = _cutting(receive, fault.at, transport)
        case "reset" | "truncate":
            send = _stopping(send, fault, transport)
        case "watch":
            receive, send = _watched(receive, send, fault.on_piece)
        case "lost":
            send = _swallow
    return receive, send


async def _answer(fault: Fault, send: Send) -> None:
    body = json.dumps({"error": "an injected fault"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if fault.retry_after is not None:
        headers.append((b"retry-after", str(fault.retry_after).encode()))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _flip(message: Any, at: int, seen: int) -> int:
    """Flip a bit of byte `at` if this message contains it. `seen`: bytes before it; returns the bytes after it."""
    body = message.get("body", b"")
    if seen <= at < seen + len(body):
        changed = bytearray(body)
        changed[at - seen] ^= 1
        message["body"] = bytes(changed)
    return seen + len(body)


def _flipping(send: Send, at: int) -> Send:
    seen = 0

    async def flipping(message: Message) -> None:
        nonlocal seen
        if message["type"] == "http.response.body":
            seen = _flip(message, at, seen)
        await send(message)

    return flipping


def _flipping_receive(receive: Receive, at: int) -> Receive:
    seen = 0

    async def flipping() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen = _flip(message, at, seen)
        return message

    return flipping


def _throttled(receive: Receive, send: Send, rate: float) -> tuple[Receive, Send]:
    async def receiving() -> Message:
        message = await receive()
        await asyncio.sleep(len(message.get("body", b"")) / rate)
        return message

    async def sending(message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        while len(body) > _PIECE:
            await asyncio.sleep(_PIECE / rate)
            await send({**message, "body": body[:_PIECE], "more_body": True})
            body = body[_PIECE:]
        await asyncio.sleep(len(body) / rate)
        await send({**message, "body": body, "more_body": more} if body else message)

    return receiving, sending


def _watched(receive: Receive, send: Send, on_piece: Callable[[int, bool], None]) -> tuple[Receive, Send]:
    async def receiving() -> Message:
        message = await receive()
        on_piece(len(message.get("body", b"")), False)
        return message

    async def sending(message: Message) -> None:
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        on_piece(len(message.get("body", b"")), is_last)
        await send(message)

    return receiving, sending


def _cutting(receive: Receive, at: int, transport: asyncio.Transport) -> Receive:
    left = at

    async def cutting() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0 or not message.get("more_body", False):
            _cut(transport)
            return {"type": "http.disconnect"}
        return message

    return cutting


def _stopping(send: Send, fault: Fault, transport: asyncio.Transport) -> Send:
    left = fault.at
    stopped = False

    async def stopping(message: Message) -> None:
        nonlocal left, stopped
        if stopped:
            return
        if message["type"] != "http.response.body":
            await send(message)
            return
        body = message.get("body", b"")
        if len(body) <= left:
            left -= len(body)
            await send(message)
            return
        await send({"type": "http.response.body", "body": body[:left], "more_body": True})
        stopped = True
        if fault.kind == "truncate":
            transport.close()
        else:
            await asyncio.sleep(0.05)  # a reset discards bytes that are not sent yet
            _cut(transport)

    return stopping


async def _swallow(message: Message) -> None:
    """Drop a part of the response."""


def _cut(transport: asyncio.Transport) -> None:
    """Reset the connection (TCP RST)."""
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
