"""Slices: by index, by size, and their update.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there).
"""

from __future__ import annotations

import torch

from hubpub.runtime.ops.table import Bools, Ints, Table, Tensor, keep


def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """x[begin:end:stride] per axis, as in NumPy; strides may be negative.

    begin_mask (end_mask): the axis starts at its first (ends at its last) element.
    squeeze_mask: the axis is removed, only `begin` is used. iOS 15; since 17 also 8-bit and
    16-bit integers. Reference: iOS15.tensor_transformation.slice_by_index
    """
    for axis in reversed(range(x.ndim)):
        if squeeze_mask and squeeze_mask[axis]:
            x = x.select(axis, 0 if begin_mask and begin_mask[axis] else begin[axis])
            continue
        first = None if begin_mask and begin_mask[axis] else begin[axis]
        last = None if end_mask and end_mask[axis] else end[axis]
        positions = range(x.shape[axis])[first : last : stride[axis] if stride else 1]
        x = _taken(x, axis, positions)
    return x


def _taken(x: Tensor, axis: int, positions: range) -> Tensor:
    """The positions of an axis: a view for a positive step, else a reversed copy."""
    if positions.step > 0:
        return x.movedim(axis, 0)[positions.start : positions.stop : positions.step].movedim(0, axis)
    return x.index_select(axis, torch.tensor(list(positions), device=x.device, dtype=torch.int64))


def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """`size` elements from `begin` per axis; -1 takes the rest; a negative begin counts from the end. iOS 15, 17.

    Reference: iOS15.tensor_transformation.slice_by_size
    """
    for axis, (first, count) in enumerate(zip(begin, size, strict=True)):
        start = first + x.shape[axis] if first < 0 else first
        x = x.narrow(axis, start, x.shape[axis] - start if count == -1 else count)
    return x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
) -> Tensor:
    """A copy of x whose slice (see slice_by_index) holds `update`. iOS 18.

    Reference: iOS18.tensor_transformation.slice_update
    """
    positions = torch.arange(x.numel(), device=x.device).reshape(x.shape)
    chosen = slice_by_index(positions, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.clone(memory_format=torch.contiguous_format)
    result.view(-1)[chosen.reshape(-1)] = update.expand(chosen.shape).reshape(-1)
    return result


def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """x without (before, after) elements of the last two axes. iOS 15. Reference: iOS15.image_resizing.crop"""
    height, width = x.shape[-2:]
    return x[..., crop_height[0] : height - crop_height[1], crop_width[0] : width - crop_width[1]]


OPS: Table = {
    "crop": keep(crop),
    "slice_by_index": keep(slice_by_index),
    "slice_by_size": keep(slice_by_size),
    "slice_update": keep(slice_update, since=18),
}
