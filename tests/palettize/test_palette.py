"""Palettization: optimal, exact where it can be, deterministic, packed as Core ML unpacks it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hubpub.errors import BadWeights
from hubpub.palettize import kmeans
from hubpub.palettize.palette import BITS, fit, histogram, pack, packed_indices, palettize, unpack

Array = npt.NDArray[Any]
SHAPES = ("normal", "laplace", "student", "mixture", "uniform", "outliers", "grid", "sparse")


def _sample(kind: str, count: int, seed: int = 0) -> npt.NDArray[np.float16]:
    random = np.random.default_rng([seed, SHAPES.index(kind)])
    values: Array
    match kind:
        case "normal":
            values = random.normal(0, 0.02, count)
        case "laplace":
            values = random.laplace(0, 0.02, count)
        case "student":
            values = random.standard_t(3, count) * 0.02
        case "mixture":
            values = np.concatenate([random.normal(0, 0.005, count - count // 2), random.normal(0.3, 0.1, count // 2)])
        case "uniform":
            values = random.uniform(-1, 1, count)
        case "outliers":
            values = random.normal(0, 0.01, count)
            values[:5] = [30, -20, 15, 3, 60000]
        case "grid":
            values = np.round(random.normal(0, 40, count)) / 128
        case _:
            values = random.normal(0, 0.02, count) * (random.random(count) < 0.1)
    return values.astype(np.float16)


def _error(weight: Array, palette: Any) -> float:
    return float(((palette.lut[palette.indices].astype(np.float64) - weight.astype(np.float64)) ** 2).sum())


def _distribution(weight: Array) -> tuple[Array, Array]:
    values, counts = np.unique(weight.astype(np.float64), return_counts=True)
    return values, counts.astype(np.float64)


def _cost(values: Array, weights: Array, starts: Array) -> float:
    """Squared error of a partition, each cluster by itself."""
    total = 0.0
    for first, last in itertools.pairwise(starts):
        v, w = values[first:last], weights[first:last]
        total += float((w * (v - np.average(v, weights=w)) ** 2).sum())
    return total


@pytest.mark.parametrize("clusters", [1, 2, 3, 4])
def test_exactly_is_the_best_of_all_partitions(clusters: int) -> None:
    random = np.random.default_rng(clusters)
    for _ in range(20):
        values = np.sort(random.choice(60, 9, replace=False)).astype(np.float64) ** 2
        weights = random.integers(1, 30, 9).astype(np.float64)
        best = min(
            _cost(values, weights, np.array([0, *cuts, 9]))
            for cuts in itertools.combinations(range(1, 9), clusters - 1)
        )
        assert _cost(values, weights, kmeans.exactly(values, weights, clusters)) == pytest.approx(
            best, rel=1e-9, abs=1e-9
        )


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("bits", BITS)
def test_the_fast_way_is_within_1_0002_of_the_optimum(kind: str, bits: int) -> None:
    for count in (3_000, 40_000, 600_000):
        weight = _sample(kind, count)
        fast, best = palettize(weight, bits), palettize(weight, bits, exact=True)
        assert fast.squared_error <= 1.0002 * best.squared_error
        values, weights = _distribution(weight)
        if len(values) > 1 << bits:
            optimum = _cost(values, weights, kmeans.exactly(values, weights, 1 << bits))
            assert _cost(values, weights, kmeans.nearly(values, weights, 1 << bits)) <= 1.0002 * optimum


@pytest.mark.parametrize("kind", SHAPES)
def test_the_error_is_that_of_an_independent_kmeans(kind: str) -> None:
    """scikit-learn's, started from our centres and from its own: it finds nothing better."""
    cluster = pytest.importorskip("sklearn.cluster")
    weight = _sample(kind, 20_000)
    values, weights = _distribution(weight)
    for bits in (1, 2, 4):
        starts = kmeans.exactly(values, weights, 1 << bits)
        ours = _cost(values, weights, starts)
        centres = kmeans.centres(values, weights, starts)
        for init in (centres[:, None], "k-means++"):
            model = cluster.KMeans(1 << bits, init=init, n_init=1, random_state=0).fit(
                values[:, None], sample_weight=weights
            )
            assert ours <= model.inertia_ * (1 + 1e-9)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", SHAPES)
