"""The CLIP towers (text encoders; the vision tower of the safety checker) and the safety checker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hubpub.coreml.interim import FP16, INT32, Scope, Value

Config = Mapping[str, Any]
_MASKED = -1e4  # large enough for a softmax to give exactly zero, small enough for fp16
_CONCEPTS, _SPECIAL_CONCEPTS, _SPECIAL_CARE = 17, 3, 0.01


def self_attention(at: Scope, x: Value, mask: Value | None, heads: int) -> Value:
    batch, length, width = x.shape
    query, key, value = (
        at.reshape(at.linear(name, x, width), batch, length, heads, width // heads)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    query = query if at.fuses else at.mul(query, (width // heads) ** -0.5)
    query, key, value = (at.transpose(one, 0, 2, 1, 3) for one in (query, key, value))
    mixed = at.transpose(at.attend(query, key, value, mask), 0, 2, 1, 3)
    return at.linear("out_proj", at.reshape(mixed, *x.shape), width)


def layer(at: Scope, x: Value, mask: Value | None, config: Config) -> Value:
    eps = config["layer_norm_eps"]
    normal = at.layer_norm("layer_norm1", x, eps)
    x = at.add(x, self_attention(at / "self_attn", normal, mask, config["num_attention_heads"]))
    inner = at.linear("mlp.fc1", at.layer_norm("layer_norm2", x, eps), config["intermediate_size"])
    active = at.gelu(inner) if config["hidden_act"] == "gelu" else at.mul(inner, at.sigmoid(at.mul(inner, 1.702)))
    return at.add(x, at.linear("mlp.fc2", active, config["hidden_size"]))


def text_encoder(at: Scope, given: Mapping[str, Value], config: Config) -> tuple[Value, Value]:
    """input_ids (1, T), whole numbers as fp32 → hidden states (1, T, C) and the end token's (1, C or projection).

    `output`: "last" (after the last norm), or "penultimate" (before the last layer, no norm: XL).
    """
    width, length = config["hidden_size"], config["max_position_embeddings"]
    ids, tables = at.cast(given["input_ids"], INT32), at / "embeddings"
    x = tables.gather(tables.weight("token_embedding.weight", (config["vocab_size"], width)), ids)
    x = tables.add(x, tables.weight("position_embedding.weight", (1, length, width)))
    mask = at.array("mask", np.triu(np.full((1, 1, length, length), _MASKED, np.float32), 1))
    states = []
    for index in range(config["num_hidden_layers"]):
        states.append(x)
        x = layer(at / f"encoder.layers.{index}", x, mask, config)
    last = at.layer_norm("final_layer_norm", x, config["layer_norm_eps"])
    eos = config["eos_token_id"]
    place = at.argmax(ids if eos is None else at.cast(at.equal(ids, eos), INT32), 1)
    pooled = at.gather_nd(last, at.stack([at.program.literal([0], INT32), place], 1))
    if config.get("projection_dim"):
        # the projection lies beside text_model, which `at` is
        pooled = at.linear("text_projection", pooled, config["projection_dim"], bias=False)
    return states[-1] if config.get("output") == "penultimate" else last, pooled


def vision_tower(at: Scope, image: Value, config: Config) -> Value:
    """clip_input (B, 3, S, S) → the pooled output (B, C)."""
    width, eps, own = config["hidden_size"], config["layer_norm_eps"], at / "embeddings"
    patches = own.conv("patch_embedding", image, width, kernel=config["patch_size"], stride=config["patch_size"], pad=0, bias=False)
    batch, _, rows, columns = patches.shape
    patches = own.transpose(own.reshape(patches, batch, width, rows * columns), 0, 2, 1)
    x = own.concat([own.weight("class_embedding", (1, 1, width)), patches], 1)
    x = own.add(x, own.weight("position_embedding.weight", (1, *x.shape[1:])))
    x = at.layer_norm("pre_layrnorm", x, eps)  # spelled so in the source's weights
    for index in range(config["num_hidden_layers"]):
        x = layer(at / f"encoder.layers.{index}", x, None, config)
    return at.layer_norm("post_layernorm", at.select(x, 1, 0), eps)


def safety_checker(at: Scope, given: Mapping[str, Value], config: Config) -> tuple[Value, Value, Value]:
    """Cosines of the image with known concepts, minus their thresholds; an image above one is blacked out."""
    width = config["projection_dim"]
    seen = at.linear("visual_projection", vision_tower(at / "vision_model", given["clip_input"], config), width, bias=False)
    length = at.maximum(at.reduce("reduce_l2_norm", seen, 1), 1e-12)
    direction = at.real_div(seen, at.tile(length, 1, width))

    def scored(name: str, count: int) -> Value:
        weight = at.weight(name, (count, width), "l2_normalize")
        return at.linear_of(direction, weight, at.weight(f"{name}_weights", (count,), "negate"))

    special = at.add(scored("special_care_embeds", _SPECIAL_CONCEPTS), given["adjustment"])
    care = at.mul(at.cast(at.greater(at.reduce("reduce_max", special, 1), 0.0), FP16), _SPECIAL_CARE)
    scores = at.add(scored("concept_embeds", _CONCEPTS), care)
    flag = at.cast(at.greater(at.reduce("reduce_max", scores, 1, keep=False), 0.0), FP16)
    flagged = at.reshape(flag, 1, 1, 1, 1)
    return at.mul(given["images"], at.sub(1.0, flagged)), flagged, scores
