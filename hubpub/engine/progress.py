"""What people and programs see: progress and messages on stderr, data on stdout.

Four reporters: a live display for a terminal, sober lines for a log, nothing for
`--quiet` and `--json`. The verbs call them; they decide nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hubpub.files.sizes import human

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from hubpub.engine.store import Entry
    from hubpub.steps import Step


class Reporter(Protocol):
    """Receives the progress of verbs."""

    def line(self, text: str) -> None:
        """An informational message."""

    def warn(self, text: str) -> None:
        """A warning."""

    def step_cached(self, step: Step, entry: Entry) -> None:
        """A step was done by an earlier run."""

    def to_do(self, steps: Sequence[Step]) -> None:
        """These steps, the others of a plan, will be made, in some order."""

    def step_started(self, step: Step) -> None:
        """A step begins."""

    def step_progress(self, step: Step, written: int) -> None:
        """A step has written that many bytes."""

    def step_done(self, step: Step, entry: Entry) -> None:
        """A step is in the store."""

    def transfer(self, done: int, total: int, label: str) -> None:
        """Bytes of an upload or a download."""


class Quiet:
    """Shows warnings only."""

    def line(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Warnings are always shown."""
        print(f"Warning: {text}", file=sys.stderr)

    def to_do(self, steps: Sequence[Step]) -> None:
        """Nothing."""

    def step_cached(self, step: Step, entry: Entry) -> None:
        """Nothing."""

    def step_started(self, step: Step) -> None:
        """Nothing."""

    def step_progress(self, step: Step, written: int) -> None:
        """Nothing."""

    def step_done(self, step: Step, entry: Entry) -> None:
        """Nothing."""

    def transfer(self, done: int, total: int, label: str) -> None:
        """Nothing."""


class Lines(Quiet):
    """One line an event, for logs."""

    def __init__(self) -> None:
        self._said = 0.0
        self._cached = 0
        self._finished: set[str] = set()  # labels of transfers that have come to their end

    def line(self, text: str) -> None:
        """The sentence, on stderr."""
        print(text, file=sys.stderr, flush=True)

    def step_cached(self, step: Step, entry: Entry) -> None:
        """Counted: a line each would hide what is new."""
        self._cached += 1

    def to_do(self, steps: Sequence[Step]) -> None:
        """A line that says how many steps were done before, where any were."""
        if self._cached:
            self.line(_done_before(self._cached, len(steps)))
        self._cached = 0

    def step_done(self, step: Step, entry: Entry) -> None:
        """A line with seconds, bytes and peak memory."""
        self.line(f"  {entry.seconds:9.1f} s  {step.label}  ({_measured(entry)})")

    def transfer(self, done: int, total: int, label: str) -> None:
        """A line every five seconds, and one at the end."""
        now = time.monotonic()
        if done < total:
            self._finished.discard(label)
        if (done >= total and label not in self._finished) or now - self._said > 5:
            self._said = now
            if done >= total:
                self._finished.add(label)
            self.line(f"  {label}: {human(done)} of {human(total)}")


class Live(Quiet):
    """A display that follows the work, for a terminal: a bar for all steps, and one for each that runs."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._overall: TaskID | None = None
        self._left: dict[str, int] = {}  # bytes that each step is expected to write still
        self._steps = self._bytes = 0  # of all of them
        self._cached = 0

    def line(self, text: str) -> None:
        """The sentence, above the bars."""
        self._console.print(text, highlight=False)

    def warn(self, text: str) -> None:
        """The sentence, in yellow."""
        self._console.print(f"[yellow]Warning:[/] {text}", highlight=False)

    def step_cached(self, step: Step, entry: Entry) -> None:
        """Counted."""
        self._cached += 1

    def to_do(self, steps: Sequence[Step]) -> None:
        """A grey line of how many were done before; the bar of all others, by what they are expected to write."""
        if self._cached:
            self._console.print(f"[dim]{_done_before(self._cached, len(steps))}[/]", highlight=False)
        self._cached = 0
        if not steps:
            return
        self._left = {step.key: step.size for step in steps}
        self._steps, self._bytes = len(steps), sum(self._left.values())
        self._overall = self._progress.add_task("", total=self._bytes or None)
        self._move()

    def step_started(self, step: Step) -> None:
        """A bar of its own."""
        self._tasks[step.key] = self._progress.add_task(step.label, total=step.size or None)

    def step_progress(self, step: Step, written: int) -> None:
        """The bars move."""
        if step.key in self._tasks:
            self._progress.update(self._tasks[step.key], completed=written)
            self._left[step.key] = max(step.size - written, 0)
            self._move()

    def step_done(self, step: Step, entry: Entry) -> None:
        """The bar becomes a line."""
        task = self._tasks.pop(step.key, None)
        if task is not None:
            self._progress.remove_task(task)
        self._left.pop(step.key, None)
        self._move()
        self._console.print(
            f"[green]  {entry.seconds:9.1f} s[/]  {step.label}  [dim]({_measured(entry)})[/]", highlight=False
        )

    def _move(self) -> None:
        """Update the bar of all steps; remove it after the last."""
        if self._overall is None:
            return
        if not self._left:
            self._progress.remove_task(self._overall)
            self._overall = None
            return
        text = f"{self._steps - len(self._left)} of {self._steps} steps"
        self._progress.update(self._overall, description=text, completed=self._bytes - sum(self._left.values()))

    def transfer(self, done: int, total: int, label: str) -> None:
        """One bar for all that moves under a label."""
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=total)
        self._progress.update(self._tasks[label], completed=done, total=total)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(label))


@contextmanager
def reporter(*, quiet: bool) -> Iterator[Reporter]:
    """The reporter for this stderr: live on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        yield Quiet()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield Live(console, progress)


def table(rows: Sequence[Mapping[str, str]], *, right: frozenset[str] = frozenset()) -> str:
    """Rows with the same keys as aligned columns under a header; no frame, so that it can be piped."""
    if not rows:
        return ""
    names = list(rows[0])
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def put(row: Mapping[str, str]) -> str:
        cells = (row[name].rjust(widths[name]) if name in right else row[name].ljust(widths[name]) for name in names)
        return "  ".join(cells).rstrip()

    return "\n".join([put({name: name for name in names}), *map(put, rows)])


def _done_before(cached: int, to_do: int) -> str:
    return f"  {cached} of {cached + to_do} steps were done before"


def _measured(entry: Entry) -> str:
    peak = entry.measurements.get("peak_memory")
    return human(entry.size) + (f", peak {human(peak)}" if peak else "")
