"""Reductions.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). All since iOS 15, for floats and int32: axes (default:
all) and keep_dims (default: false). The result has x's dtype; a mean of integers is truncated
towards zero.
"""

from __future__ import annotations

import torch

from hubpub.runtime.ops.table import Ints, Table, Tensor, keep, wide


def _axes(x: Tensor, axes: Ints | None) -> Ints:
    return tuple(range(x.ndim)) if axes is None or len(axes) == 0 else axes


def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Index of the largest, the first of equals; iOS 17 adds output_dtype (int32, uint16).

    iOS 15, 17. Reference: iOS15.reduction.reduce_argmax
    """
    return torch.argmax(x, axis, keepdim=keep_dims)


def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Index of the smallest, the first of equals; iOS 17 adds output_dtype (int32, uint16).

    iOS 15, 17. Reference: iOS15.reduction.reduce_argmin
    """
    return torch.argmin(x, axis, keepdim=keep_dims)


def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Σ|x|. iOS 15. Reference: iOS15.reduction.reduce_l1_norm"""
    return x.abs().sum(_axes(x, axes), keepdim=keep_dims)


def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """√Σx². iOS 15. Reference: iOS15.reduction.reduce_l2_norm"""
    return (x * x).sum(_axes(x, axes), keepdim=keep_dims).sqrt()


def reduce_log_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """log Σx. iOS 15. Reference: iOS15.reduction.reduce_log_sum"""
    return x.sum(_axes(x, axes), keepdim=keep_dims).log()


def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """log Σeˣ, without overflow. iOS 15. Reference: iOS15.reduction.reduce_log_sum_exp"""
    floats = x if x.is_floating_point() else x.double()
    return torch.logsumexp(floats, _axes(x, axes), keepdim=keep_dims)


def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The largest. iOS 15. Reference: iOS15.reduction.reduce_max"""
    return x.amax(_axes(x, axes), keepdim=keep_dims)


def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Σx / n. iOS 15. Reference: iOS15.reduction.reduce_mean"""
    floats = x if x.is_floating_point() else x.double()
    return floats.mean(_axes(x, axes), keepdim=keep_dims)


def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The smallest. iOS 15. Reference: iOS15.reduction.reduce_min"""
    return x.amin(_axes(x, axes), keepdim=keep_dims)


def reduce_prod(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """The product. iOS 15. Reference: iOS15.reduction.reduce_prod"""
    for axis in sorted((axis % x.ndim for axis in _axes(x, axes)), reverse=True):
        x = x.prod(axis, keepdim=keep_dims)
    return x


def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Σx. iOS 15. Reference: iOS15.reduction.reduce_sum"""
    return x.sum(_axes(x, axes), keepdim=keep_dims)


def reduce_sum_square(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Σx². iOS 15. Reference: iOS15.reduction.reduce_sum_square"""
    return (x * x).sum(_axes(x, axes), keepdim=keep_dims)


OPS: Table = {
    "reduce_argmax": keep(reduce_argmax),
    "reduce_argmin": keep(reduce_argmin),
    "reduce_l1_norm": wide(reduce_l1_norm),
    "reduce_l2_norm": wide(reduce_l2_norm),
    "reduce_log_sum": wide(reduce_log_sum),
    "reduce_log_sum_exp": wide(reduce_log_sum_exp),
    "reduce_max": keep(reduce_max),
    "reduce_mean": wide(reduce_mean),
    "reduce_min": keep(reduce_min),
    "reduce_prod": wide(reduce_prod),
    "reduce_sum": wide(reduce_sum),
    "reduce_sum_square": wide(reduce_sum_square),
}
