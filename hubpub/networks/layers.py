"""Layers that several networks share: diffusers' ResnetBlock2D, BasicTransformerBlock, Transformer2DModel."""

from __future__ import annotations

from hubpub.networks.attention import Attention
from hubpub.networks.scope import Scope, Value


def resnet(at: Scope, x: Value, out: int, *, groups: int, eps: float, time: Value | None = None) -> Value:
    """norm, SiLU, convolution, twice, around a residual; the time embedding (B, T, 1, 1), if any, is added between."""
    hidden = at.conv("conv1", at.silu(at.group_norm("norm1", x, groups, eps)), out, kernel=3)
    if time is not None:
        hidden = at.add(hidden, at.conv("time_emb_proj", time, out))
    hidden = at.conv("conv2", at.silu(at.group_norm("norm2", hidden, groups, eps)), out, kernel=3)
    if x.shape[1] != out:
        x = at.conv("conv_shortcut", x, out)
    return at.add(hidden, x)


def attention(at: Scope, x: Value, context: Value, heads: int, attend: Attention) -> Value:
    """Attention of x (B, C, 1, S) to a context (B, C', 1, S'), with linear layers as 1×1 convolutions."""
    width = x.shape[1]
    query = at.conv("to_q", x, width, bias=False)
    key, value = (at.conv(name, context, width, bias=False) for name in ("to_k", "to_v"))
    return at.conv("to_out.0", attend(at, query, key, value, heads), width)


def transformer_block(at: Scope, x: Value, text: Value, heads: int, attend: Attention) -> Value:
    """Self-attention, attention to the text, and a gated feed-forward layer, each around a residual."""
    width = x.shape[1]
    normal = at.layer_norm("norm1", x, axis=1)
    x = at.add(attention(at / "attn1", normal, normal, heads, attend), x)
    x = at.add(attention(at / "attn2", at.layer_norm("norm2", x, axis=1), text, heads, attend), x)
    value, gate = at.split(at.conv("ff.net.0.proj", at.layer_norm("norm3", x, axis=1), 8 * width), 2, 1)
    return at.add(at.conv("ff.net.2", at.mul(value, at.gelu(gate)), width), x)


def transformer(at: Scope, x: Value, text: Value, *, blocks: int, heads: int, groups: int, attend: Attention) -> Value:
    """(B, C, H, W) → (B, C, 1, H·W) through the blocks, and back, around a residual."""
    batch, width, height, columns = x.shape
    hidden = at.conv("proj_in", at.group_norm("norm", x, groups, 1e-6), width)
    hidden = at.reshape(hidden, batch, width, 1, height * columns)
    for index in range(blocks):
        hidden = transformer_block(at / f"transformer_blocks.{index}", hidden, text, heads, attend)
    return at.add(at.conv("proj_out", at.reshape(hidden, *x.shape), width), x)
