"""How every request to a Hub is made: with time limits, a retry that ends, and nothing secret in what is said.

The Hub client has no time limit of its own and obeys any Retry-After, however long; both are bounded here.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from types import FrameType
from typing import Final, TypeVar

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import default_client_factory, parse_ratelimit_headers
from huggingface_hub.utils.tqdm import disable_progress_bars

_T = TypeVar("_T")

# Seconds. A commit or the completion of a multipart upload may take the Hub a minute.
TIMEOUT: Final = httpx2.Timeout(connect=15, read=120, write=120, pool=120)
# A server that wants more than this is answered with an error instead of waiting.
LONGEST_WAIT: Final = 90.0
# How long a call, or an upload, is tried again after it first failed.
PATIENCE: Final = 180.0
UPLOAD_PATIENCE: Final = 900.0

_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_SECRETS: Final = (
    (re.compile(r"hf_[A-Za-z0-9_]{6,}"), "hf_…"),
    (re.compile(r"(?i)(bearer|basic)\s+[\w.~+/=-]+"), r"\1 …"),
    (re.compile(r"(https?://)[^/@\s]+@"), r"\1"),
    # the query of a pre-signed URL is a key
    (re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\")]+"), r"\1"),
)

# As long as no Hub has answered, there is probably no network.
_FIRST_PATIENCE: Final = 10.0

# hf_xet holds 64 MB for each file that it cuts up and for each upload under way. By default that is 8 files and up to
# 64 uploads, which took 1.3 to 1.7 GB where these take 0.5 GB, in the same time (benchmarks/README.md).
_FRUGAL: Final = {"HF_XET_DATA_MAX_CONCURRENT_FILE_INGESTION": "1", "HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY": "3"}

_installed = threading.Lock()
_reached = threading.Event()
_ready = False
_listeners: list[Callable[[int], None]] = []
_stopping = threading.Event()


class Stopped(Exception):
    """The user has interrupted the run."""


class TooBusy(Exception):
    """The Hub asks to wait longer than LONGEST_WAIT."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the Hub asks to wait {seconds:.0f} s")
        self.seconds = seconds


def install() -> None:
    """Give the Hub client hubpub's time limits, bound hf_xet's memory and silence progress bars; once per process.

    What the user has set of hf_xet's variables stays as it is.
    """
    global _ready
    with _installed:
        if _ready:
            return
        set_client_factory(_make_client)
        if "HF_XET_HIGH_PERFORMANCE" not in os.environ:
            for name, value in _FRUGAL.items():
                os.environ.setdefault(name, value)  # read when hf_xet is first used
        disable_progress_bars()
        logger = logging.getLogger("huggingface_hub")
        if logger.getEffectiveLevel() == logging.WARNING and "HF_HUB_VERBOSITY" not in os.environ:
            logger.setLevel(logging.ERROR)  # its warnings tell of retries, the errors that matter are raised
        for handler in logger.handlers:
            handler.addFilter(_scrub_record)
        _ready = True


def patiently(call: Callable[[], _T], *, patience: float = PATIENCE) -> _T:
    """The result of `call`, which must be safe to repeat: tried again after 408, 425, 429, 5xx and broken connections.

    Waits grow from about one second and are jittered; Retry-After is obeyed. The last
    error is raised when `patience` seconds (few, before any Hub has answered) have passed
    since the first one, or at once when it is not transient.
    """
    end: float | None = None
    pause = 1.0
    while True:
        try:
            return call()
        except (HfHubHTTPError, httpx2.TransportError, RuntimeError) as error:
            end = end or time.monotonic() + bounded(patience)
            wait = wait_before_retry(error, pause)
            if wait is None or time.monotonic() + wait > end:
                raise
        time.sleep(wait)
        pause = min(2 * pause, 20.0)


def bounded(patience: float) -> float:
    """`patience`, or less of it as long as no Hub has answered."""
    return patience if _reached.is_set() else min(patience, _FIRST_PATIENCE)


def wait_before_retry(error: Exception, pause: float) -> float | None:
    """Seconds to wait before another attempt; None where another attempt cannot help."""
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps the failure of each LFS file
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in _TRANSIENT:
            return None
        asked = _asked_wait(error.response)
        return pause * random.uniform(0.5, 1.0) if asked is None else asked + random.uniform(0, 0.5)
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.ProxyError):
        return None
    # hf_xet's errors (ConnectionError) are not here: it has tried again for minutes before it raises
    return pause * random.uniform(0.5, 1.0) if isinstance(error, httpx2.TransportError) else None


def scrub(text: str, *secrets: str | None) -> str:
    """`text` without tokens, passwords in URLs and keys of pre-signed URLs."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def counting(listener: Callable[[int], None]) -> Iterator[None]:
    """Call `listener` with the bytes of every upload's body as they leave (not those of xet, which has its own client).

    All uploads of the process are counted; deliveries in parallel threads would count each other's.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C end uploads at their next block.

    The client's threads would go on with their files to the end, and the interrupt is only
    seen after that.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    earlier = before

    def stop(number: int, frame: FrameType | None) -> None:
        _stopping.set()
        earlier(number, frame)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
        _stopping.clear()


def _make_client() -> httpx2.Client:
    client = default_client_factory()
    client.timeout = TIMEOUT
    hooks = client.event_hooks
    hooks["request"].append(_count_upload)
    hooks["response"].append(_refuse_long_wait)
    client.event_hooks = hooks
    return client


def _count_upload(request: httpx2.Request) -> None:
    is_commit = request.method == "POST" and "/commit/" in request.url.path
    if _listeners and (request.method == "PUT" or is_commit) and isinstance(request.stream, httpx2.SyncByteStream):
        request.stream = _Counted(request.stream)


def _refuse_long_wait(response: httpx2.Response) -> None:
    _reached.set()
    if response.status_code in _TRANSIENT:
        asked = _asked_wait(response)
        if asked is not None and asked > LONGEST_WAIT:
            raise TooBusy(asked)


def _asked_wait(response: httpx2.Response) -> float | None:
    """Seconds that a Retry-After or an exhausted rate limit asks to wait."""
    if response.status_code == 429:
        limit = parse_ratelimit_headers(response.headers)
        if limit is not None and limit.remaining == 0:
            return float(limit.reset_in_seconds)
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    then, now = _moment(value), _moment(response.headers.get("Date", ""))  # both by the Hub's clock
    return None if then is None else max(0.0, then - (time.time() if now is None else now))


def _moment(date: str) -> float | None:
    """Seconds since 1970 of a date as HTTP writes it."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


def _scrub_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = scrub(record.getMessage()), ()
    return True


class _Counted(httpx2.SyncByteStream):
    """A request's body that counts the bytes read from it."""

    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for block in self._stream:
            if _stopping.is_set():
                raise Stopped("the run was interrupted")
            for listener in _listeners:
                listener(len(block))
            yield block

    def close(self) -> None:
        self._stream.close()
