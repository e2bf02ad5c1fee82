"""How many bytes an upload sends, and how far it is: of HTTP bodies by counting, of xet by what hf_xet reports."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from huggingface_hub import utils
from huggingface_hub.utils import _xet_progress_reporting as reporting

from hubpub.remote.hub import session

if TYPE_CHECKING:
    from hubpub.remote.hub.client import Progress

_one_at_a_time = threading.Lock()


class Meter:
    """Counts what an upload sends. `sent` is bytes over the network, as far as they can be known."""

    def __init__(self, progress: Progress | None, total: int, label: str) -> None:
        self._progress, self._total, self._label = progress, total, label
        self._http = 0
        self._finished = 0  # by earlier uploads through xet: bytes of files, and bytes sent
        self._finished_sent = 0
        self._file_bytes = 0
        self._sent_bytes = 0

    @property
    def sent(self) -> int:
        """Bytes that have left this machine."""
        return self._http + self._finished_sent + self._sent_bytes

    def count(self, size: int) -> None:
        """Count bytes of an HTTP body."""
        self._http += size
        self._tell()

    def xet(self, report: Any) -> None:
        """Take the state of one xet upload (a GroupProgressReport)."""
        self._file_bytes = int(report.total_bytes_completed)
        self._sent_bytes = int(report.total_transfer_bytes_completed)
        self._tell()

    def next(self) -> None:
        """One upload through xet has ended."""
        self._finished += self._file_bytes
        self._finished_sent += self._sent_bytes
        self._file_bytes = self._sent_bytes = 0

    def _tell(self) -> None:
        if self._progress is not None:
            done = max(self._http, self._finished + self._file_bytes)
            self._progress(min(done, self._total), self._total, self._label)


@contextmanager
def metering(progress: Progress | None, total: int, label: str) -> Iterator[Meter]:
    """Count what the Hub client sends inside this block.

    The client gives the reports of hf_xet to its own progress bars only, and makes those
    by a name that it looks up at each upload; for the length of the block that name is ours.
    """
    meter = Meter(progress, total, label)

    class Reporter:
        """Replaces the client's progress bars."""

        def update_progress(self, report: Any, _items: Any) -> None:
            meter.xet(report)

        def close(self) -> None:
            meter.next()

    with (
        _one_at_a_time,
        session.counting(meter.count),
        session.stoppable(),
        _replaced(reporting, "XetUploadProgressReporter", Reporter),
        _replaced(utils, "are_progress_bars_disabled", _no),
    ):
        yield meter
    if progress is not None:
        progress(total, total, label)


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module inside the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _no(name: str | None = None) -> bool:
    return False
