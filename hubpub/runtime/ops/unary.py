"""Elementwise ops of one tensor, and cast.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). Floats only, unless a docstring names integers.
"""

from __future__ import annotations

import torch

from hubpub.runtime.ops.table import Table, Tensor, keep, native, wide


def abs_(x: Tensor) -> Tensor:
    """|x|; floats and integers. iOS 15. Reference: iOS15.elementwise_unary.abs"""
    return x.abs()


def acos(x: Tensor) -> Tensor:
    """Inverse cosine. iOS 15. Reference: iOS15.elementwise_unary.acos"""
    return x.acos()


def asin(x: Tensor) -> Tensor:
    """Inverse sine. iOS 15. Reference: iOS15.elementwise_unary.asin"""
    return x.asin()


def atan(x: Tensor) -> Tensor:
    """Inverse tangent. iOS 15. Reference: iOS15.elementwise_unary.atan"""
    return x.atan()


def atanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent. iOS 15. Reference: iOS15.elementwise_unary.atanh"""
    return x.atanh()


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Conversion to the declared output dtype, towards zero from float to integer.

    iOS 15: `dtype` int32, fp16, fp32, bool; iOS 17: int8, uint8, int16, uint16 as well. A
    program run at fp32 keeps floats in fp32. Reference: iOS15.elementwise_unary.cast
    """
    return x.to(dtype)


def ceil(x: Tensor) -> Tensor:
    """Rounded up. iOS 15. Reference: iOS15.elementwise_unary.ceil"""
    return x.ceil()


def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(x, alpha), beta). iOS 15, 17. Reference: iOS15.elementwise_unary.clip"""
    return x.clamp(alpha, beta)


def cos(x: Tensor) -> Tensor:
    """Cosine. iOS 15. Reference: iOS15.elementwise_unary.cos"""
    return x.cos()


def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine. iOS 15. Reference: iOS15.elementwise_unary.cosh"""
    return x.cosh()


def erf(x: Tensor) -> Tensor:
    """The error function. iOS 15. Reference: iOS15.elementwise_unary.erf"""
    return x.erf()


def exp(x: Tensor) -> Tensor:
    """eˣ. iOS 15. Reference: iOS15.elementwise_unary.exp"""
    return x.exp()


def exp2(x: Tensor) -> Tensor:
    """2ˣ; floats and integers. iOS 15. Reference: iOS15.elementwise_unary.exp2"""
    return torch.exp2(x)


def floor(x: Tensor) -> Tensor:
    """Rounded down. iOS 15. Reference: iOS15.elementwise_unary.floor"""
    return x.floor()


def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + epsilon). iOS 15, 17. Reference: iOS15.elementwise_unary.inverse"""
    return (x + epsilon).reciprocal()


def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon. iOS 15, 17. Reference: iOS15.elementwise_unary.log"""
    return (x + epsilon).log()


def logical_not(x: Tensor) -> Tensor:
    """True where x is 0 or false. iOS 15. Reference: iOS15.elementwise_unary.logical_not"""
    return torch.logical_not(x)


def round_(x: Tensor) -> Tensor:
    """To the nearest integer, halves to the even one. iOS 15. Reference: iOS15.elementwise_unary.round"""
    return x.round()


def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon). iOS 15, 17. Reference: iOS15.elementwise_unary.rsqrt"""
    return (x + epsilon).rsqrt()


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; floats and integers. iOS 15. Reference: iOS15.elementwise_unary.sign"""
    return x.sign()


def sin(x: Tensor) -> Tensor:
    """Sine. iOS 15. Reference: iOS15.elementwise_unary.sin"""
    return x.sin()


def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine. iOS 15. Reference: iOS15.elementwise_unary.sinh"""
    return x.sinh()


def sqrt(x: Tensor) -> Tensor:
    """Square root. iOS 15. Reference: iOS15.elementwise_unary.sqrt"""
    return x.sqrt()


def square(x: Tensor) -> Tensor:
    """x²; floats and integers. iOS 15. Reference: iOS15.elementwise_unary.square"""
    return x * x


def tan(x: Tensor) -> Tensor:
    """Tangent. iOS 15. Reference: iOS15.elementwise_unary.tan"""
    return x.tan()


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent. iOS 15. Reference: iOS15.elementwise_unary.tanh"""
    return x.tanh()


def threshold(x: Tensor, alpha: float) -> Tensor:
    """max(x, alpha). iOS 15. Reference: iOS15.elementwise_unary.threshold"""
    return x.clamp(min=alpha)


OPS: Table = {
    "abs": native(abs_),
    "acos": wide(acos),
    "asin": wide(asin),
    "atan": wide(atan),
    "atanh": wide(atanh),
    "cast": keep(cast),
    "ceil": native(ceil),
    "clip": native(clip),
    "cos": wide(cos),
    "cosh": wide(cosh),
    "erf": wide(erf),
    "exp": wide(exp),
    "exp2": wide(exp2),
    "floor": native(floor),
    "inverse": wide(inverse),
    "log": wide(log),
    "logical_not": keep(logical_not),
    "round": native(round_),
    "rsqrt": wide(rsqrt),
    "sign": native(sign),
    "sin": wide(sin),
    "sinh": wide(sinh),
    "sqrt": wide(sqrt),
    "square": native(square),
    "tan": wide(tan),
    "tanh": wide(tanh),
    "threshold": native(threshold),
}
