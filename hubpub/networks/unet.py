"""UNet2DConditionModel of Stable Diffusion 1.x, 2.x and XL, written stage by stage.

Interface: sample (B, 4, H, W), timestep (B,), encoder_hidden_states (B, C, 1, S), for XL also
time_ids (B, 6) and text_embeds (B, P), for a UNet that takes ControlNets also
additional_residual_0 … n → noise_pred (B, 4, H, W). Inpainting has 9 input channels, InstructPix2Pix 8.

A stage is one layer of a block: what comes before it and after it is a State, so a UNet can be
cut between any two stages (chunks.py), and a ControlNet is the stages of the way down (controlnet.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from hubpub.networks.attention import ATTENTIONS, Attention
from hubpub.networks.layers import resnet, transformer
from hubpub.networks.scope import NetworkConfig, Scope, Size, Value, sinusoids

RESIDUAL = "additional_residual_"


@dataclass(frozen=True, kw_only=True)
class UNetConfig(NetworkConfig):
    """What the UNet depends on, of its config.json and the text encoders'; one item of a tuple per level."""

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    down_attention: tuple[bool, ...]
    up_attention: tuple[bool, ...]  # from the lowest level up
    layers_per_block: tuple[int, ...]
    transformer_layers: tuple[tuple[int, ...], ...]  # of each layer of the way down
    up_transformer_layers: tuple[tuple[int, ...], ...]  # of each layer of the way up, from the lowest level up
    middle: int | None  # transformer blocks of the middle; 0: a resnet alone; None: there is no middle
    heads: tuple[int, ...]
    cross_attention_dim: int
    norm_num_groups: int
    norm_eps: float
    flip_sin_to_cos: bool
    freq_shift: float
    text_tokens: int
    text_embeds: int = 0  # width of XL's pooled text; 0: there is none
    time_ids: int = 0  # how many numbers XL is told of the picture's size
    time_ids_dim: int = 0  # channels that each of them becomes
    guidance_embedding: float | None = None  # guidance scale built in, where the UNet was distilled for one
    guidance_dim: int = 0


