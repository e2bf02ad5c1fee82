"""Pooling, in one to three dimensions.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). Common inputs: kernel_sizes [K], strides [K] (default
1), pad_type (valid, custom, same, same_lower), pad (before, after per axis) and ceil_mode: the
last window may extend past the edge if it begins before it (PyTorch's rule).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Ints, Table, Tensor, wide
from hubpub.runtime.ops.windows import Pads, apply_pads, window_pads

_AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean of each window; padding counts as zeros or is excluded. iOS 15. Reference: iOS15.pool.avg_pool"""
    strides, pads, extra = _edges(x, kernel_sizes, pad_type, strides, pad, ceil_mode=ceil_mode)
    pool = _AVG[x.ndim - 2]
    total = pool(apply_pads(apply_pads(x, pads, 0.0), extra, 0.0), kernel_sizes, strides)
    counts = x.new_ones((1, 1, *x.shape[2:]))
    counts = apply_pads(counts, pads, 0.0 if exclude_padding_from_average else 1.0)
    share = pool(apply_pads(counts, extra, 0.0), kernel_sizes, strides)
    return total / share


def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Largest element of each window; padding is ignored. iOS 15. Reference: iOS15.pool.max_pool"""
    strides, pads, extra = _edges(x, kernel_sizes, pad_type, strides, pad, ceil_mode=ceil_mode)
    x = apply_pads(apply_pads(x, pads, -math.inf), extra, -math.inf)
    return _MAX[x.ndim - 2](x, kernel_sizes, strides)


def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Square root of the sum of squares of each window; 1-D and 2-D. iOS 15. Reference: iOS15.pool.l2_pool"""
    strides, pads, extra = _edges(x, kernel_sizes, pad_type, strides, pad, ceil_mode=ceil_mode)
    mean = _AVG[x.ndim - 2](apply_pads(apply_pads(x * x, pads, 0.0), extra, 0.0), kernel_sizes, strides)
    return torch.sqrt(mean * math.prod(kernel_sizes))


def _edges(
    x: Tensor, kernel: Ints, pad_type: str, strides: Ints | None, pad: Ints | None, *, ceil_mode: bool
) -> tuple[Ints, Pads, Pads]:
    """Strides, padding, and the extra padding for ceil_mode."""
    ones = (1,) * (x.ndim - 2)
    strides = strides or ones
    pads = window_pads(pad_type, pad, x.shape[2:], kernel, strides, ones)
    return strides, pads, _ceil_extra(x, pads, kernel, strides) if ceil_mode else ((0, 0),) * len(ones)


def _ceil_extra(x: Tensor, pads: Pads, kernel: Ints, strides: Ints) -> Pads:
    """Padding to add after each axis so that the partial last window of ceil_mode fits."""
    extra = []
    for size, (before, after), k, stride in zip(x.shape[2:], pads, kernel, strides, strict=True):
        padded = size + before + after
        windows = -(-(padded - k) // stride) + 1
        if (windows - 1) * stride >= size + before and before + after > 0:
            windows -= 1
        extra.append((0, max(0, (windows - 1) * stride + k - padded)))
    return tuple(extra)


OPS: Table = {
    "avg_pool": wide(avg_pool),
    "l2_pool": wide(l2_pool),
    "max_pool": wide(max_pool),
}
