"""One round: a command is killed with SIGKILL at random moments, run again after each, and run to its end at last."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import psutil

from hubpub.localhub import Fault, LocalHub, running
from tests.chaos import scene
from tests.chaos.jobs import Convert, Fetch, Job, Problem, Publish
from tests.chaos.scene import Scene

# Operation, mode, and what it starts from.
KINDS: Final = (
    ("convert", "–", ("nothing", "an old release")),
    ("publish", "xet", ("no repo", "an old release", "a pull request")),
    ("publish", "lfs", ("no repo", "an old release", "a pull request")),
    ("fetch", "files", ("nothing", "an old release")),
    ("fetch", "zip", ("nothing", "an old release")),
)
_LONGEST: Final = 120.0  # seconds that a command may take
# What a run must get over, one of them in every third round.
_TROUBLE: Final = (
    Fault(kind="status", status=503),
    Fault(kind="status", status=500),
    Fault(kind="status", status=429, retry_after=1),
    Fault(kind="refuse"),
    Fault(kind="reset", at=20_000),
    Fault(kind="truncate", at=20_000),
    Fault(kind="lost"),
    Fault(kind="delay", seconds=1),
)


@dataclass(frozen=True, kw_only=True)
class Usual:
    """A run that nobody killed: its seconds and requests, the bytes of all of these, and those that are content."""

    seconds: float
    requests: int
    bytes: int
    moved: int


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to kill: so much after the start, at that byte of all requests, or when that answer is about to leave."""

    unit: Literal["s", "bytes", "answers"]
    value: float

    @classmethod
    def draw(cls, chance: random.Random, usual: Usual) -> Moment:
        """Any moment of a run."""
        unit = chance.choice(("s", "bytes", "answers")) if usual.requests else "s"
        most = {"s": usual.seconds, "bytes": usual.bytes, "answers": usual.requests}[unit]
        return cls(unit=unit, value=chance.uniform(0, most))

    def __str__(self) -> str:
        return f"{self.value:.2f} s" if self.unit == "s" else f"{self.value:.0f} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class Round:
    """What became of a round. `unique`: content bytes of a run without kills; `moved`: of all runs of this round."""

    number: int
    operation: str
    mode: str
    start: str
    kills: tuple[str, ...]
    trouble: str | None
    problems: tuple[Problem, ...]
    unique: int
    moved: int
    seconds: float


@dataclass(kw_only=True)
class Chaos:
    """Plays rounds of one scene in `folder`; the same seed and number are the same round."""

    scene: Scene
    folder: Path
    seed: int
    _usual: dict[tuple[str, ...], Usual] = field(default_factory=dict)

    def play(self, number: int) -> Round:
        """Round `number`: two to four kills of a command, then its end."""
        began = time.monotonic()
        chance = random.Random(f"{self.seed}/{number}")
        operation, mode, starts = KINDS[number % len(KINDS)]
        kind = (operation, mode, starts[number // len(KINDS) % len(starts)])
        usual = self._usual_of(kind)
        trouble = None
        if usual.requests and chance.random() < 1 / 3:
            trouble = replace(chance.choice(_TROUBLE), skip=chance.randrange(usual.requests))
        kills, problems = [], []
        with self._job(kind) as (job, hub):
            for _ in range(chance.randint(2, 4)):
                moment = Moment.draw(chance, usual)
                killed, wrong = _run(job, hub, moment=moment, trouble=trouble, spare_workers=chance.random() < 0.5)
                kills += [str(moment)] if killed else []
                problems += [*wrong, *job.problems(ended=not killed)]
            _, wrong = _run(job, hub)
            problems += [*wrong, *job.problems(ended=True)]
            moved = job.moved()
        return Round(
            number=number,
            operation=operation,
            mode=mode,
            start=kind[2],
            kills=tuple(kills),
            trouble=trouble and trouble.kind,
            problems=tuple(dict.fromkeys(problems)),
            unique=usual.moved,
            moved=moved,
            seconds=time.monotonic() - began,
        )

    def _usual_of(self, kind: tuple[str, str, str]) -> Usual:
        if kind not in self._usual:
            with self._job(kind) as (job, hub):
                before, began = len(hub.requests) if hub else 0, time.monotonic()
                _, problems = _run(job, hub)
                seconds = time.monotonic() - began
                sizes = [seen.received + seen.sent for seen in hub.requests[before:]] if hub else []
                problems += job.problems(ended=True)
                assert not problems, problems
                self._usual[kind] = Usual(seconds=seconds, requests=len(sizes), bytes=sum(sizes), moved=job.moved())
        return self._usual[kind]

    @contextmanager
    def _job(self, kind: tuple[str, str, str]) -> Iterator[tuple[Job, LocalHub | None]]:
        """A command of that kind, in a folder that is gone afterwards."""
        operation, mode, start = kind
        folder = self.folder / "round"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        updates = start == "an old release"
        if operation == "convert":
            yield Convert(self.scene, folder, updates=updates), None
        elif operation == "publish":
            if start != "no repo":
                scene.copy(self.scene.hub, folder / "hub")
            with running(folder / "hub") as hub:
                yield Publish(self.scene, folder, hub, xet=mode == "xet", pull=start == "a pull request"), hub
        else:
            with running(self.scene.both) as hub:
                yield Fetch(self.scene, folder, hub, archive=mode == "zip", updates=updates), hub
        shutil.rmtree(folder)


class _Killer:
    """Kills a command's process group at a moment, and its workers, which have groups of their own."""

    def __init__(self, process: subprocess.Popen[bytes], moment: Moment | None, *, spare_workers: bool) -> None:
        self._process, self._moment, self._spare = process, moment, spare_workers
        self._passed = {"s": 0, "bytes": 0, "answers": 0}
        self.workers: list[psutil.Process] = []

    def heard(self, size: int, ends: bool) -> None:
        """Hear of a piece of a request or an answer."""
        self._passed["bytes"] += size
        self._passed["answers"] += ends
        if self._moment is not None and self._passed[self._moment.unit] > self._moment.value:
            self._moment = None
            self.kill()

    def kill(self) -> None:
        self.workers = psutil.Process(self._process.pid).children(recursive=True)
        for victim in (self._process, *([] if self._spare else self.workers)):
            victim.kill()


def _run(
    job: Job,
    hub: LocalHub | None,
    *,
    moment: Moment | None = None,
    trouble: Fault | None = None,
    spare_workers: bool = False,
) -> tuple[bool, list[Problem]]:
    """Run a command, with a kill at `moment`: whether it was killed, and what was wrong if it was not."""
    process = subprocess.Popen(
        job.command,
        env=dict(job.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    killer = _Killer(process, moment, spare_workers=spare_workers)
    if hub is not None:
        watching = Fault(kind="watch", times=None, on_piece=killer.heard)
        slow = replace(watching, path=job.slow, rate=job.rate)
        for fault in (*([trouble] if trouble else []), slow, watching):
            hub.faults.add(fault)
    try:
        _, said = process.communicate(timeout=moment.value if moment and moment.unit == "s" else _LONGEST)
    except subprocess.TimeoutExpired:
        killer.kill()
        _, said = process.communicate()
    if hub is not None:
        hub.faults.clear()  # those who look at what is there now meet none
    psutil.wait_procs(killer.workers, timeout=_LONGEST)
    killed = process.returncode == -signal.SIGKILL
    if killed and moment is None:
        return killed, [Problem(kind="not resumed", what=f"no end after {_LONGEST:.0f} s")]
    if killed or process.returncode == 0:
        return killed, []
    return False, [Problem(kind="not resumed", what=f"status {process.returncode}: {said.decode()[-400:]}")]