Kind = Literal["down", "downsample", "middle", "residuals", "up", "upsample"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One layer of a block, on the way down, in the middle or on the way up."""

    kind: Kind
    level: int = 0  # 0 is the highest
    layer: int = 0


@dataclass
class State:
    """What one stage leaves to the next."""

    x: Value
    time: Value  # (B, T, 1, 1), through SiLU, as all resnets take it
    skips: list[Value]  # results of the way down that are still needed


class Inputs:
    """The inputs of a UNet; each is declared when it is first asked for."""

    def __init__(self, at: Scope, config: UNetConfig, size: Size) -> None:
        self._at, self._config, self._size = at, config, size

    @cached_property
    def sample(self) -> Value:
        size = self._size
        return self._at.input("sample", (size.batch, self._config.in_channels, size.height, size.width))

    @cached_property
    def timestep(self) -> Value:
        return self._at.input("timestep", (self._size.batch,))

    @cached_property
    def text(self) -> Value:
        config = self._config
        shape = (self._size.batch, config.cross_attention_dim, 1, config.text_tokens)
        return self._at.input("encoder_hidden_states", shape)

    @cached_property
    def time_ids(self) -> Value:
        return self._at.input("time_ids", (self._size.batch, self._config.time_ids))

    @cached_property
    def text_embeds(self) -> Value:
        return self._at.input("text_embeds", (self._size.batch, self._config.text_embeds))

    @cached_property
    def residuals(self) -> list[Value]:
        shapes = residual_shapes(self._config, self._size)
        return [self._at.input(f"{RESIDUAL}{number}", shape) for number, shape in enumerate(shapes)]

    def declare(self, *, residuals: bool = False) -> Inputs:
        """Declare all of them, in the order that apps know."""
        _ = self.sample, self.timestep, self.text
        if self._config.text_embeds:
            _ = self.time_ids, self.text_embeds
        if residuals:
            _ = self.residuals
        return self


def unet(at: Scope, config: UNetConfig, size: Size, attention: str) -> None:
    """Write the whole network."""
    _write(at, config, size, attention, residuals=False)


def control_unet(at: Scope, config: UNetConfig, size: Size, attention: str) -> None:
    """The same with the answers of ControlNets as further inputs, to be added on the way; of the same tensors."""
    _write(at, config, size, attention, residuals=True)


def _write(at: Scope, config: UNetConfig, size: Size, attention: str, *, residuals: bool) -> None:
    inputs = Inputs(at, config, size).declare(residuals=residuals)
    state = begin(at, inputs, config)
    run(at, stages(config, residuals=residuals), state, inputs, config, ATTENTIONS[attention])
    finish(at, state, config)


def begin(at: Scope, inputs: Inputs, config: UNetConfig) -> State:
    """The embedding of the timestep, and the first convolution."""
    time = time_embedding(at, inputs, config)
    x = at.conv("conv_in", inputs.sample, config.block_out_channels[0], kernel=3)
    return State(x=x, time=time, skips=[x])


def finish(at: Scope, state: State, config: UNetConfig) -> None:
    """The last convolution, and the output."""
    x = at.silu(at.group_norm("conv_norm_out", state.x, config.norm_num_groups, config.norm_eps))
    at.output("noise_pred", at.conv("conv_out", x, config.out_channels, kernel=3))


def time_embedding(at: Scope, inputs: Inputs, config: UNetConfig) -> Value:
    """timestep (B,), and XL's time_ids and text_embeds → (B, T, 1, 1), through SiLU, as all resnets take it."""
    base = config.block_out_channels[0]
    shift, cosine_first = config.freq_shift, config.flip_sin_to_cos
    waves = sinusoids(at / "time_proj", inputs.timestep, base, shift=shift, cosine_first=cosine_first)
    layer = at / "time_embedding"
    if config.guidance_embedding is not None:
        scale = layer.array("guidance", guidance_waves(config.guidance_embedding, config.guidance_dim))
        waves = layer.add(waves, layer.conv("cond_proj", scale, base, bias=False))
    time = _embedding(layer, waves, 4 * base)
    if not config.text_embeds:
        return at.silu(time)
    batch = inputs.time_ids.shape[0]
    numbers = at.reshape(inputs.time_ids, batch * config.time_ids)
    sizes = sinusoids(at / "add_time_proj", numbers, config.time_ids_dim, shift=shift, cosine_first=cosine_first)
    sizes = at.reshape(sizes, batch, config.time_ids * config.time_ids_dim, 1, 1)
    added = at / "add_embedding"
    features = added.concat([added.expand_dims(inputs.text_embeds, 2, 3), sizes], 1)
    return at.silu(at.add(time, _embedding(added, features, 4 * base)))


def _embedding(at: Scope, features: Value, width: int) -> Value:
    return at.conv("linear_2", at.silu(at.conv("linear_1", features, width)), width)


def guidance_waves(scale: float, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(1, channels, 1, 1): diffusers' get_guidance_scale_embedding of scale - 1, as its LCM pipeline calls it."""
    half = channels // 2
    angles = 1000.0 * (scale - 1.0) * np.exp(-np.log(10000.0) * np.arange(half) / (half - 1))
    waves = np.concatenate([np.sin(angles), np.cos(angles), np.zeros(channels % 2)])
    return waves.astype(np.float32).reshape(1, channels, 1, 1)


# -- stages ----------------------------------------------------------------------------------------------------


def stages(config: UNetConfig, *, residuals: bool = False) -> list[Stage]:
    """All stages in order; with residuals, those are added when the way down and the middle are done."""
    levels = len(config.block_out_channels)
    result = stages_down(config)
    if residuals:
        result.append(Stage(kind="residuals"))
    for level in reversed(range(levels)):
        layers = range(config.layers_per_block[level] + 1)
        result += [Stage(kind="up", level=level, layer=layer) for layer in layers]
        if level:
            result.append(Stage(kind="upsample", level=level))
    return result


def stages_down(config: UNetConfig) -> list[Stage]:
    """Those of the way down and of the middle."""
    levels = len(config.block_out_channels)
    result = []
    for level in range(levels):
        result += [Stage(kind="down", level=level, layer=layer) for layer in range(config.layers_per_block[level])]
        if level < levels - 1:
            result.append(Stage(kind="downsample", level=level))
    if config.middle is not None:
        result.append(Stage(kind="middle", level=levels - 1))
    return result


def run(
    at: Scope, chosen: Sequence[Stage], state: State, inputs: Inputs, config: UNetConfig, attend: Attention
) -> None:
    """Write these stages, one after the other; `state` goes with them."""
    for stage in chosen:
        _run(at, stage, state, inputs, config, attend)


def _run(at: Scope, stage: Stage, state: State, inputs: Inputs, config: UNetConfig, attend: Attention) -> None:
    width, layer, last = config.block_out_channels[stage.level], stage.layer, len(config.block_out_channels) - 1
    groups, eps, time, heads = config.norm_num_groups, config.norm_eps, state.time, config.heads[stage.level]
    match stage.kind:
        case "down":
            block = at / f"down_blocks.{stage.level}"
            x = resnet(block / f"resnets.{layer}", state.x, width, groups=groups, eps=eps, time=time)
            if config.down_attention[stage.level]:
                blocks, place = config.transformer_layers[stage.level][layer], block / f"attentions.{layer}"
                x = transformer(place, x, inputs.text, blocks=blocks, heads=heads, groups=groups, attend=attend)
            state.x = x
            state.skips.append(x)
        case "downsample":
            block = at / f"down_blocks.{stage.level}"
            state.x = block.conv("downsamplers.0.conv", state.x, width, kernel=3, stride=2)
            state.skips.append(state.x)
        case "middle":
            block = at / "mid_block"
            state.x = resnet(block / "resnets.0", state.x, width, groups=groups, eps=eps, time=time)
            if config.middle:
                place = block / "attentions.0"
                blocks = config.middle
                x = transformer(place, state.x, inputs.text, blocks=blocks, heads=heads, groups=groups, attend=attend)
                state.x = resnet(block / "resnets.1", x, width, groups=groups, eps=eps, time=time)
        case "residuals":
            *added, middle = inputs.residuals
            state.skips = [at.add(skip, residual) for skip, residual in zip(state.skips, added, strict=True)]
            state.x = at.add(state.x, middle)
        case "up":
            index = last - stage.level
            block = at / f"up_blocks.{index}"
            x = at.concat([state.x, state.skips.pop()], 1)
            x = resnet(block / f"resnets.{layer}", x, width, groups=groups, eps=eps, time=time)
            if config.up_attention[index]:
                blocks, place = config.up_transformer_layers[index][layer], block / f"attentions.{layer}"
                x = transformer(place, x, inputs.text, blocks=blocks, heads=heads, groups=groups, attend=attend)
            state.x = x
        case "upsample":
            block = at / f"up_blocks.{last - stage.level}"
            state.x = block.conv("upsamplers.0.conv", block.upsample(state.x), width, kernel=3)


# -- shapes ----------------------------------------------------------------------------------------------------

Shape = tuple[int, int, int, int]


def skip_shapes(config: UNetConfig, size: Size) -> list[Shape]:
    """Of conv_in's result, and of each layer's and each downsampler's on the way down."""
    widths = config.block_out_channels
    height, width = size.height, size.width
    shapes: list[Shape] = [(size.batch, widths[0], height, width)]
    for stage in stages_down(config):
        if stage.kind == "downsample":
            height, width = (height + 1) // 2, (width + 1) // 2
        if stage.kind != "middle":
            shapes.append((size.batch, widths[stage.level], height, width))
    return shapes


def residual_shapes(config: UNetConfig, size: Size) -> list[Shape]:
    """Of what a ControlNet gives to this UNet: one for each skip connection, and one for the middle."""
    shapes = skip_shapes(config, size)
    return [*shapes, (size.batch, config.block_out_channels[-1], *shapes[-1][2:])]
