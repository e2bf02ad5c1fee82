"""The three attentions that Apple's converter offers, over sequences (B, C, 1, S).

Facts: apple/ml-stable-diffusion, `python_coreml_stable_diffusion/attention.py`. `original`
suits the GPU; the split ones the Neural Engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hubpub.networks.scope import Scope, Value

PIECE = 512  # the most queries that split_einsum_v2 puts into one einsum

Attention = Callable[[Scope, Value, Value, Value, int], Value]


def original(at: Scope, query: Value, key: Value, value: Value, heads: int) -> Value:
    """All heads in one batched product, scores (B, heads, Q, K)."""
    batch, channels, _, length = query.shape
    query, key, value = (at.reshape(x, batch, heads, channels // heads, x.shape[3]) for x in (query, key, value))
    scores = at.mul(at.matmul(query, key, transpose_x=True), (channels // heads) ** -0.5)
    mixed = at.matmul(value, at.softmax(scores, 3), transpose_y=True)
    return at.reshape(mixed, batch, channels, 1, length)


def split_einsum(at: Scope, query: Value, key: Value, value: Value, heads: int) -> Value:
    """Each head by itself, keys first, scores (B, K, 1, Q)."""
    return _split(at, query, key, value, heads, query.shape[3])


def split_einsum_v2(at: Scope, query: Value, key: Value, value: Value, heads: int) -> Value:
    """The same in pieces of at most PIECE queries."""
    return _split(at, query, key, value, heads, PIECE)


def _split(at: Scope, query: Value, key: Value, value: Value, heads: int, piece: int) -> Value:
    depth, length = query.shape[1] // heads, query.shape[3]
    key = at.transpose(key, 0, 3, 2, 1)
    mixed = []
    for start in range(0, heads * depth, depth):
        own_query, own_value = (at.slice(x, 1, start, start + depth) for x in (query, value))
        own_key = at.slice(key, 3, start, start + depth)
        pieces = []
        for first in range(0, length, piece):
            part = own_query if length <= piece else at.slice(own_query, 3, first, min(first + piece, length))
            scores = at.mul(at.einsum("bkhc,bchq->bkhq", own_key, part), depth**-0.5)
            pieces.append(at.einsum("bchk,bkhq->bchq", own_value, at.softmax(scores, 1)))
        mixed.append(pieces[0] if len(pieces) == 1 else at.concat(pieces, 3))
    return mixed[0] if heads == 1 else at.concat(mixed, 1)


ATTENTIONS: Mapping[str, Attention] = {
    "original": original,
    "split_einsum": split_einsum,
    "split_einsum_v2": split_einsum_v2,
}
