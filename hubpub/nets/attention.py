"""Attention of the UNet on (B, C, 1, S), in the three forms that Core ML apps choose from.

All three take queries (B, heads·D, 1, Q), keys and values (B, heads·D, 1, K) and give
(B, heads·D, 1, Q); they compute the same numbers with other operations, each shaped for
other compute units (CPU and GPU, or the Neural Engine).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# The longest piece of queries that split_einsum_v2 looks at in one einsum.
CHUNK = 512

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def original(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """All heads in one batched matmul, scores (B, heads, Q, K)."""
    batch, channels = query.shape[0], query.shape[1]
    depth = channels // heads
    query = query.reshape(batch, heads, depth, query.shape[3])
    key = key.reshape(batch, heads, depth, key.shape[3])
    value = value.reshape(batch, heads, depth, value.shape[3])
    scores = torch.matmul(query.transpose(2, 3), key) * depth**-0.5
    weights = torch.softmax(scores, dim=3)
    mixed = torch.matmul(value, weights.transpose(2, 3))
    return mixed.reshape(batch, channels, 1, query.shape[3])


def split_einsum(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """One einsum pair for each head, keys first: scores (B, K, 1, Q), softmax over axis 1."""
    return _split(query, key, value, heads, query.shape[3])


def split_einsum_v2(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """split_einsum with each head's queries cut into pieces of 512 (the last may be shorter)."""
    return _split(query, key, value, heads, CHUNK)


def _split(query: Tensor, key: Tensor, value: Tensor, heads: int, chunk: int) -> Tensor:
    depth = query.shape[1] // heads
    length = query.shape[3]
    key = key.transpose(1, 3)  # (B, K, 1, C)
    mixed = []
    for head in range(heads):
        channels = slice(head * depth, (head + 1) * depth)
        own_query, own_key, own_value = query[:, channels], key[:, :, :, channels], value[:, channels]
        pieces = [
            _attend_head(own_query[:, :, :, start : min(start + chunk, length)], own_key, own_value, depth**-0.5)
            for start in range(0, length, chunk)
        ]
        mixed.append(torch.cat(pieces, dim=3) if len(pieces) > 1 else pieces[0])
    return torch.cat(mixed, dim=1)


def _attend_head(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    scores = torch.einsum("bchq,bkhc->bkhq", query, key) * scale
    weights = torch.softmax(scores, dim=1)
    return torch.einsum("bkhq,bchk->bchq", weights, value)


FORMS: dict[str, Attend] = {
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
