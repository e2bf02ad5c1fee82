"""The process that runs steps: `python -m hubpub.engine.worker STORE`, one JSON request a line on stdin.

Steps run outside the main process so that their memory is given back, their peak is
measured, and a crash (or the system's out-of-memory killer) is an error with a sentence
instead of the end of everything. A request names a step; the answer says what it made:

    → {"key", "kind", "params", "inputs": {name: path}, "label"}
    ← {"event": "started", "out": path}
    ← {"event": "done", "seconds", "peak"} | {"event": "failed", "error": {…}}
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from hubpub import errors
from hubpub.engine.store import Store
from hubpub.files.disk import is_full
from hubpub.steps import KINDS


def main(root: str) -> None:
    """Serve requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints goes to stderr, never into the protocol
    store = Store(Path(root))
    for line in sys.stdin.buffer:
        _serve(store, json.loads(line), answers)


def _serve(store: Store, request: Mapping[str, Any], answers: BinaryIO) -> None:
    try:
        with store.lock(request["key"]):
            if store.get(request["key"]) is None:
                _make(store, request, answers)
        _answer(answers, event="done", peak=peak_memory())
    except BaseException as error:
        _answer(answers, event="failed", error=describe(_named(error, store)), peak=peak_memory())
        if not isinstance(error, Exception):
            raise


def _make(store: Store, request: Mapping[str, Any], answers: BinaryIO) -> None:
    out = store.work_folder(request["key"])
    _answer(answers, event="started", out=str(out))
    reset_peak_memory()
    started = time.monotonic()
    try:
        step = KINDS[request["kind"]](**request["params"])
        measurements = step.run({name: Path(path) for name, path in request["inputs"].items()}, out)
    except BaseException:
        store.discard(out)
        raise
    seconds = time.monotonic() - started
    measurements = {**measurements, "peak_memory": peak_memory()}
    store.commit(
        request["key"],
        out,
        kind=request["kind"],
        label=request["label"],
        measurements=measurements,
        seconds=seconds,
    )
    store.digests.save()


def _named(error: BaseException, store: Store) -> BaseException:
    """Converts disk-full errors to NoSpace; the step is not at fault."""
    if not isinstance(error, OSError) or not is_full(error):
        return error
    full = errors.NoSpace(
        f"The disk of {store.root} is full.",
        hint="Free some space (`hubpub cache prune`) and run the same command again, or set HUBPUB_CACHE.",
    )
    full.__cause__ = error
    return full


def describe(error: BaseException) -> dict[str, Any]:
    """An error as JSON: enough to raise it again in another process."""
    known = isinstance(error, errors.HubpubError)
    fields = {
        name: value
        for name, value in vars(error).items()
        if known and isinstance(value, str | int | float | tuple | list | None) and name not in ("message", "hint")
    }
    return {
        "type": type(error).__name__ if known else None,
        "message": str(error) if known else f"{type(error).__name__}: {error}",
        "hint": getattr(error, "hint", ""),
        "fields": fields,
        "traceback": "".join(traceback.format_exception(error)),
    }


def rebuild(description: Mapping[str, Any], label: str) -> errors.HubpubError:
    """The inverse of `describe`; an error that is not a HubpubError becomes StepFailed."""
    if description["type"] is None:
        error = errors.StepFailed(
            f"{label} failed: {description['message']}", hint="Run again with --debug for details."
        )
    else:
        kind = getattr(errors, description["type"])
        error = kind(description["message"], hint=description["hint"])
        for name, value in description["fields"].items():
            setattr(error, name, value)
    error.add_note(f"in {label}\n{description['traceback']}")
    return error


def reset_peak_memory() -> None:
    """Start the peak anew (Linux; elsewhere the process's all-time peak is what can be had)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Peak resident bytes of this process since the last reset."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))


def _answer(answers: BinaryIO, **fields: Any) -> None:
    answers.write(json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
