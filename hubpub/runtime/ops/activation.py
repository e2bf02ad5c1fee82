"""Activations and softmax.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). `alpha` and `beta` have x's dtype up to iOS 16, any
dtype since iOS 17; they are Python numbers or small tensors, applied in x's precision.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Table, Tensor, native, wide


def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(beta, x) where x ≥ 0, else min(beta, alpha·x). iOS 15, 17. Reference: iOS15.activation.clamped_relu"""
    return torch.where(x >= 0, x, x * alpha).clamp(max=beta)


def elu(x: Tensor, alpha: float) -> Tensor:
    """X where x > 0, else alpha·(eˣ - 1). iOS 15, 17. Reference: iOS15.activation.elu"""
    return torch.where(x > 0, x, alpha * torch.expm1(x))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """x·Φ(x); mode EXACT (erf), TANH_APPROXIMATION, SIGMOID_APPROXIMATION (x·σ(1.702x)). iOS 15.

    Reference: iOS15.activation.gelu
    """
    match mode:
        case "EXACT":
            return F.gelu(x)
        case "TANH_APPROXIMATION":
            return F.gelu(x, approximate="tanh")
        case "SIGMOID_APPROXIMATION":
            return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"gelu has no mode {mode!r}")


def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """X where x ≥ 0, else alpha·x. iOS 15, 17. Reference: iOS15.activation.leaky_relu"""
    return torch.where(x >= 0, x, x * alpha)


def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha·x + beta. iOS 15, 17. Reference: iOS15.activation.linear_activation"""
    return x * alpha + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """X where x > 0, else alpha_c·x, alpha [C] along axis 1. iOS 15, 17. Reference: iOS15.activation.prelu"""
    return torch.where(x > 0, x, x * _per_channel(alpha, x))


def relu(x: Tensor) -> Tensor:
    """max(x, 0). iOS 15. Reference: iOS15.activation.relu"""
    return torch.relu(x)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6). iOS 15. Reference: iOS15.activation.relu6"""
    return x.clamp(0, 6)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha·tanh(beta·x). iOS 15, 17. Reference: iOS15.activation.scaled_tanh"""
    return alpha * torch.tanh(beta * x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ). iOS 15. Reference: iOS15.activation.sigmoid"""
    return torch.sigmoid(x)


def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """min(max(alpha·x + beta, 0), 1). iOS 15, 17. Reference: iOS15.activation.sigmoid_hard"""
    return (alpha * x + beta).clamp(0, 1)


def silu(x: Tensor) -> Tensor:
    """x·σ(x). iOS 15. Reference: iOS15.activation.silu"""
    return F.silu(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ), without overflow. iOS 15. Reference: iOS15.activation.softplus"""
    return torch.logaddexp(x, torch.zeros_like(x))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha_c·log(1 + e^(beta_c·x)), both [C] along axis 1. iOS 15, 17.

    Reference: iOS15.activation.softplus_parametric
    """
    return _per_channel(alpha, x) * softplus(x * _per_channel(beta, x))


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """eˣ / Σeˣ along axis. iOS 15. Reference: iOS15.activation.softmax"""
    return torch.softmax(x, axis)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|). iOS 15. Reference: iOS15.activation.softsign"""
    return x / (1 + x.abs())


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """X where x ≥ alpha, else 0. iOS 15, 17. Reference: iOS15.activation.thresholded_relu"""
    return torch.where(x >= alpha, x, 0)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[C] shaped so that it broadcasts along axis 1."""
    return values.to(like.dtype).reshape(1, -1, *[1] * (like.ndim - 2))


OPS: Table = {
    "clamped_relu": wide(clamped_relu),
    "elu": wide(elu),
    "gelu": wide(gelu),
    "leaky_relu": wide(leaky_relu),
    "linear_activation": wide(linear_activation),
    "prelu": wide(prelu),
    "relu": native(relu),
    "relu6": native(relu6),
    "scaled_tanh": wide(scaled_tanh),
    "sigmoid": native(sigmoid),
    "sigmoid_hard": wide(sigmoid_hard),
    "silu": native(silu),
    "softmax": native(softmax),
    "softplus": wide(softplus),
    "softplus_parametric": wide(softplus_parametric),
    "softsign": wide(softsign),
    "thresholded_relu": native(thresholded_relu),
}
