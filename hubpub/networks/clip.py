"""CLIP's towers: the text encoder, and the layers that the vision tower of the safety checker shares with it.

Interface: input_ids (1, S) as fp32 → last_hidden_state (1, S, C), pooled_outputs (1, C). In XL the first
output is hidden_embeds (1, S, C), and the second encoder's pooled_outputs are projected (1, P).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hubpub.networks.scope import NetworkConfig, Scope, Size, Value

_MASKED = -1e4  # large enough for a softmax to give exactly zero, small enough for fp16


@dataclass(frozen=True, kw_only=True)
class TowerConfig(NetworkConfig):
    """What both towers depend on."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str  # quick_gelu or gelu
    layer_norm_eps: float


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(TowerConfig):
    """CLIPTextModel and CLIPTextModelWithProjection.

    `eos_token_id` None means: pooled where the token's number is the largest. `penultimate`: what the
    last layer takes, not normed, is the output, as XL was trained (hidden_states[-2] in transformers).
    """

    vocab_size: int
    max_position_embeddings: int
    eos_token_id: int | None
    penultimate: bool = False
    projection_dim: int = 0  # of the pooled output; 0: it is not projected


def text_encoder(at: Scope, config: TextEncoderConfig, size: Size, attention: str) -> None:
    """Write the text encoder. Token numbers come as whole fp32 numbers, as Apple's converter has it."""
    width, length = config.hidden_size, config.max_position_embeddings
    ids, tables = at.cast(at.input("input_ids", (1, length), "fp32"), "int32"), at / "embeddings"
    x = tables.gather(tables.weight("token_embedding.weight", (config.vocab_size, width)), ids)
    x = tables.add(x, tables.weight("position_embedding.weight", (1, length, width)))
    mask = at.array("mask", np.triu(np.full((1, 1, length, length), _MASKED, np.float32), 1))
    penultimate = x
    for index in range(config.num_hidden_layers):
        penultimate = x
        x = layer(at / f"encoder.layers.{index}", x, mask, config)
    last = at.layer_norm("final_layer_norm", x, config.layer_norm_eps)
    eos = config.eos_token_id
    place = at.argmax(ids if eos is None else at.cast(at.binary("equal", ids, eos), "int32"), 1)
    pooled = at.gather_nd(last, at.stack([at.integers(0), place], 1))
    if config.projection_dim:
        pooled = at.linear("text_projection", pooled, config.projection_dim, bias=False)
    if config.penultimate:
        at.output("hidden_embeds", penultimate)
    else:
        at.output("last_hidden_state", last)
    at.output("pooled_outputs", pooled)


def layer(at: Scope, x: Value, mask: Value | None, config: TowerConfig) -> Value:
    """transformers' CLIPEncoderLayer over (B, S, C)."""
    eps = config.layer_norm_eps
    normal = at.layer_norm("layer_norm1", x, eps)
    x = at.add(x, _self_attention(at / "self_attn", normal, mask, config.num_attention_heads))
    inner = at.linear("mlp.fc1", at.layer_norm("layer_norm2", x, eps), config.intermediate_size)
    active = at.gelu(inner) if config.hidden_act == "gelu" else at.mul(inner, at.sigmoid(at.mul(inner, 1.702)))
    return at.add(x, at.linear("mlp.fc2", active, config.hidden_size))


def _self_attention(at: Scope, x: Value, mask: Value | None, heads: int) -> Value:
    batch, length, width = x.shape
    query, key, value = (
        at.reshape(at.linear(name, x, width), batch, length, heads, width // heads)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    query = query if at.fuses else at.mul(query, (width // heads) ** -0.5)
    query, key, value = (at.transpose(one, 0, 2, 1, 3) for one in (query, key, value))
    mixed = at.transpose(at.attend(query, key, value, mask), 0, 2, 1, 3)
    return at.linear("out_proj", at.reshape(mixed, *x.shape), width)
