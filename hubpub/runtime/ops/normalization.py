"""Normalization.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). Up to iOS 16 the parameters have x's dtype; since
iOS 17 they may have a different one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Ints, Table, Tensor, wide


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """gamma·(x - mean) / √(variance + epsilon) + beta, all [C] along axis 1; rank 3 to 5.

    iOS 15, 17. Reference: iOS15.normalization.batch_norm
    """
    mean, variance, gamma, beta = (None if p is None else p.to(x.dtype) for p in (mean, variance, gamma, beta))
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each sample normalized over its spatial axes, then gamma, beta [C]. iOS 15, 17.

    Reference: iOS15.normalization.instance_norm
    """
    axes = tuple(range(2, x.ndim))
    normal = _standardized(x, axes, epsilon)
    shape = (1, -1, *[1] * len(axes))
    return _affine(normal, *(None if p is None else p.reshape(shape) for p in (gamma, beta)))


def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x / √(Σx² + epsilon) over the last three axes. iOS 15, 17. Reference: iOS15.normalization.l2_norm"""
    return x / torch.sqrt((x * x).sum((-3, -2, -1), keepdim=True) + epsilon)


def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """gamma·(x - E[x]) / √(Var[x] + epsilon) + beta over axes (default: all); gamma, beta of their shape.

    iOS 15, 17. Reference: iOS15.normalization.layer_norm
    """
    chosen = sorted(axis % x.ndim for axis in axes) if axes is not None else list(range(x.ndim))
    if chosen == list(range(x.ndim - len(chosen), x.ndim)):
        shape = x.shape[x.ndim - len(chosen) :]
        gamma, beta = (None if p is None else p.to(x.dtype).reshape(shape) for p in (gamma, beta))
        return F.layer_norm(x, shape, gamma, beta, epsilon)
    shape = tuple(size if i in chosen else 1 for i, size in enumerate(x.shape))
    return _affine(
        _standardized(x, tuple(chosen), epsilon),
        *(None if p is None else p.reshape(shape) for p in (gamma, beta)),
    )


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha/size·Σx²)^beta, the sum over `size` channels around each. iOS 15, 17.

    Reference: iOS15.normalization.local_response_norm
    """
    return F.local_response_norm(x, size, alpha, beta, k)


def _standardized(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)


def _affine(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        x = x * gamma.to(x.dtype)
    return x if beta is None else x + beta.to(x.dtype)


OPS: Table = {
    "batch_norm": wide(batch_norm),
    "instance_norm": wide(instance_norm),
    "l2_norm": wide(l2_norm),
    "layer_norm": wide(layer_norm),
    "local_response_norm": wide(local_response_norm),
}
