"""Runs the application with uvicorn on loopback: in a thread during a block, or in the foreground until stopped."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hubpub.errors import ConfigError, PreflightError, ToolMissing

if TYPE_CHECKING:
    import uvicorn

    from hubpub.localhub.app import Application

_HOSTS = ("127.0.0.1", "localhost", "::1")
_START_SECONDS = 30.0
_STOP_SECONDS = 10


def listen(host: str, port: int) -> socket.socket:
    """A listening loopback socket. Raises ConfigError for any other address, PreflightError if the port is in use."""
    if host not in _HOSTS:
        raise ConfigError(
            f"The embedded Hub cannot listen on {host}: it serves this machine only.",
            hint="Use 127.0.0.1, localhost or ::1.",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named; without it each response takes 40 ms longer
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows this option would let two processes use the same port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1" if host == "localhost" else host, port))
        bound.listen(256)
    except OSError as error:
        bound.close()
        raise PreflightError(
            f"The embedded Hub cannot listen on {host}, port {port}: {error.strerror or error}.",
            hint="Choose another port, for example `hubpub hub serve --port 8766`.",
        ) from error
    return bound


def endpoint(bound: socket.socket) -> str:
    """The address for clients, such as http://127.0.0.1:8765."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def in_thread(application: Application, bound: socket.socket) -> Iterator[None]:
    """Serve until the block ends; running requests get a few more seconds."""
    server = _server(application)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run(sockets=[bound])
        except (Exception, SystemExit) as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="hubpub-local-hub", daemon=True)
    thread.start()
    try:
        _wait(server, thread, failures)
        yield
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS + 5)
        bound.close()


def in_foreground(application: Application, bound: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    try:
        _server(application).run(sockets=[bound])
    finally:
        bound.close()


def _server(application: Application) -> uvicorn.Server:
    try:
        import uvicorn
    except ImportError as error:
        raise tool_missing() from error
    config = uvicorn.Config(
        application,
        http="h11",  # always installed with uvicorn
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=64 * 1024,  # bytes of headers
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    return uvicorn.Server(config)


def tool_missing() -> ToolMissing:
    return ToolMissing("The embedded Hub needs starlette and uvicorn.", hint="pip install 'hubpub[local]'")


def _wait(server: uvicorn.Server, thread: threading.Thread, failures: list[BaseException]) -> None:
    end = time.monotonic() + _START_SECONDS
    while not server.started:
        if failures or not thread.is_alive() or time.monotonic() > end:
            cause = failures[0] if failures else None
            raise PreflightError("The embedded Hub did not start.", hint="Run again with --debug.") from cause
        time.sleep(0.005)
