"""The only loop: runs each step of a plan that the store lacks.

Steps whose inputs are there run side by side, as many as `jobs` allows and as their
estimated memory fits into the budget. Of the heavy ones, which run torch on all cores,
only one runs at a time: two at once take turns at the cores and need twice the memory.
Each step runs in a worker process; its files land in the store before anything that needs
them starts. Stopped at any moment, the same plan goes on where it was.
"""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hubpub.engine.progress import Reporter
from hubpub.engine.store import Entry, Store
from hubpub.engine.worker import rebuild
from hubpub.errors import Damaged, StepFailed
from hubpub.files.processes import Process, start_module
from hubpub.steps.step import FromSource, Input, Step

_TICK = 0.2  # seconds between two looks at what running steps have written


@dataclass
class _Worker:
    """A worker process, and the step that it runs (None: idle)."""

    process: Process
    step: Step | None = None
    out: Path | None = None
    started: float = 0.0
    buffer: bytes = b""
    heavy: bool = False  # it has loaded torch, which takes seconds and memory: it runs such steps only


@dataclass
class _Run:
    """The loop's state during one call of execute()."""

    store: Store
    sources: Mapping[str, Path]
    report: Reporter
    done: dict[str, Entry] = field(default_factory=dict)
    workers: list[_Worker] = field(default_factory=list)


def execute(
    steps: Sequence[Step],
    *,
    store: Store,
    sources: Mapping[str, Path],
    jobs: int,
    memory: int,
    report: Reporter,
) -> dict[str, Entry]:
    """Run every step that the store lacks; returns key → entry.

    `sources` are the folders that FromSource inputs lie in; `jobs` the number of steps at
    once; `memory` the bytes that they may be estimated to need together (a step alone may
    exceed it).
    """
    run = _Run(store=store, sources=sources, report=report)
    waiting = []
    for step in steps:
        entry = cached(store, step)
        if entry is None:
            waiting.append(step)
        else:
            run.done[step.key] = entry
            report.step_cached(step, entry)
    report.to_do(waiting)
    if not waiting:
        return run.done
    with _stopped_at_the_end(run), selectors.DefaultSelector() as selector:
        while waiting or any(worker.step for worker in run.workers):
            for step in _ready(waiting, run, jobs=jobs, memory=memory):
                waiting.remove(step)
                _start(run, step, selector)
            for ready, _ in selector.select(timeout=_TICK):
                _hear(run, ready.data, selector)
            for worker in run.workers:
                if worker.step is not None and worker.out is not None:
                    run.report.step_progress(worker.step, _bytes_in(worker.out))
    return run.done


def cached(store: Store, step: Step) -> Entry | None:
    """The store's entry of a step; a damaged one is forgotten, so that it is made again."""
    try:
        return store.get(step.key)
    except Damaged:
        store.remove(step.key)
        return None


def locate(given: Input, *, store: Store, sources: Mapping[str, Path]) -> Path:
    """The path of an input on this disk."""
    if isinstance(given, FromSource):
        return sources[given.source] / given.path
    entry = store.get(given.key)
    if entry is None:
        raise StepFailed(f"The step {given.key[:12]} is not in the store.", hint="Run the same command again.")
    return entry.payload / given.path


def _ready(waiting: Sequence[Step], run: _Run, *, jobs: int, memory: int) -> Iterator[Step]:
    """Steps that may start now: heavy ones first, as all the others fit in beside them; else in the plan's order."""
    running = [worker.step for worker in run.workers if worker.step is not None]
    for step in sorted(waiting, key=lambda step: not step.heavy):
        if len(running) >= jobs:
            return
        if not step.requires() <= run.done.keys():
            continue
        if running and step.memory + sum(other.memory for other in running) > memory:
            continue
        if step.heavy and any(other.heavy for other in running):
            continue
        running.append(step)
        yield step


def _start(run: _Run, step: Step, selector: selectors.BaseSelector) -> None:
    worker = next((worker for worker in run.workers if worker.step is None and worker.heavy is step.heavy), None)
    if worker is None:
        # A light step has threads of its own for what takes long; its matrix products beside them would wait for each
        # other's threads on the same cores (adding a LoRA takes half as long so).
        environment = {} if step.heavy else {"OPENBLAS_NUM_THREADS": "1"}
        process = start_module("hubpub.engine.worker", str(run.store.root), environment=environment)
        worker = _Worker(process=process, heavy=step.heavy)
        run.workers.append(worker)
        assert worker.process.stdout is not None
        os.set_blocking(worker.process.stdout.fileno(), False)
        selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
    worker.step, worker.out, worker.started = step, None, time.monotonic()
    inputs = {name: str(locate(given, store=run.store, sources=run.sources)) for name, given in step.inputs.items()}
    request = {"key": step.key, "kind": step.kind(), "params": step.params, "inputs": inputs, "label": step.label}
    run.report.step_started(step)
    assert worker.process.stdin is not None
    worker.process.stdin.write(json.dumps(request).encode() + b"\n")
    worker.process.stdin.flush()


def _hear(run: _Run, worker: _Worker, selector: selectors.BaseSelector) -> None:
    """Read a worker's messages; a worker that ends during a step raises StepFailed."""
    assert worker.process.stdout is not None
    data = os.read(worker.process.stdout.fileno(), 1 << 20)
    if not data:
        selector.unregister(worker.process.stdout)
        if worker.step is not None:
            raise _death(worker.step, worker.process.wait())
        run.workers.remove(worker)
        _dismiss(worker)
        return
    *lines, worker.buffer = (worker.buffer + data).split(b"\n")
    for line in lines:
        _answered(run, worker, json.loads(line))


def _answered(run: _Run, worker: _Worker, answer: Mapping[str, object]) -> None:
    step = worker.step
    assert step is not None
    if answer["event"] == "started":
        worker.out = Path(str(answer["out"]))
    elif answer["event"] == "failed":
        error = answer["error"]
        assert isinstance(error, dict)
        raise rebuild(error, step.label)
    else:
        entry = run.store.get(step.key)
        assert entry is not None
        run.done[step.key] = entry
        worker.step = worker.out = None
        run.report.step_done(step, entry)


def _death(step: Step, status: int) -> StepFailed:
    if status == -9:
        return StepFailed(
            f"{step.label} was killed by the system, most likely because memory ran out.",
            hint="Close other programs, or run with --jobs 1; what is finished stays finished.",
        )
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return StepFailed(f"{step.label} ended without an answer ({how}).", hint="Run the same command again with --debug.")


@contextmanager
def _stopped_at_the_end(run: _Run) -> Iterator[None]:
    """Workers end with the loop: gently when all is done, at once when not."""
    try:
        yield
    except BaseException:
        for worker in run.workers:
            worker.process.kill()
        raise
    finally:
        for worker in run.workers:
            _dismiss(worker)


def _dismiss(worker: _Worker) -> None:
    """Let a worker end, and wait for it."""
    assert worker.process.stdin is not None
    assert worker.process.stdout is not None
    with suppress(BrokenPipeError):  # it may be dead already
        worker.process.stdin.close()
    worker.process.wait()
    worker.process.stdout.close()


def _bytes_in(folder: Path) -> int:
    """Bytes written so far."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(path) / name).stat().st_size
            except FileNotFoundError:
                continue  # renamed between the listing and the look
    return total
