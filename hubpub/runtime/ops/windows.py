"""Padding of convolution and pooling windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F

from hubpub.runtime.ops.table import Ints, Tensor

Pads = tuple[tuple[int, int], ...]


def window_pads(
    pad_type: str, pad: Ints | None, sizes: Sequence[int], kernel: Sequence[int], strides: Ints, dilations: Ints
) -> Pads:
    """(before, after) per spatial axis.

    `same` pads so that ceil(size / stride) windows fit; an odd element goes after the axis, with `same_lower`
    before it.
    """
    match pad_type:
        case "valid":
            return ((0, 0),) * len(sizes)
        case "custom":
            amounts = pad or (0,) * 2 * len(sizes)
            return tuple(zip(amounts[0::2], amounts[1::2], strict=True))
        case "same" | "same_lower":
            return tuple(
                _same(size, (k - 1) * dilation + 1, stride, lower=pad_type == "same_lower")
                for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
            )
    raise ValueError(f"there is no pad_type {pad_type!r}")


def _same(size: int, reach: int, stride: int, *, lower: bool) -> tuple[int, int]:
    total = max(0, (-(-size // stride) - 1) * stride + reach - size)
    less, more = total // 2, total - total // 2
    return (more, less) if lower else (less, more)


def apply_pads(x: Tensor, pads: Pads, value: float) -> Tensor:
    """The spatial axes (2 …) of x padded with a constant."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value)
