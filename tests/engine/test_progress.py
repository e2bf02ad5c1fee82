"""What a terminal shows while steps run: all of it, each step, bytes, speed and time; and what a log gets."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from hubpub.engine.progress import Lines, Live, Quiet, reporter
from hubpub.engine.store import Entry
from hubpub.steps import Step
from tests.support.named_steps import Named


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextmanager
def shown_live(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Live, Terminal]]:
    """The reporter of a terminal, and the terminal."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with reporter(quiet=False) as live:
        assert isinstance(live, Live)
        yield live, stream


def _step(label: str, size: int) -> Step:
    return Named(stem=label, size=size, memory=1)


def _entry(step: Step) -> Entry:
    return Entry(
        key=step.key, kind=step.kind(), label=step.label, seconds=1.5, files=(), created=0.0,
        measurements={"peak_memory": 180_000_000}, payload=Path(),
    )  # fmt: skip


def _bars(live: Live) -> list[str]:
    """The lines that the terminal shows now."""
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    console.print(live._progress.get_renderable())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_a_terminal_sees_all_steps_and_each(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _step("unet, 6-bit", 3_000_000), _step("archive original", 1_000_000)
    with shown_live(monkeypatch) as (live, terminal):
        live.step_cached(second, _entry(second))
        live.to_do([first, second])
        assert "1 of 3 steps were done before" in terminal.getvalue()
        live.step_started(first)
        live.step_progress(first, 2_000_000)
        overall, step = _bars(live)
        assert overall.startswith("0 of 2 steps")
        assert "2.0/4.0 MB" in overall  # what this step has written, of what both will write
        assert step.startswith("unet, 6-bit")
        assert "2.0/3.0 MB" in step
        assert overall.count(":") >= 4  # time so far, time to come
        live.step_done(first, _entry(first))
        (overall,) = _bars(live)
        assert overall.startswith("1 of 2 steps")
        assert "3.0/4.0 MB" in overall
        live.step_started(second)
        live.step_done(second, _entry(second))
        assert _bars(live) == []
    assert "unet, 6-bit" in terminal.getvalue()
    assert "peak 180.0 MB" in terminal.getvalue()


def test_steps_of_unknown_size_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step("verify unet", 0)
    with shown_live(monkeypatch) as (live, terminal):
        live.to_do([step])
        live.step_started(step)
        assert next(line.partition(" steps")[0] for line in _bars(live)) == "0 of 1"
        live.step_done(step, _entry(step))
        assert _bars(live) == []
        assert "1.5 s" in terminal.getvalue()


def test_a_log_gets_lines_and_quiet_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    step = _step("unet, 6-bit", 3_000_000)
    for quiet, kind in ((False, Lines), (True, Quiet)):
        with reporter(quiet=quiet) as made:
            assert type(made) is kind
            made.step_cached(step, _entry(step))
            made.step_cached(step, _entry(step))
            made.to_do([step])
            made.step_started(step)
            made.step_progress(step, 5)
            made.step_done(step, _entry(step))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "  2 of 3 steps were done before",
        "        1.5 s  unet, 6-bit  (0 B, peak 180.0 MB)",
    ]
