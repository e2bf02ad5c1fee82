"""UNet2DConditionModel of Stable Diffusion 1.x and 2.x.

Interface: sample (B, 4, H, W), timestep (B,), encoder_hidden_states (B, C, 1, S) → noise_pred (B, 4, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass

from hubpub.networks.attention import ATTENTIONS, Attention
from hubpub.networks.layers import resnet, transformer
from hubpub.networks.scope import NetworkConfig, Scope, Size, Value, sinusoids


@dataclass(frozen=True, kw_only=True)
class UNetConfig(NetworkConfig):
    """What the UNet depends on, of its config.json and the text encoder's; one item of a tuple per level."""

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]  # from the lowest level up
    layers_per_block: int
    transformer_layers: tuple[int, ...]
    heads: tuple[int, ...]
    cross_attention_dim: int
    norm_num_groups: int
    norm_eps: float
    flip_sin_to_cos: bool
    freq_shift: float
    text_tokens: int


def unet(at: Scope, config: UNetConfig, size: Size, attention: str) -> None:
    """Write the whole network."""
    sample = at.input("sample", (size.batch, config.in_channels, size.height, size.width))
    timestep = at.input("timestep", (size.batch,))
    text = at.input("encoder_hidden_states", (size.batch, config.cross_attention_dim, 1, config.text_tokens))
    attend = ATTENTIONS[attention]
    time = _time(at, timestep, config)
    skips, x = _down(at, sample, time, text, config, attend)
    x = _up(at, x, skips, time, text, config, attend)
    x = at.silu(at.group_norm("conv_norm_out", x, config.norm_num_groups, config.norm_eps))
    at.output("noise_pred", at.conv("conv_out", x, config.out_channels, kernel=3))


def _time(at: Scope, timestep: Value, config: UNetConfig) -> Value:
    """(B,) → (B, T, 1, 1), through SiLU, as all resnets take it."""
    base = config.block_out_channels[0]
    waves = sinusoids(at / "time_proj", timestep, base, shift=config.freq_shift, cosine_first=config.flip_sin_to_cos)
    layer = at / "time_embedding"
    return at.silu(layer.conv("linear_2", layer.silu(layer.conv("linear_1", waves, 4 * base)), 4 * base))


def _transformer(at: Scope, x: Value, text: Value, level: int, config: UNetConfig, attend: Attention) -> Value:
    return transformer(
        at,
        x,
        text,
        blocks=config.transformer_layers[level],
        heads=config.heads[level],
        groups=config.norm_num_groups,
        attend=attend,
    )


def _down(
    at: Scope, sample: Value, time: Value, text: Value, config: UNetConfig, attend: Attention
) -> tuple[list[Value], Value]:
    """conv_in, the way down and the middle: every result on the way, and the last one."""
    widths = config.block_out_channels
    groups, eps = config.norm_num_groups, config.norm_eps
    x = at.conv("conv_in", sample, widths[0], kernel=3)
    results = [x]
    for level, width in enumerate(widths):
        block = at / f"down_blocks.{level}"
        for layer in range(config.layers_per_block):
            x = resnet(block / f"resnets.{layer}", x, width, groups=groups, eps=eps, time=time)
            if config.down_attention[level]:
                x = _transformer(block / f"attentions.{layer}", x, text, level, config, attend)
            results.append(x)
        if level < len(widths) - 1:
            x = block.conv("downsamplers.0.conv", x, width, kernel=3, stride=2)
            results.append(x)
    middle, last = at / "mid_block", len(widths) - 1
    x = resnet(middle / "resnets.0", x, widths[-1], groups=groups, eps=eps, time=time)
    x = _transformer(middle / "attentions.0", x, text, last, config, attend)
    return results, resnet(middle / "resnets.1", x, widths[-1], groups=groups, eps=eps, time=time)


def _up(
    at: Scope, x: Value, skips: list[Value], time: Value, text: Value, config: UNetConfig, attend: Attention
) -> Value:
    """The way up: each resnet takes the result of the way down that it mirrors."""
    groups, eps = config.norm_num_groups, config.norm_eps
    skips = list(skips)
    for index, width in enumerate(reversed(config.block_out_channels)):
        level, block = len(config.block_out_channels) - 1 - index, at / f"up_blocks.{index}"
        for layer in range(config.layers_per_block + 1):
            x = at.concat([x, skips.pop()], 1)
            x = resnet(block / f"resnets.{layer}", x, width, groups=groups, eps=eps, time=time)
            if config.up_attention[index]:
                x = _transformer(block / f"attentions.{layer}", x, text, level, config, attend)
        if level:
            x = block.conv("upsamplers.0.conv", block.upsample(x), width, kernel=3)
    return x
