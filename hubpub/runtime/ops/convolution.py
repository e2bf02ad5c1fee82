"""Convolution and transposed convolution, in one to three dimensions.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Ints, Table, Tensor, matrix
from hubpub.runtime.ops.windows import apply_pads, window_pads

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """x [n, C, *D] with weight [O, C/groups, *K] and bias [O]; pad_type valid, custom, same, same_lower.

    `pad` is (before, after) per spatial axis. iOS 15; since 17 weight and bias of any dtype.
    Reference: iOS15.conv.conv
    """
    spatial = x.ndim - 2
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    pads = window_pads(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    symmetric = all(before == after for before, after in pads)
    if not symmetric:
        x = apply_pads(x, pads, 0.0)
    return _CONV[spatial](
        x,
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        strides,
        tuple(before for before, _ in pads) if symmetric else 0,
        dilations,
        groups,
    )


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """x [n, C, *D] with weight [C, O/groups, *K]; `pad` is removed from the full result.

    The full result has (D - 1)·stride + (K - 1)·dilation + 1 elements per axis. `custom` cuts `pad` off;
    `same` leaves D·stride; `output_shape`, if present, sets the sizes (its last axes).
    iOS 15; since 17 weight and bias of any dtype. Reference: iOS15.conv.conv_transpose
    """
    spatial = x.ndim - 2
    strides, dilations = strides or (1,) * spatial, dilations or (1,) * spatial
    full = _CONV_TRANSPOSE[spatial](
        x,
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        stride=strides,
        groups=groups,
        dilation=dilations,
    )
    before = pad[0::2] if pad and pad_type == "custom" else (0,) * spatial
    after = pad[1::2] if pad and pad_type == "custom" else (0,) * spatial
    for i in range(spatial):
        size = full.shape[2 + i]
        first, length = before[i], size - before[i] - after[i]
        if output_shape is not None:
            length = output_shape[i - spatial]
        elif pad_type in ("same", "same_lower"):
            length = x.shape[2 + i] * strides[i]
        if pad_type in ("same", "same_lower"):
            cut = max(size - length, 0)
            first = cut // 2 if pad_type == "same" else cut - cut // 2
        if first + length > size:  # output_shape is larger than the full result: the rest is zeros plus bias
            full = _extend(full, 2 + i, first + length - size, bias)
        full = full.narrow(2 + i, first, length)
    return full


def _extend(x: Tensor, axis: int, count: int, bias: Tensor | None) -> Tensor:
    """x with `count` more elements at the end of an axis: zeros plus bias, outside the kernel's reach."""
    shape = list(x.shape)
    shape[axis] = count
    rest = torch.zeros(shape, dtype=x.dtype, device=x.device)
    if bias is not None:
        rest = rest + bias.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
    return torch.cat((x, rest), axis)


OPS: Table = {
    "conv": matrix(conv),
    "conv_transpose": matrix(conv_transpose),
}
