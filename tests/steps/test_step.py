"""A step's key is what it means: nothing else changes it, and everything that matters does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.steps.step import FromSource, FromStep, Step

STEP = Step(
    kind="fill",
    version=1,
    params={"bits": 6, "name": "unet"},
    inputs={"graph": FromStep(key="a" * 64), "source": FromSource(path="unet", files={"w": "sha256:0"})},
    label="unet",
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(max_examples=25)
@given(st.dictionaries(st.text(), values, min_size=2, max_size=4))
def test_the_order_of_params_is_no_part_of_the_key(params: dict[str, Any]) -> None:
    turned = dict(reversed(params.items()))
    assert replace(STEP, params=params).key == replace(STEP, params=turned).key


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "compile"},
        {"version": 2},
        {"params": {"bits": 8, "name": "unet"}},
        {"inputs": {"graph": FromStep(key="b" * 64)}},
        {"inputs": {**STEP.inputs, "source": FromSource(path="unet", files={"w": "sha256:1"})}},
        {"after": ("c" * 64,)},
    ],
)
def test_what_changes_the_key(change: dict[str, Any]) -> None:
    assert replace(STEP, **change).key != STEP.key


@pytest.mark.parametrize("change", [{"label": "x"}, {"needs": ("torch",)}, {"size": 1}, {"memory": 1}])
def test_what_does_not(change: dict[str, Any]) -> None:
    assert replace(STEP, **change).key == STEP.key


def test_a_moved_source_is_the_same_input() -> None:
    moved = {**STEP.inputs, "source": FromSource(path="elsewhere", files={"w": "sha256:0"})}
    assert replace(STEP, inputs=moved).key == STEP.key


def test_requires_names_inputs_and_gates() -> None:
    assert replace(STEP, after=("c" * 64,)).requires() == {"a" * 64, "c" * 64}