def test_the_palette_has_the_reported_error(kind: str, bits: int) -> None:
    weight = _sample(kind, 20_000).reshape(40, 50, 2, 5)
    palette = palettize(weight, bits)
    assert palette.lut.dtype == np.float16
    assert palette.lut.shape == (1 << bits,)
    assert palette.indices.dtype == np.uint8
    assert palette.indices.shape == weight.shape
    assert palette.squared_error == pytest.approx(_error(weight, palette), rel=1e-9)
    # Every element stands at its nearest entry.
    used = np.unique(palette.indices)
    distance = np.abs(weight.astype(np.float64)[..., None] - palette.lut[used].astype(np.float64))
    assert np.array_equal(distance.min(-1), np.abs(palette.lut[palette.indices].astype(np.float64) - weight))


@pytest.mark.parametrize("bits", BITS)
def test_few_values_are_stored_exactly(bits: int) -> None:
    random = np.random.default_rng(bits)
    for count in {1, 2, 3, (1 << bits) - 1, 1 << bits} & set(range(1, (1 << bits) + 1)):
        values = np.unique(random.normal(size=4 * count).astype(np.float16))[:count]
        weight = np.concatenate([values, random.choice(values, 500)])
        palette = palettize(weight, bits)
        assert np.array_equal(palette.lut[palette.indices], weight)
        assert palette.squared_error == 0.0
        assert np.array_equal(
            palette.lut, np.concatenate([values, np.zeros((1 << bits) - len(values))]).astype(np.float16)
        )


def test_zeros_subnormals_and_the_largest_values() -> None:
    tiny = np.float16(2**-24)
    weight = np.array([0.0, -0.0, tiny, -tiny, 65504, -65504, 3 * tiny, 1], np.float16)
    palette = palettize(weight, 4)
    assert np.array_equal(palette.lut[palette.indices], weight)
    assert palette.indices[0] == palette.indices[1]
    assert not np.signbit(palette.lut[palette.indices[1]])
    two = palettize(np.array([65504, 65504, -65504, 0, -0.0], np.float16), 1)
    assert np.isfinite(two.lut).all()
    subnormal = (np.arange(-200, 200) * 2.0**-24).astype(np.float16)
    palette = palettize(subnormal, 6)
    assert palette.squared_error == pytest.approx(_error(subnormal, palette))
    assert palette.squared_error < 400 * (4 * 2.0**-24) ** 2


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_are_refused(bad: float) -> None:
    weight = np.ones(5000, np.float16)
    weight[4999] = bad
    with pytest.raises(BadWeights, match="infinities or NaN"):
        palettize(weight, 6)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        palettize(np.ones(5, np.float32), 6)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bits"):
        palettize(np.ones(5, np.float16), 5)
    with pytest.raises(ValueError, match="does not fit"):
        pack(np.array([4], np.uint8), 2)
    with pytest.raises(ValueError, match="fewer than 3"):
        unpack(b"\0", 4, 3)


def test_an_empty_and_a_constant_tensor() -> None:
    assert palettize(np.zeros((0, 3), np.float16), 4).indices.shape == (0, 3)
    palette = palettize(np.full((7, 9), -2.5, np.float16), 1)
    assert palette.lut[0] == np.float16(-2.5)
    assert not palette.indices.any()


def test_views_that_are_strided_or_unaligned_are_taken_as_they_read() -> None:
    base = _sample("normal", 10_000).reshape(100, 100)
    assert np.array_equal(palettize(base.T, 6).indices, palettize(np.ascontiguousarray(base.T), 6).indices)
    raw = b"x" + base.tobytes()
    odd = np.frombuffer(raw, np.float16, 10_000, 1)
    assert not odd.flags.aligned
    assert np.array_equal(palettize(odd, 6).indices.reshape(100, 100), palettize(base, 6).indices)


