"""Matrix products and attention.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Table, Tensor, Tensors, matrix


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·weightᵀ + bias; x [*, I], weight [O, I], bias [O]. iOS 15; since 17 weight and bias of any dtype.

    Reference: iOS15.linear.linear
    """
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Batched product of the last two axes; batch axes broadcast, vectors as in NumPy; integers too.

    iOS 15; since 17 a constant may have another dtype than the result. Reference: iOS15.linear.matmul
    """
    if transpose_x and x.ndim > 1:
        x = x.mT
    if transpose_y and y.ndim > 1:
        y = y.mT
    wider = torch.promote_types(x.dtype, y.dtype)
    return torch.matmul(x.to(wider), y.to(wider))


def einsum(values: Tensors, equation: str) -> Tensor:
    """Two tensors by an equation (Core ML: "nchw,nwhu->nchu" and "chw,whr->chr"); batch axes of size 1 broadcast.

    iOS 15. Reference: iOS15.linear.einsum
    """
    x, y = values
    return torch.einsum(equation, x, y)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(Q·Kᵀ / √E + mask)·V; query [B, *, L, E], key [B, *, S, E], value [B, *, S, EV].

    A bool mask says which positions take part, a float mask is added. iOS 18.
    Reference: iOS18.transformers.scaled_dot_product_attention
    """
    scores = torch.matmul(query, key.mT) * query.shape[-1] ** -0.5
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


OPS: Table = {
    "linear": matrix(linear),
    "matmul": matrix(matmul),
    "einsum": matrix(einsum),
    "scaled_dot_product_attention": matrix(scaled_dot_product_attention, since=18),
}
