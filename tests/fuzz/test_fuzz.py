"""Bytes of others, mutated: each reader refuses them with an error of ours, or reads them; nothing else escapes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, attempt

_INTERESTING = [b"", b"\0", b"\xff" * 8, b"-1", b"1e999", b"null", b"[]", b"{}", b'"', b"\n", b"../x", b"9" * 400]


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """A seed with up to three places overwritten, cut out, repeated or exchanged."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 4, 8, 64]))
        piece = draw(st.sampled_from(_INTERESTING) | st.binary(max_size=8) | st.just(bytes(data[at : at + length])))
        data[at : at + draw(st.sampled_from([0, length, len(piece)]))] = piece
    return bytes(data)


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def changed(draw: st.DrawFn, seed: bytes) -> bytes:
    """A JSON seed with one value exchanged for another of any kind, or left out."""
    value = json.loads(seed)
    holder, key = value, None
    while isinstance(holder[key] if key is not None else holder, dict | list):
        inner = holder[key] if key is not None else holder
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys or (key is not None and draw(st.integers(0, 3)) == 0):
            break
        holder, key = inner, draw(st.sampled_from(keys))
    if draw(st.integers(0, 3)) == 0:
        del holder[key]
    else:
        holder[key] = draw(junk)
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted(name: str) -> None:
    """Else the mutated ones would be refused at the door."""
    seeds = list(TARGETS[name].seeds())
    assert seeds
    assert all(attempt(TARGETS[name], seed) for seed in seeds)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_only_our_own_errors_escape(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(list(TARGETS[name].seeds())))
    attempt(TARGETS[name], data.draw(mutated(seed)))


@pytest.mark.parametrize("name", ["manifest", "source", "package-manifest"])
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_only_our_own_errors_escape_where_values_are_of_another_kind(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(list(TARGETS[name].seeds())))
    attempt(TARGETS[name], data.draw(changed(seed)))
