"""Affine quantization of activations.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). scale and zero_point are scalars, or vectors along `axis`.
"""

from __future__ import annotations

import torch

from hubpub.runtime.ops.table import Table, Tensor, wide

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}


def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    """clip(round(input / scale) + zero_point) to int8 or uint8, halves rounded to even. iOS 17.

    Reference: iOS17.quantization_ops.quantize
    """
    low, high = _LIMITS[output_dtype]
    levels = torch.round(input / _along(scale, input, axis))
    if zero_point is not None:
        levels = levels + _along(zero_point, input, axis)
    return levels.clamp(low, high)


def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    """scale·(input - zero_point). iOS 17. Reference: iOS17.quantization_ops.dequantize"""
    levels = input.to(torch.float32)
    if zero_point is not None:
        levels = levels - _along(zero_point, input, axis)
    return levels * _along(scale, input, axis)


def _along(values: Tensor, like: Tensor, axis: int | None) -> Tensor:
    values = values.to(torch.float32)
    if values.ndim == 0 or values.numel() == 1 or axis is None:
        return values.reshape(())
    shape = [1] * like.ndim
    shape[axis] = -1
    return values.reshape(shape)


OPS: Table = {
    "dequantize": wide(dequantize, since=17),
    "quantize": wide(quantize, since=17),
}
