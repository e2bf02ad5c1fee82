"""Ops that create, sort, pad and inspect tensors.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Ints, Table, Tensor, Tensors, keep, wide


def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """The last two axes' band of `lower` sub- and `upper` superdiagonals (negative: all), zero elsewhere. iOS 15.

    Reference: iOS15.tensor_operation.band_part
    """
    m = torch.arange(x.shape[-2], device=x.device)[:, None]
    n = torch.arange(x.shape[-1], device=x.device)[None, :]
    band = torch.ones_like(m - n, dtype=torch.bool)
    if lower >= 0:
        band &= m - n <= lower
    if upper >= 0:
        band &= n - m <= upper
    return torch.where(band, x, torch.zeros((), dtype=x.dtype, device=x.device))


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum along axis; exclusive: without the element itself; reverse: from the end. iOS 15.

    Reference: iOS15.tensor_operation.cumsum
    """
    source = x.flip(axis) if reverse else x
    total = source.cumsum(axis)
    if exclusive:
        total = total - source
    return total.flip(axis) if reverse else total


def fill(shape: Ints, dtype: torch.dtype, device: torch.device, value: float = 0.0) -> Tensor:
    """A tensor of one value. iOS 15. Reference: iOS15.tensor_operation.fill"""
    return torch.full(shape, value, dtype=dtype, device=device)


def fill_like(ref_tensor: Tensor, dtype: torch.dtype, value: float = 0.0) -> Tensor:
    """A tensor of one value, of the reference's shape. iOS 16. Reference: iOS16.tensor_operation.fill_like"""
    return torch.full(ref_tensor.shape, value, dtype=dtype, device=ref_tensor.device)


def range_1d(start: Tensor, end: Tensor, step: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """start, start + step, … up to (not with) end. iOS 15. Reference: iOS15.tensor_operation.range_1d"""
    first, last, by = start.item(), end.item(), step.item()
    count = max(0, math.ceil((last - first) / by))
    exact = torch.float64 if dtype.is_floating_point else torch.int64
    return (first + by * torch.arange(count, dtype=exact, device=device)).to(dtype)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    dtype: torch.dtype,
    axis: int = -1,
    on_value: float = 1.0,
    off_value: float = 0.0,
) -> Tensor:
    """on_value where the new axis's position is the index, else off_value (negative indices count from the end).

    iOS 15. Reference: iOS15.tensor_operation.one_hot
    """
    axis = axis % (indices.ndim + 1)
    wanted = indices.to(torch.int64)
    wanted = torch.where(wanted < 0, wanted + one_hot_vector_size, wanted).unsqueeze(axis)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = one_hot_vector_size
    hit = wanted == torch.arange(one_hot_vector_size, device=indices.device).reshape(shape)
    on, off = (torch.tensor(value, dtype=dtype, device=indices.device) for value in (on_value, off_value))
    return torch.where(hit, on, off)


def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """The last len(pad)/2 axes padded (before, after) each; mode constant, reflect (edge not repeated), replicate.

    iOS 15. Reference: iOS15.tensor_operation.pad
    """
    first = x.ndim - len(pad) // 2
    pairs = [(first + i, pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    if mode == "constant":
        flat = [amount for _, before, after in reversed(pairs) for amount in (before, after)]
        return F.pad(x, flat, value=bool(constant_val) if x.dtype == torch.bool else constant_val)
    for axis, before, after in pairs:
        if before or after:
            x = x.index_select(axis, _mirrored(x.shape[axis], before, after, mode).to(x.device))
    return x


def _mirrored(size: int, before: int, after: int, mode: str) -> Tensor:
    """For each position of a padded axis, the position of x that it repeats."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        return places.clamp(0, size - 1)
    if mode != "reflect":
        raise ValueError(f"there is no pad mode {mode!r}")
    if max(before, after) >= size:
        raise ValueError(f"an axis of {size} elements cannot be reflected by {max(before, after)}")
    return (size - 1) - (places.abs() - (size - 1)).abs()


def tile(x: Tensor, reps: Ints) -> Tensor:
    """x repeated reps[i] times along axis i. iOS 15. Reference: iOS15.tensor_operation.tile"""
    return x.repeat(reps)


def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Indices that sort x along axis; equals keep their order. iOS 15. Reference: iOS15.tensor_operation.argsort"""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True)


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensors:
    """The k largest (ascending: smallest) along axis and their indices; k = -1 takes all.

    iOS 15; 16 adds sort and return_indices, 17 output_indices_dtype. Reference: iOS17.tensor_operation.topk
    """
    count = x.shape[axis] if k == -1 else k
    values, indices = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    values, indices = values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
    return (values, indices) if return_indices else (values,)


def non_zero(x: Tensor) -> Tensor:
    """Index vectors [N, rank] of the elements that are not 0, in row-major order. iOS 15.

    Reference: iOS15.tensor_operation.non_zero
    """
    return torch.nonzero(x)


def shape(x: Tensor) -> Tensor:
    """The sizes of x, as a vector. iOS 15. Reference: iOS15.tensor_operation.shape"""
    return torch.tensor(x.shape, dtype=torch.int32, device=x.device)


def identity(x: Tensor) -> Tensor:
    """X itself. iOS 15. Reference: iOS15.tensor_operation.identity"""
    return x


OPS: Table = {
    "argsort": keep(argsort),
    "band_part": keep(band_part),
    "cumsum": wide(cumsum),
    "fill": keep(fill),
    "fill_like": keep(fill_like, since=16),
    "identity": keep(identity),
    "non_zero": keep(non_zero),
    "one_hot": keep(one_hot),
    "pad": keep(pad),
    "range_1d": keep(range_1d),
    "shape": keep(shape),
    "tile": keep(tile),
    "topk": keep(topk),
}
