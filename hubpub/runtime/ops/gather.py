"""Gather and scatter.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). Indices: int32 (iOS 15), 16-bit (16), 8-bit (17).
Negative indices count from the end, though since iOS 17 a program must not rely on that.
`validate_indices` (17) requests an error for an index out of bounds; this runtime always
raises one.
"""

from __future__ import annotations

import math

import torch

from hubpub.runtime.ops.table import Table, Tensor, keep, wide

_REDUCTIONS = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}


def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of x along axis: x.shape[:axis] + indices.shape[batch_dims:] + x.shape[axis+1:].

    iOS 15; 16 adds batch_dims, 17 validate_indices. Reference: iOS17.scatter_gather.gather
    """
    axis %= x.ndim
    positions = _positions(indices, x.shape[axis])
    if batch_dims == 0:
        flat = x.index_select(axis, positions.reshape(-1))
        return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    batch = x.shape[:batch_dims]
    rows = x.reshape(-1, *x.shape[batch_dims:])
    per_row = positions.reshape(rows.shape[0], *indices.shape[batch_dims:])
    picked = [gather(row, places, axis - batch_dims) for row, places in zip(rows, per_row, strict=True)]
    return torch.stack(picked).reshape(*batch, *picked[0].shape)


def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False) -> Tensor:
    """Element x[…, indices[…, i, …], …] for each place of indices. iOS 15, 16, 17.

    Reference: iOS17.scatter_gather.gather_along_axis
    """
    positions = _positions(indices, x.shape[axis])
    shape = list(x.shape)
    shape[axis] = indices.shape[axis]
    return torch.take_along_dim(x, positions.expand(shape), axis)


def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Slices of x at the index vectors in the last axis of indices. iOS 15; 16 adds batch_dims, 17 validate_indices.

    Reference: iOS17.scatter_gather.gather_nd
    """
    if batch_dims == 0:
        return x[_vectors(indices, x.shape)]
    batch = x.shape[:batch_dims]
    rows = x.reshape(-1, *x.shape[batch_dims:])
    per_row = indices.reshape(rows.shape[0], *indices.shape[batch_dims:])
    picked = [gather_nd(row, places) for row, places in zip(rows, per_row, strict=True)]
    return torch.stack(picked).reshape(*batch, *picked[0].shape)


def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """A copy of data whose slices at indices (any shape) along axis are combined with updates.

    updates: data.shape[:axis] + indices.shape + data.shape[axis+1:].
    mode: update, add, sub, mul, div, max, min. iOS 15; 17 adds validate_indices.
    Reference: iOS17.scatter_gather.scatter
    """
    axis %= data.ndim
    shape = [1] * data.ndim
    shape[axis] = indices.numel()
    slices = updates.reshape(*data.shape[:axis], indices.numel(), *data.shape[axis + 1 :])
    places = indices.reshape(shape).expand(slices.shape)
    return scatter_along_axis(data, places, slices, axis, mode)


def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """A copy of data whose elements at indices along axis are combined with updates (modes as in scatter).

    iOS 15; 17 adds validate_indices. Reference: iOS17.scatter_gather.scatter_along_axis
    """
    positions = _positions(indices, data.shape[axis])
    if mode == "update":
        return data.scatter(axis, positions, updates)
    return data.scatter_reduce(axis, positions, _operand(updates, mode), _reduction(mode), include_self=True)


def scatter_nd(
    data: Tensor, indices: Tensor, updates: Tensor, mode: str = "add", validate_indices: bool = False
) -> Tensor:
    """A copy of data whose slices at the index vectors are combined with updates (modes as in scatter).

    iOS 15; 17 adds validate_indices. Reference: iOS17.scatter_gather.scatter_nd
    """
    depth = indices.shape[-1]
    rows = math.prod(data.shape[:depth])
    width = math.prod(data.shape[depth:])
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for axis, places in enumerate(_vectors(indices, data.shape)):
        flat = flat * data.shape[axis] + places
    places = flat.reshape(-1, 1).expand(flat.numel(), width)
    result = scatter_along_axis(data.reshape(rows, width), places, updates.reshape(-1, width), 0, mode)
    return result.reshape(data.shape)


def _positions(indices: Tensor, size: int) -> Tensor:
    """Indices as int64, negative ones counted from the end, within bounds."""
    positions = indices.to(torch.int64)
    positions = torch.where(positions < 0, positions + size, positions)
    if positions.numel() and (int(positions.min()) < 0 or int(positions.max()) >= size):
        raise IndexError(f"an index is outside an axis of {size} elements")
    return positions


def _vectors(indices: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """The index vectors in the last axis, one tensor per axis of the data."""
    return tuple(_positions(indices[..., i], shape[i]) for i in range(indices.shape[-1]))


def _operand(updates: Tensor, mode: str) -> Tensor:
    if mode == "sub":
        return -updates
    return updates.reciprocal() if mode == "div" else updates


def _reduction(mode: str) -> str:
    if mode not in _REDUCTIONS:
        raise ValueError(f"there is no scatter mode {mode!r}")
    return _REDUCTIONS[mode]


OPS: Table = {
    "gather": keep(gather),
    "gather_along_axis": keep(gather_along_axis),
    "gather_nd": keep(gather_nd),
    "scatter": wide(scatter),
    "scatter_along_axis": wide(scatter_along_axis),
    "scatter_nd": wide(scatter_nd),
}