@pytest.mark.parametrize("bits", BITS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_packing_is_undone_and_the_two_ways_agree(bits: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 70))
    indices = data.draw(hnp.arrays(np.uint8, count, elements=st.integers(0, (1 << bits) - 1)))
    packed = pack(indices, bits)
    assert len(packed) == -(-count * bits // 8)
    assert np.array_equal(unpack(packed, bits, count), indices)
    # The definition: bit b of index i is bit (i·bits + b) of the stream.
    stream = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    expected = np.unpackbits(indices[:, None], axis=1, bitorder="little")[:, :bits].reshape(-1)
    assert np.array_equal(stream[: expected.size], expected)
    assert not stream[expected.size :].any()
    weight = data.draw(hnp.arrays(np.float16, count, elements=st.floats(-100, 100, width=16)))
    table = fit(histogram(weight), bits)
    assert packed_indices(weight, table).tobytes() == pack(palettize(weight, bits).indices, bits)


@given(weight=hnp.arrays(np.float16, st.integers(1, 300), elements=st.floats(-60000, 60000, width=16)))
@settings(max_examples=60, deadline=None)
def test_more_bits_are_never_worse_and_order_does_not_matter(weight: Array) -> None:
    errors = [palettize(weight, bits, exact=True).squared_error for bits in BITS]
    for coarse, fine in itertools.pairwise(errors):
        # Rounding the table to float16 may cost what more entries gain where both are nearly exact.
        assert fine <= coarse * 1.01 + weight.size * (float(np.abs(weight).max()) * 2.0**-11) ** 2
    palette = palettize(weight, 4)
    assert np.array_equal(palettize(weight[::-1], 4).lut, palette.lut)
    assert np.array_equal(palettize(weight[::-1], 4).indices[::-1], palette.indices)


def test_another_process_gives_the_same_bytes() -> None:
    program = (
        "import hashlib, numpy as np; from hubpub.palettize import palettize;"
        "w = (np.random.Generator(np.random.SFC64(7)).integers(-99, 100, (9, 50000)).sum(0) / 8192).astype(np.float16);"
        "p = palettize(w, 6); print(hashlib.sha256(p.lut.tobytes() + p.indices.tobytes()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        ).stdout
        for seed in ("1", "2")
    }
    # Recorded on x86-64: another machine must give the same.
    assert outputs == {"3a701d15341dd8e98787f6628b0d56dea7628879ee937a98942f53ee7b17dac6\n"}


def test_coremltools_decompresses_what_we_pack() -> None:
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops
    from coremltools.optimize import _utils as optimize_utils

    weight = _sample("normal", 6 * 7 * 3 * 3 * 5 + 1)
    for bits in BITS:
        palette = palettize(weight, bits)
        packed = np.frombuffer(pack(palette.indices, bits), np.uint8)
        assert np.array_equal(optimize_utils.pack_elements_into_bits(palette.indices, bits), packed)
        dense = constexpr_ops.constexpr_lut_to_dense.decompress(palette.lut, packed, np.array(weight.shape))
        assert np.array_equal(dense, palette.lut[palette.indices])


@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_no_worse_than_coremltools(bits: int) -> None:
    """Its k-means is exact where kmeans1d is installed, scikit-learn's otherwise: ours is never worse."""
    pytest.importorskip("coremltools")
    from coremltools.optimize.coreml._quantization_passes import palettize_weights

    weight = _sample("laplace", 9_000).reshape(90, 100)
    lut, indices = palettize_weights._get_lut_and_indices(weight, "KMEANS", bits, None)
    theirs = (
        (lut.reshape(-1).astype(np.float64)[indices.reshape(-1)] - weight.reshape(-1).astype(np.float64)) ** 2
    ).sum()
    assert palettize(weight, bits).squared_error <= theirs * 1.0002


def test_a_large_tensor_takes_a_moment() -> None:
    """14.7 million weights, the UNet's largest: 14 s with kmeans1d on the same machine."""
    weight = np.tile(_sample("normal", 1 << 20), 15)[:14_745_600]
    palettize(weight[:5000], 6)  # compile
    start = time.process_time()
    palettize(weight, 6)
    assert time.process_time() - start < 0.35
