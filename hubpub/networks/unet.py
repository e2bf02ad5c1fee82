"""UNet2DConditionModel of Stable Diffusion 1.x, 2.x and XL, and ControlNetModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hubpub.coreml.interim import FP16, FP32, Program, Scope, Value

Config = Mapping[str, Any]
CHUNK = 512  # the longest piece of queries that split_einsum_v2 looks at in one einsum


def original(at: Scope, query: Value, key: Value, value: Value, heads: int) -> Value:
    """All heads in one batched matmul, scores (B, heads, Q, K)."""
    batch, channels, _, length = query.shape
    query, key, value = (at.reshape(x, batch, heads, channels // heads, x.shape[3]) for x in (query, key, value))
    scores = at.mul(at.matmul(query, key, transpose_x=True), (channels // heads) ** -0.5)
    mixed = at.matmul(value, at.softmax(scores, 3), transpose_y=True)
    return at.reshape(mixed, batch, channels, 1, length)


def split(at: Scope, query: Value, key: Value, value: Value, heads: int, chunk: int) -> Value:
    """Each head by itself, keys first, in pieces of at most `chunk` queries; scores (B, K, 1, Q)."""
    depth, length = query.shape[1] // heads, query.shape[3]
    key = at.transpose(key, 0, 3, 2, 1)
    mixed = []
    for start in range(0, heads * depth, depth):
        own_query, own_value = (at.part(x, 1, start, start + depth) for x in (query, value))
        own_key = at.part(key, 3, start, start + depth)
        pieces = []
        for first in range(0, length, chunk):
            piece = own_query if length <= chunk else at.part(own_query, 3, first, min(first + chunk, length))
            scores = at.mul(at.einsum("bkhc,bchq->bkhq", own_key, piece), depth**-0.5)
            pieces.append(at.einsum("bchk,bkhq->bchq", own_value, at.softmax(scores, 1)))
        mixed.append(pieces[0] if len(pieces) == 1 else at.concat(pieces, 3))
    return mixed[0] if heads == 1 else at.concat(mixed, 1)


FORMS = {
    "original": original,
    "split_einsum": lambda at, query, key, value, heads: split(at, query, key, value, heads, query.shape[3]),
    "split_einsum_v2": lambda at, query, key, value, heads: split(at, query, key, value, heads, CHUNK),
}


def attention(at: Scope, x: Value, context: Value, heads: int, form: str) -> Value:
    """diffusers' Attention, linears as 1×1 convolutions; x is (B, C, 1, S), context (B, C', 1, S')."""
    width = x.shape[1]
    query = at.conv("to_q", x, width, bias=False)
    key, value = (at.conv(name, context, width, bias=False) for name in ("to_k", "to_v"))
    return at.conv("to_out.0", FORMS[form](at, query, key, value, heads), width)


def transformer_block(at: Scope, x: Value, text: Value, heads: int, form: str) -> Value:
    normal = at.layer_norm("norm1", x, axis=1)
    x = at.add(attention(at / "attn1", normal, normal, heads, form), x)
    x = at.add(attention(at / "attn2", at.layer_norm("norm2", x, axis=1), text, heads, form), x)
    width = x.shape[1]
    value, gate = at.split(at.conv("ff.net.0.proj", at.layer_norm("norm3", x, axis=1), 8 * width), 2, 1)
    return at.add(at.conv("ff.net.2", at.mul(value, at.gelu(gate)), width), x)


def transformer(at: Scope, x: Value, text: Value, level: int, config: Config, form: str) -> Value:
    """diffusers' Transformer2DModel: (B, C, H, W) → (B, C, 1, H·W) through the blocks, and back."""
    batch, width, *sides = x.shape
    hidden = at.conv("proj_in", at.group_norm("norm", x, config["norm_num_groups"], 1e-6), width)
    hidden = at.reshape(hidden, batch, width, 1, sides[0] * sides[1])
    for index in range(config["transformer_layers"][level]):
        hidden = transformer_block(at / f"transformer_blocks.{index}", hidden, text, config["heads"][level], form)
    return at.add(at.conv("proj_out", at.reshape(hidden, *x.shape), width), x)


def resnet(at: Scope, x: Value, out: int, *, groups: int, eps: float, time: Value | None = None) -> Value:
    """norm, SiLU, conv, twice, around a residual; the time embedding, if any, is added in between."""
    hidden = at.conv("conv1", at.silu(at.group_norm("norm1", x, groups, eps)), out, kernel=3)
    if time is not None:
        hidden = at.add(hidden, at.conv("time_emb_proj", time, out))
    hidden = at.conv("conv2", at.silu(at.group_norm("norm2", hidden, groups, eps)), out, kernel=3)
    if x.shape[1] != out:
        x = at.conv("conv_shortcut", x, out)
    return at.add(hidden, x)


def sinusoids(at: Scope, numbers: Value, channels: int, *, shift: float, cosine_first: bool) -> Value:
    """(N) → (N, channels, 1, 1), computed in fp32: angles reach 981 rad, where fp16 is off by 0.25."""
    half = channels // 2
    steps = np.exp(-np.log(10000.0) * np.arange(half) / (half - shift)).astype(np.float32)
    column = at.expand_dims(at.cast(numbers, FP32), 1)
    angles = at.mul(column, at.array("frequencies", steps, FP32))
    halves = [at.sin(angles), at.cos(angles)]
    row = at.concat(halves[::-1] if cosine_first else halves, 1)
    return at.cast(at.expand_dims(row, 2, 3), FP16)


