"""Attention of the UNet on (B, C, 1, S), in the three forms that Core ML apps choose from.

All three take queries (B, heads·D, 1, Q), keys and values (B, heads·D, 1, K) and give
(B, heads·D, 1, Q); they compute the same numbers with other operations, each shaped for
other compute units (CPU and GPU, or the Neural Engine).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

# The longest piece of queries that split_einsum_v2 looks at in one einsum.
CHUNK = 512


class Operations(Protocol):
    """What the split attentions are made of; torch has one of these, MIL another (lowering.py).

    A network of many heads and pieces is tens of thousands of these. torch.export would take a
    minute to see through them, so it sees one op for each attention, and both sides run the
    same function below.
    """

    def part(self, x: Any, axis: int, start: int, stop: int) -> Any:
        """x from `start` to before `stop` along an axis."""

    def swap(self, x: Any) -> Any:
        """(B, C, 1, K) → (B, K, 1, C)."""

    def einsum(self, equation: str, x: Any, y: Any) -> Any:
        """Einstein's sum of two."""

    def scale(self, x: Any, factor: float) -> Any:
        """x times a number."""

    def softmax(self, x: Any, axis: int) -> Any:
        """Along one axis."""

    def concat(self, values: Sequence[Any], axis: int) -> Any:
        """Along one axis."""


def split(ops: Operations, query: Any, key: Any, value: Any, *, heads: int, chunk: int) -> Any:
    """Attention of each head by itself, keys first, in pieces of at most `chunk` queries.

    Scores are (B, K, 1, Q) and their softmax runs over axis 1.
    """
    depth, length = query.shape[1] // heads, query.shape[3]
    key = ops.swap(key)
    mixed = []
    for head in range(heads):
        start, stop = head * depth, (head + 1) * depth
        own_query, own_value = ops.part(query, 1, start, stop), ops.part(value, 1, start, stop)
        own_key = ops.part(key, 3, start, stop)
        pieces = []
        for first in range(0, length, chunk):
            piece = own_query if length <= chunk else ops.part(own_query, 3, first, min(first + chunk, length))
            scores = ops.scale(ops.einsum("bkhc,bchq->bkhq", own_key, piece), depth**-0.5)
            pieces.append(ops.einsum("bchk,bkhq->bchq", own_value, ops.softmax(scores, 1)))
        mixed.append(pieces[0] if len(pieces) == 1 else ops.concat(pieces, 3))
    return mixed[0] if heads == 1 else ops.concat(mixed, 1)


class TorchOperations:
    """Operations on tensors."""

    def part(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        return x.narrow(axis, start, stop - start)

    def swap(self, x: Tensor) -> Tensor:
        return x.transpose(1, 3)

    def einsum(self, equation: str, x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum(equation, x, y)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        return x * factor

    def softmax(self, x: Tensor, axis: int) -> Tensor:
        return torch.softmax(x, dim=axis)

    def concat(self, values: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(values), dim=axis)


@torch.library.custom_op("hubpub::split_attention", mutates_args=())
def split_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, chunk: int) -> Tensor:
    """split() as one op for torch.export."""
    return split(TorchOperations(), query, key, value, heads=heads, chunk=chunk).clone()


@split_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, heads: int, chunk: int) -> Tensor:
    return torch.empty_like(query)


def original(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """All heads in one batched matmul, scores (B, heads, Q, K)."""
    batch, channels = query.shape[0], query.shape[1]
    query, key, value = (x.reshape(batch, heads, channels // heads, x.shape[3]) for x in (query, key, value))
    scores = torch.matmul(query.transpose(2, 3), key) * (channels // heads) ** -0.5
    weights = torch.softmax(scores, dim=3)
    mixed = torch.matmul(value, weights.transpose(2, 3))
    return mixed.reshape(batch, channels, 1, query.shape[3])


def split_einsum(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Each head by itself, all queries at once."""
    return split_attention(query, key, value, heads, query.shape[3])


def split_einsum_v2(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Each head by itself, 512 queries at a time (the last piece may be shorter)."""
    return split_attention(query, key, value, heads, CHUNK)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "original": original,
    "split_einsum": split_einsum,
    "split_einsum_v2": split_einsum_v2,
}


class Attention(nn.Module):
    """diffusers' Attention with 1×1 convolutions for linears; x is (B, C, 1, S), context (B, C', 1, S')."""

    def __init__(self, channels: int, context_channels: int, heads: int, form: str) -> None:
        super().__init__()
        self.heads = heads
        self.attend = FORMS[form]
        self.to_q = nn.Conv2d(channels, channels, 1, bias=False)
        self.to_k = nn.Conv2d(context_channels, channels, 1, bias=False)
        self.to_v = nn.Conv2d(context_channels, channels, 1, bias=False)
        self.to_out = nn.ModuleList([nn.Conv2d(channels, channels, 1)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.to_out[0](self.attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))
