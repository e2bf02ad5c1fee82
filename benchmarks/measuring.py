"""What all benchmarks measure with: a program's seconds and peak memory, and the limits of the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

_SIZE = 1 << 30  # bytes that the limits are measured with
_BLOCK = 1 << 23


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a program."""

    seconds: float
    peak: int  # bytes: the largest sum over it and all that it started
    answer: str  # its stdout


def run(arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run this interpreter with `arguments` in `folder`; Linux only.

    Memory is the proportional set size (PSS: what several processes share counts once),
    looked at four times a second. Ends the benchmark where the program fails.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stdout:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env={**os.environ, **(environment or {})}, stdout=stdout
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(memory(process.pid)))
            time.sleep(0.25)
        seconds = time.monotonic() - started
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
        stdout.seek(0)
        return Run(seconds=seconds, peak=peak, answer=stdout.read())


def hubpub(arguments: Sequence[str], *, work: Path, endpoint: str, token: str) -> Run:
    """Run hubpub with its store in `work`, against a Hub that is not one of its processes."""
    environment = {"HUBPUB_CACHE": str(work / "store"), "HF_HOME": str(work / "hf")}
    return run(
        ["-m", "hubpub", *arguments, "--endpoint", endpoint, "--token", token, "--json"],
        folder=work,
        environment=environment,
    )


def memory(pid: int) -> Iterator[int]:
    """PSS of a process and of all that it has started."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            yield 1024 * int(text.split("Pss:")[1].split()[0])
        except (OSError, IndexError):
            continue  # it has ended between the list and the look


def machine() -> str:
    """One line that says what was measured on, and how busy it was."""
    total = psutil.virtual_memory().total / 1e9
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {total:.0f} GB of memory, {platform.system()}, "
        f"Python {platform.python_version()}; load when this began: {os.getloadavg()[0]:.1f}"
    )


def limits(folder: Path) -> dict[str, float]:
    """Bytes a second: of the disk that `folder` is on (written and synced; read uncached), memcpy and sha256."""
    data = np.random.default_rng(0).integers(0, 256, _BLOCK, np.uint8).tobytes()
    path = folder / "limit.bin"
    found = {"write": _rate(lambda: _write(path, data))}
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found["read"] = _rate(lambda: _read(path))
    path.unlink()
    source, target = np.ones(_SIZE, np.uint8), np.zeros(_SIZE, np.uint8)
    np.copyto(target, source)  # the system gives the memory at the first touch
    found["memcpy"] = _rate(lambda: np.copyto(target, source))
    found["sha256"] = _rate(lambda: hashlib.sha256(source.data).digest())
    return found


def _rate(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return _SIZE / (time.perf_counter() - start)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        for _ in range(_SIZE // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(_BLOCK):
            pass