def embedding(at: Scope, features: Value, width: int) -> Value:
    return at.conv("linear_2", at.silu(at.conv("linear_1", features, width)), width)


def time_of(at: Scope, given: Mapping[str, Value], config: Config) -> Value:
    """timestep (and XL's text_embeds and time_ids) → (B, T, 1, 1), through SiLU as all resnets take it."""
    base = config["block_out_channels"][0]
    waves = {"shift": config["freq_shift"], "cosine_first": config["flip_sin_to_cos"]}
    time = embedding(at / "time_embedding", sinusoids(at / "time_proj", given["timestep"], base, **waves), 4 * base)
    if "time_ids" not in given:
        return at.silu(time)
    ids, text, more = given["time_ids"], given["text_embeds"], at / "add_embedding"
    batch, count = ids.shape
    width = config["addition_time_embed_dim"]
    numbers = at.reshape(ids, batch * count)
    sizes = at.reshape(sinusoids(at / "add_time_proj", numbers, width, **waves), batch, count * width, 1, 1)
    features = at.concat([at.expand_dims(text, 2, 3), sizes], 1)
    return at.silu(at.add(time, embedding(more, features, 4 * base)))


def down(at: Scope, sample: Value, time: Value, text: Value, config: Config, form: str, hint: Value | None = None):
    """conv_in, the way down and the middle: every intermediate result, and the last one."""
    widths, plain = config["block_out_channels"], {"groups": config["norm_num_groups"], "eps": config["norm_eps"]}
    x = at.conv("conv_in", sample, widths[0], kernel=3)
    if hint is not None:
        x = at.add(x, hint)
    results = [x]
    for level, width in enumerate(widths):
        block = at / f"down_blocks.{level}"
        for index in range(config["layers_per_block"]):
            x = resnet(block / f"resnets.{index}", x, width, time=time, **plain)
            if config["down_attention"][level]:
                x = transformer(block / f"attentions.{index}", x, text, level, config, form)
            results.append(x)
        if level < len(widths) - 1:
            x = block.conv("downsamplers.0.conv", x, width, kernel=3, stride=2)
            results.append(x)
    middle = at / "mid_block"
    x = resnet(middle / "resnets.0", x, widths[-1], time=time, **plain)
    x = transformer(middle / "attentions.0", x, text, len(widths) - 1, config, form)
    return results, resnet(middle / "resnets.1", x, widths[-1], time=time, **plain)


def unet(at: Scope, given: Mapping[str, Value], config: Config, form: str) -> Value:
    widths, plain = config["block_out_channels"], {"groups": config["norm_num_groups"], "eps": config["norm_eps"]}
    text = given["encoder_hidden_states"]
    time = time_of(at, given, config)
    skips, x = down(at, given["sample"], time, text, config, form)
    residuals = [value for name, value in given.items() if name.startswith("additional_residual_")]
    if residuals:
        skips = [at.add(skip, residual) for skip, residual in zip(skips, residuals[:-1], strict=True)]
        x = at.add(x, residuals[-1])
    for index, width in enumerate(reversed(widths)):
        level, block = len(widths) - 1 - index, at / f"up_blocks.{index}"
        for layer in range(config["layers_per_block"] + 1):
            x = resnet(block / f"resnets.{layer}", at.concat([x, skips.pop()], 1), width, time=time, **plain)
            if config["up_attention"][index]:
                x = transformer(block / f"attentions.{layer}", x, text, level, config, form)
        if level:
            x = block.conv("upsamplers.0.conv", block.upsample(x), width, kernel=3)
    x = at.silu(at.group_norm("conv_norm_out", x, config["norm_num_groups"], config["norm_eps"]))
    return at.conv("conv_out", x, config["out_channels"], kernel=3)


def controlnet(at: Scope, given: Mapping[str, Value], config: Config, form: str) -> list[Value]:
    """The way down and the middle, told about a picture; each result through a 1×1 convolution."""
    hint_at, x = at / "controlnet_cond_embedding", given["controlnet_cond"]
    widths = config["conditioning_embedding_out_channels"]
    x = hint_at.silu(hint_at.conv("conv_in", x, widths[0], kernel=3))
    for index, (own, following) in enumerate(zip(widths, widths[1:])):
        x = hint_at.silu(hint_at.conv(f"blocks.{2 * index}", x, own, kernel=3))
        x = hint_at.silu(hint_at.conv(f"blocks.{2 * index + 1}", x, following, kernel=3, stride=2))
    hint = hint_at.conv("conv_out", x, config["block_out_channels"][0], kernel=3)
    results, middle = down(
        at, given["sample"], time_of(at, given, config), given["encoder_hidden_states"], config, form, hint
    )
    answers = [at.conv(f"controlnet_down_blocks.{i}", x, x.shape[1]) for i, x in enumerate(results)]
    return [*answers, at.conv("controlnet_mid_block", middle, middle.shape[1])]
