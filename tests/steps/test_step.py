"""A step's key is what it means: nothing else changes it, and everything that matters does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.steps import KINDS, FromSource, FromStep, Step


@dataclass(frozen=True, kw_only=True)
class Paint(Step):
    """A kind of step for these tests."""

    VERSION: ClassVar[int] = 1

    colour: str = "red"
    layers: Mapping[str, Any]

    @property
    def label(self) -> str:
        return f"paint {self.colour}"

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Repaint(Paint):
    """The same parameters, another kind."""


@dataclass(frozen=True, kw_only=True)
class Paint2(Paint):
    """The same kind, another version."""

    VERSION: ClassVar[int] = 2

    @classmethod
    def kind(cls) -> str:
        return "paint"


INPUTS = {"graph": FromStep(key="a" * 64), "source": FromSource(path="unet", files={"w": "sha256:0"})}
STEP = Paint(layers={"ground": 1, "top": 2}, inputs=INPUTS)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(max_examples=25)
@given(st.dictionaries(st.text(), values, min_size=2, max_size=4))
def test_the_order_of_params_is_not_part_of_the_key(layers: dict[str, Any]) -> None:
    turned = dict(reversed(layers.items()))
    assert replace(STEP, layers=layers).key == replace(STEP, layers=turned).key


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "blue"},
        {"layers": {"ground": 1, "top": 3}},
        {"inputs": {"graph": FromStep(key="b" * 64)}},
        {"inputs": {**INPUTS, "source": FromSource(path="unet", files={"w": "sha256:1"})}},
        {"after": ("c" * 64,)},
    ],
)
def test_what_changes_the_key(change: dict[str, Any]) -> None:
    assert replace(STEP, **change).key != STEP.key


def test_kind_and_version_change_the_key() -> None:
    layers = {"ground": 1, "top": 2}
    keys = {kind(layers=layers, inputs=INPUTS).key for kind in (Paint, Repaint, Paint2)}
    assert len(keys) == 3


@pytest.mark.parametrize("change", [{"size": 1}, {"memory": 1}])
def test_estimates_do_not(change: dict[str, Any]) -> None:
    assert replace(STEP, **change).key == STEP.key


def test_a_moved_source_is_the_same_input() -> None:
    moved = {**INPUTS, "source": FromSource(path="elsewhere", files={"w": "sha256:0"}, source="other")}
    assert replace(STEP, inputs=moved).key == STEP.key


def test_requires_names_inputs_and_gates() -> None:
    assert replace(STEP, after=("c" * 64,)).requires() == {"a" * 64, "c" * 64}


def test_params_travel_as_json() -> None:
    made = Paint(**json.loads(json.dumps(STEP.params)), inputs=INPUTS)
    assert made.key == STEP.key


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_has_a_version_and_a_name_of_its_own(kind: type[Step]) -> None:
    assert kind.VERSION >= 1
    assert KINDS[kind.kind()] is kind
