"""The loop: steps run once, in order, in processes of their own; what fails says so and leaves nothing."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hubpub.engine.progress import Quiet
from hubpub.engine.runner import execute
from hubpub.engine.store import Entry, Store
from hubpub.errors import StepFailed
from hubpub.steps import FromSource, FromStep, Step
from tests.support.named_steps import Named


class Recorder(Quiet):
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

        self.started: list[tuple[str, ...]] = []  # what ran, each time that a step had been started
        self.running: list[str] = []

    def step_started(self, step: Step) -> None:
        self.running.append(step.label)
        self.started.append(tuple(self.running))

    def step_cached(self, step: Step, entry: Entry) -> None:
        self.events.append(("cached", step.label))

    def step_done(self, step: Step, entry: Entry) -> None:
        self.running.remove(step.label)
        self.events.append(("done", step.label))


@dataclass(frozen=True, kw_only=True)
class Heavy(Named):
    """One that is scheduled as if it ran torch."""

    NEEDS: ClassVar[tuple[str, ...]] = ("zipfile",)


@dataclass(frozen=True, kw_only=True)
class Broken(Named):
    """One whose parameters do not reach the worker."""

    @property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        return {}


def _archive(label: str, **inputs: FromSource | FromStep) -> Step:
    return Named(stem=label, inputs=inputs)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "a.bin").write_bytes(b"a" * 1000)
    (folder / "vocab.json").write_text("{}")
    return folder


def _chain(source: Path) -> list[Step]:
    first = _archive("first", models=FromSource(path="models", files={"a.bin": "sha256:1"}))
    second = _archive("second", inner=FromStep(key=first.key, path="archive.zip"))
    return [first, second]


def _run(steps: list[Step], store: Store, source: Path) -> tuple[dict[str, Entry], list[tuple[str, str]]]:
    report = Recorder()
    return execute(steps, store=store, sources={"model": source}, jobs=2, memory=1 << 30, report=report), report.events


def test_steps_run_in_order_and_once(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    steps = _chain(source)
    entries, events = _run(steps, store, source)
    assert events == [("done", "first"), ("done", "second")]
    entry = entries[steps[1].key]
    with zipfile.ZipFile(entry.payload / "archive.zip") as outer:
        assert outer.namelist() == ["second/inner"]
    assert entry.measurements["peak_memory"] > 0
    assert _run(steps, store, source)[1] == [("cached", "first"), ("cached", "second")]
    assert list((store.root / "work").iterdir()) == []


def test_a_damaged_entry_is_made_again(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    steps = _chain(source)
    _run(steps, store, source)
    (store.root / "steps" / steps[0].key[:2] / steps[0].key / "entry.json").write_text("")
    assert _run(steps, store, source)[1] == [("cached", "second"), ("done", "first")]


def test_a_failure_has_a_sentence_and_leaves_nothing(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    broken = Broken(stem="broken", inputs={"models": FromSource(path="models", files={"a.bin": "sha256:1"})})
    with pytest.raises(StepFailed, match="broken failed: TypeError"):
        _run([broken], store, source)
    assert store.get(broken.key) is None
    assert list((store.root / "work").iterdir()) == []


def test_what_was_done_before_a_failure_is_kept(tmp_path: Path, source: Path) -> None:
    store = Store(tmp_path / "store")
    first, second = _chain(source)
    broken = Broken(stem="second", inputs=second.inputs)
    with pytest.raises(StepFailed):
        _run([first, broken], store, source)
    entries, events = _run([first, second], store, source)
    assert events == [("cached", "first"), ("done", "second")]
    assert len(entries) == 2


def test_the_archive_is_the_same_twice(tmp_path: Path, source: Path) -> None:
    steps = _chain(source)
    one, _ = _run(steps, Store(tmp_path / "one"), source)
    two, _ = _run(steps, Store(tmp_path / "two"), source)
    assert [entry.files for entry in one.values()] == [entry.files for entry in two.values()]


def _side_by_side(
    folder: Path, source: Path, *, jobs: int, memory: int = 1 << 30, **steps: tuple[type[Named], int]
) -> set[tuple[str, ...]]:
    """What ran at the same time when these steps, which need nothing of each other, were all to be done."""
    models = FromSource(path="models", files={"a.bin": "sha256:1"})
    plan = [kind(stem=label, inputs={"models": models}, memory=memory_) for label, (kind, memory_) in steps.items()]
    report = Recorder()
    execute(plan, store=Store(folder / "store"), sources={"model": source}, jobs=jobs, memory=memory, report=report)
    assert sorted(label for _, label in report.events) == sorted(steps)
    return set(report.started)


def test_one_heavy_step_at_a_time_and_light_ones_beside_it(tmp_path: Path, source: Path) -> None:
    heavy, light = (Heavy, 0), (Named, 0)
    seen = _side_by_side(tmp_path, source, jobs=4, one=heavy, two=heavy, light=light, three=heavy)
    assert ("one", "light") in seen
    assert not [labels for labels in seen if len({"one", "two", "three"} & set(labels)) > 1]


def test_a_heavy_step_does_not_wait_behind_light_ones(tmp_path: Path, source: Path) -> None:
    seen = _side_by_side(tmp_path, source, jobs=2, one=(Named, 0), two=(Named, 0), heavy=(Heavy, 0))
    assert ("heavy",) in seen


def test_steps_side_by_side_fit_into_the_memory(tmp_path: Path, source: Path) -> None:
    half = (Named, 600 << 20)
    assert ("one", "two") in _side_by_side(tmp_path / "enough", source, jobs=4, memory=1200 << 20, one=half, two=half)
    tight = _side_by_side(
        tmp_path / "tight", source, jobs=4, memory=1000 << 20, one=half, two=half, small=(Named, 1 << 20)
    )
    assert ("one", "small") in tight
    assert not [labels for labels in tight if {"one", "two"} <= set(labels)]


def test_a_step_larger_than_the_memory_runs_alone(tmp_path: Path, source: Path) -> None:
    seen = _side_by_side(tmp_path, source, jobs=2, memory=1 << 20, large=(Named, 2 << 20), small=(Named, 1 << 19))
    assert seen == {("large",), ("small",)}


def test_as_many_steps_as_jobs(tmp_path: Path, source: Path) -> None:
    seen = _side_by_side(tmp_path, source, jobs=1, one=(Named, 0), two=(Named, 0), three=(Named, 0))
    assert seen == {("one",), ("two",), ("three",)}
