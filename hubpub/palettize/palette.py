"""Palettization: a float16 tensor → a look-up table of 2**bits values, and an index per element.

The best table is the optimal one-dimensional k-means of the tensor's values (kmeans.py).
float16 has 65,536 values, so all work except counting and lookup is done on a histogram and
takes the same time for every tensor. Packed indices have the format of Core ML's
`constexpr_lut_to_dense`: consecutive indices, least significant bits first, the last byte
padded with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from hubpub.checkpoints.jit import jit
from hubpub.errors import BadWeights
from hubpub.palettize import kmeans

BITS = (1, 2, 4, 6, 8)

Float16s = npt.NDArray[np.float16]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]

# Every finite float16 as its bits, in ascending order: -65504 … -0, then 0 … 65504.
_ASCENDING = np.concatenate([np.arange(0xFBFF, 0x7FFF, -1), np.arange(0, 0x7C00)]).astype(np.uint16)
_VALUES = _ASCENDING.view(np.float16).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Palette:
    """A palettized tensor: `lut[indices]` approximates it."""

    lut: Float16s  # (2**bits,), ascending; unused entries are 0 and come last
    indices: Bytes  # the tensor's shape
    squared_error: float  # sum of (lut[indices] - weight)²


@dataclass(frozen=True, kw_only=True)
class Table:
    """The result of k-means on a histogram: the table, and the index of each float16."""

    bits: int
    lut: Float16s  # (2**bits,)
    codes: Bytes  # (65536,): the index of each float16, by its bits
    squared_error: float
    squared_sum: float  # sum of weight² (the signal of the signal-to-noise ratio)
    largest_error: float


def palettize(weight: Float16s, bits: int, *, exact: bool = False) -> Palette:
    """The best table of 2**bits values for `weight` (float16, any shape), and its indices.

        palette = palettize(weight, bits=6)
        palette.lut[palette.indices]  # approximates weight

    Before the table is rounded to float16, the squared error is the least possible with
    `exact`; else at most 1.0002 times that, in a twentieth of the time. A tensor with at most
    2**bits distinct values is stored exactly (0 and -0 count as one). The same input gives
    the same output on every machine. `bits`: 1, 2, 4, 6 or 8. Raises BadWeights for
    infinities and NaN.
    """
    table = fit(histogram(weight), bits, exact=exact)
    indices = np.empty(weight.shape, np.uint8)
    _look_up(_words(weight), table.codes, indices.reshape(-1))
    return Palette(lut=table.lut, indices=indices, squared_error=table.squared_error)


def histogram(weight: Float16s) -> npt.NDArray[np.uint32]:
    """How often each of the 65,536 bit patterns occurs in `weight`."""
    counts: npt.NDArray[np.uint32] = _count(_words(weight))
    return counts


def fit(counts: npt.NDArray[np.uint32], bits: int, *, exact: bool = False) -> Table:
    """The table for a histogram; see palettize()."""
    if bits not in BITS:
        raise ValueError(f"bits must be one of {BITS}, not {bits}")
    if counts[0x7C00:0x8000].any() or counts[0xFC00:].any():
        raise BadWeights("A tensor contains infinities or NaN, which cannot be palettized.")
    counts = counts.copy()
    counts[0] += counts[0x8000]
    counts[0x8000] = 0
    ordered = counts[_ASCENDING]
    present = ordered > 0
    values, weights = _VALUES[present], ordered[present].astype(np.float64)
    lut = np.zeros(1 << bits, np.float16)
    used = min(len(values), len(lut))
    if used == len(values):
        lut[:used] = values
    else:
        starts = (kmeans.exactly if exact else kmeans.nearly)(values, weights, used)
        lut[:used] = kmeans.centres(values, weights, starts)
    # Rounding to float16 moved the centres: assign each value to the nearest rounded centre.
    entries = lut[:used].astype(np.float64)
    nearest = np.searchsorted((entries[1:] + entries[:-1]) / 2, values, side="left")
    error = values - entries[nearest]
    codes = np.zeros(65536, np.uint8)
    codes[_ASCENDING[present]] = nearest
    codes[0x8000] = codes[0]
    return Table(
        bits=bits,
        lut=lut,
        codes=codes,
        squared_error=float((weights * error * error).sum()),
        squared_sum=float((weights * values * values).sum()),
        largest_error=float(np.abs(error).max(initial=0.0)),
    )


def packed_indices(weight: Float16s, table: Table) -> Bytes:
    """The packed indices of `weight` in `table`: equal to pack() of palettize()'s indices, in one pass."""
    words = _words(weight)
    packed = np.zeros(-(-words.size * table.bits // 8), np.uint8)
    _pack(words, table.codes, table.bits, packed)
    return packed


def pack(indices: Bytes, bits: int) -> bytes:
    """Indices (any shape, C order) packed with `bits` bits each, least significant bits first."""
    if indices.size and int(indices.max()) >> bits:
        raise ValueError(f"an index of {indices.max()} does not fit in {bits} bits")
    packed = np.zeros(-(-indices.size * bits // 8), np.uint8)
    identity = np.zeros(65536, np.uint8)
    identity[:256] = np.arange(256)
    _pack(indices.reshape(-1).astype(np.uint16), identity, bits, packed)
    return packed.tobytes()


def unpack(packed: bytes | memoryview, bits: int, count: int) -> Bytes:
    """The first `count` indices of packed bytes; the inverse of pack()."""
    if len(packed) * 8 < count * bits:
        raise ValueError(f"{len(packed)} bytes hold fewer than {count} indices of {bits} bits")
    indices = np.empty(count, np.uint8)
    _unpack(np.frombuffer(packed, np.uint8), bits, indices)
    return indices


def _words(weight: Float16s) -> Words:
    """The tensor's bits as a flat, contiguous uint16 array (a view if possible)."""
    if weight.dtype != np.float16:
        raise ValueError(f"palettization takes float16, not {weight.dtype}")
    words: Words = np.require(weight, requirements=["C", "A"]).reshape(-1).view(np.uint16)
    return words


@jit
def _count(words: Words) -> npt.NDArray[np.uint32]:
    # Two counters: neighbours often have the same bits, and a single counter would stall on its own updates.
    counts = np.zeros((2, 65536), np.uint32)
    for i in range(words.size // 2):
        counts[0, words[2 * i]] += 1
        counts[1, words[2 * i + 1]] += 1
    if words.size % 2:
        counts[0, words[words.size - 1]] += 1
    both: npt.NDArray[np.uint32] = counts[0] + counts[1]
    return both


@jit
def _look_up(words: Words, codes: Bytes, indices: Bytes) -> None:
    for i in range(words.size):
        indices[i] = codes[words[i]]


@jit
def _pack(words: Words, codes: Bytes, bits: int, packed: Bytes) -> None:
    done = 0
    if bits == 6:  # four indices in three bytes, faster than the general loop
        for group in range(words.size // 4):
            at = 4 * group
            value = (
                numba.uint32(codes[words[at]])
                | numba.uint32(codes[words[at + 1]]) << 6
                | numba.uint32(codes[words[at + 2]]) << 12
                | numba.uint32(codes[words[at + 3]]) << 18
            )
            packed[3 * group] = value & 255
            packed[3 * group + 1] = (value >> 8) & 255
            packed[3 * group + 2] = value >> 16
        done = words.size // 4 * 4
    out, held, value = done * bits // 8, 0, 0
    for i in range(done, words.size):
        value |= codes[words[i]] << held
        held += bits
        if held >= 8:
            packed[out] = value & 255
            out, held, value = out + 1, held - 8, value >> 8
    if held:
        packed[out] = value


@jit
def _unpack(packed: Bytes, bits: int, indices: Bytes) -> None:
    at, held, value = 0, 0, 0
    for i in range(indices.size):
        if held < bits:
            value |= packed[at] << held
            at, held = at + 1, held + 8
        indices[i] = value & ((1 << bits) - 1)
        value, held = value >> bits, held - bits
