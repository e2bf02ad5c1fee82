"""Compressed constants: look-up tables, affine, sparse, cast, and their combinations.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). They run on the host each time a layer needs its
weight, so that only one weight is uncompressed at a time. In iOS 16 and 17 the arguments are
attributes: packed bytes, and shapes as separate attributes. Since iOS 18 they are inputs of
sub-byte dtypes, with blocks and vectors; sparse forms return a mask and the non-zero elements.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch

from hubpub.errors import BadPackage
from hubpub.runtime.constants import unpack
from hubpub.runtime.ops.table import HOST_FLOATS, Array, Ints, Packed, Table, keep, wide


@numba.njit(nogil=True)
def _look_up(raw: Array, bits: int, table: Array, out: Array) -> None:
    """out[i] = table[code i of raw]; codes have `bits` bits, least significant bits first."""
    mask = (1 << bits) - 1
    last = raw.size - 1
    for i in range(out.size):
        position = i * bits
        byte = position >> 3
        pair = np.uint32(raw[byte])
        if byte < last:
            pair |= np.uint32(raw[byte + 1]) << 8
        out[i] = table[(pair >> (position & 7)) & mask]


def look_up(raw: Array, bits: int, table: Array, count: int) -> Array:
    """The entries of `table` (2^bits entries) for `count` packed codes; BadPackage if the sizes do not match."""
    if table.size != 1 << bits or raw.size * 8 < count * bits:
        raise BadPackage(f"{table.size} table entries and {raw.size} bytes are not {count} codes of {bits} bits.")
    plain = np.ascontiguousarray(table).view(f"u{table.dtype.itemsize}")
    out = np.empty(count, plain.dtype)
    _look_up(np.ascontiguousarray(raw), bits, plain, out)
    return out.view(table.dtype)


def constexpr_lut_to_dense(
    indices: Packed, lut: Array, shape: Ints | None = None, vector_axis: int | None = None
) -> Array:
    """Each code replaced by its entry of the table.

    iOS 16: lut [2^bits], packed bytes and a shape. iOS 18: lut [g0, …, g_{K-1}, 2^bits, V], one table per group
    of equal blocks of each axis, each entry a vector that is laid out along vector_axis.
    Reference: iOS16.constexpr_ops.constexpr_lut_to_dense, iOS18.compression.constexpr_lut_to_dense
    """
    if shape is not None:
        bits = int(math.log2(lut.size))
        return look_up(indices.raw.reshape(-1), bits, lut.reshape(-1), math.prod(shape)).reshape(shape)
    groups, vector = lut.shape[:-2], lut.shape[-1]
    if math.prod(groups) == 1 and vector == 1 and indices.bits:
        flat = look_up(indices.raw, indices.bits, lut.reshape(-1), math.prod(indices.shape))
        return flat.reshape(indices.shape)
    return _grouped(indices.elements(), lut, groups, vector, vector_axis)


def _grouped(codes: Array, lut: Array, groups: tuple[int, ...], vector: int, vector_axis: int | None) -> Array:
    rank = codes.ndim
    # each axis as (groups, block), then all groups first: [g0, …, b0, …]
    split = [size for axis in range(rank) for size in (groups[axis], codes.shape[axis] // groups[axis])]
    blocks = codes.reshape(split).transpose([*range(0, 2 * rank, 2), *range(1, 2 * rank, 2)])
    flat = blocks.reshape(math.prod(groups), -1)
    tables = lut.reshape(math.prod(groups), lut.shape[-2], vector)
    values = np.stack([table[row] for table, row in zip(tables, flat, strict=True)])
    back = [place for axis in range(rank) for place in (axis, rank + axis)]
    whole = values.reshape(*blocks.shape, vector).transpose([*back, 2 * rank]).reshape(*codes.shape, vector)
    if vector == 1:
        return whole[..., 0]
    if vector_axis is None:
        raise BadPackage("A table of vectors needs a vector_axis.")
    axis = vector_axis % rank
    shape = [size * vector if i == axis else size for i, size in enumerate(codes.shape)]
    return np.moveaxis(whole, -1, axis + 1).reshape(shape)


def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: int) -> Array:
    """scale·(data - zero_point); scalars, or vectors along axis. iOS 16.

    Reference: iOS16.constexpr_ops.constexpr_affine_dequantize
    """
    shape = [1] * quantized_data.ndim
    shape[axis] = -1
    zero, factor = (v.astype(np.float32).reshape(shape if v.size > 1 else ()) for v in (zero_point, scale))
    return factor * (quantized_data.astype(np.float32) - zero)


def constexpr_blockwise_shift_scale(data: Packed, scale: Array, offset: Packed | None = None) -> Array:
    """scale·(data - offset), one scale and offset per block; block sizes follow from the shapes. iOS 18.

    Reference: iOS18.compression.constexpr_blockwise_shift_scale
    """
    whole = data.elements().reshape(data.shape)
    return _shift_scaled(whole, scale, None if offset is None else offset.elements())


def _shift_scaled(whole: Array, scale: Array, offset: Array | None) -> Array:
    split = [n for size, count in zip(whole.shape, scale.shape, strict=True) for n in (count, size // count)]
    per_block = [n for count in scale.shape for n in (count, 1)]
    values = whole.astype(np.float32).reshape(split)
    if offset is not None:
        values = values - offset.astype(np.float32).reshape(per_block)
    return (values * scale.astype(np.float32).reshape(per_block)).reshape(whole.shape)


def constexpr_sparse_to_dense(nonzero_data: Packed, mask: Packed, shape: Ints | None = None) -> Array:
    """The elements at the places where the bit mask is set, zero elsewhere; row-major.

    iOS 16: mask bytes and a shape; iOS 18: a mask of 1-bit elements.
    Reference: iOS16.constexpr_ops.constexpr_sparse_to_dense, iOS18.compression.constexpr_sparse_to_dense
    """
    wanted = mask.shape if shape is None else tuple(shape)
    places = _bits(mask, wanted)
    elements = nonzero_data.elements().reshape(-1)
    if int(places.sum()) != elements.size:
        raise BadPackage(f"A sparse constant has {elements.size} elements for {int(places.sum())} places.")
    dense = np.zeros(wanted, elements.dtype)
    dense[places] = elements
    return dense


def _bits(mask: Packed, shape: tuple[int, ...]) -> Array:
    """The mask as booleans; a mask computed by another op has one element per value, not packed bits."""
    if mask.bits or mask.raw.shape != shape:
        return unpack(mask.raw.reshape(-1), 1, shape).astype(bool)
    return mask.raw.astype(bool)


def constexpr_lut_to_sparse(
    indices_mask: Packed, indices_nonzero_data: Packed, lut: Array, vector_axis: int | None = None
) -> tuple[Array, Array]:
    """The mask and the non-zero elements of constexpr_lut_to_dense, whose codes are sparse. iOS 18.

    Reference: iOS18.compression.constexpr_lut_to_sparse
    """
    dense = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    whole = Packed(dense, 0, dense.shape)
    values = constexpr_lut_to_dense(whole, lut, vector_axis=vector_axis)
    places = _bits(indices_mask, indices_mask.shape)
    if lut.shape[-1] > 1 and vector_axis is not None:
        places = np.repeat(places, lut.shape[-1], vector_axis)
    return places.astype(np.uint8), values[places]


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Packed, nonzero_data: Packed, scale: Array, offset: Packed | None = None
) -> tuple[Array, Array]:
    """The mask and the non-zero elements of constexpr_blockwise_shift_scale, whose data are sparse. iOS 18.

    Reference: iOS18.compression.constexpr_sparse_blockwise_shift_scale
    """
    dense = constexpr_sparse_to_dense(nonzero_data, data_mask)
    values = _shift_scaled(dense, scale, None if offset is None else offset.elements())
    places = _bits(data_mask, data_mask.shape)
    return places.astype(np.uint8), values[places]


def constexpr_cast(source_val: Array, dtype: torch.dtype, output_dtype: str = "") -> Array:
    """The constant in another float dtype. iOS 16. Reference: iOS16.constexpr_ops.constexpr_cast"""
    return source_val.astype(HOST_FLOATS[dtype])


# keep: the result has the stored bits; wide: computed in fp32 and rounded to the declared dtype
OPS: Table = {
    "constexpr_affine_dequantize": wide(constexpr_affine_dequantize, since=16),
    "constexpr_blockwise_shift_scale": wide(constexpr_blockwise_shift_scale, since=18),
    "constexpr_cast": keep(constexpr_cast, since=16),
    "constexpr_lut_to_dense": keep(constexpr_lut_to_dense, since=16),
    "constexpr_lut_to_sparse": keep(constexpr_lut_to_sparse, since=18),
    "constexpr_sparse_blockwise_shift_scale": wide(constexpr_sparse_blockwise_shift_scale, since=18),
    "constexpr_sparse_to_dense": keep(constexpr_sparse_to_dense, since=16),
}
