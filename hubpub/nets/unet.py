"""The UNet of Stable Diffusion 1.x and 2.x (diffusers' UNet2DConditionModel), as Core ML apps expect it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hubpub.nets.blocks import Downsample, Resnet, Transformer, Upsample, cat
from hubpub.nets.ops import sinusoids

Config = Mapping[str, Any]


def frequencies(channels: int, shift: float) -> Tensor:
    """The sinusoids' angular frequencies (channels / 2), fp32: from 1 down to about 1/10000."""
    half = channels // 2
    return torch.from_numpy(np.exp(-np.log(10000.0) * np.arange(half) / (half - shift)).astype(np.float32))


def resnets(widths: list[tuple[int, int]], config: Config) -> nn.ModuleList:
    """Resnets of these channels (in, out), told about the time."""
    groups, eps, time = config["norm_num_groups"], config["norm_eps"], 4 * config["block_out_channels"][0]
    return nn.ModuleList([Resnet(inner, outer, groups=groups, eps=eps, time=time) for inner, outer in widths])


def transformers(count: int, level: int, config: Config, form: str) -> nn.ModuleList:
    """Transformers of the width, heads and depth of a level."""
    return nn.ModuleList(
        [
            Transformer(
                config["block_out_channels"][level],
                config["cross_attention_dim"],
                config["heads"][level],
                layers=config["transformer_layers"][level],
                groups=config["norm_num_groups"],
                form=form,
            )
            for _ in range(count)
        ]
    )


class TimeEmbedding(nn.Module):
    """Sinusoids (B, C, 1, 1) → (B, T, 1, 1)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Conv2d(channels, width, 1)
        self.linear_2 = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


class DownBlock(nn.Module):
    """Resnets, each followed by a transformer where the level attends to the text; then half the size."""

    def __init__(self, level: int, config: Config, form: str) -> None:
        super().__init__()
        channels, count = config["block_out_channels"], config["layers_per_block"]
        before, own = channels[max(level - 1, 0)], channels[level]
        self.resnets = resnets([(before, own)] + [(own, own)] * (count - 1), config)
        self.attentions = transformers(count if config["down_attention"][level] else 0, level, config, form)
        self.downsamplers = nn.ModuleList([Downsample(own)] if level < len(channels) - 1 else [])

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> list[Tensor]:
        """Every intermediate result; the last one goes on."""
        results = []
        for index, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if len(self.attentions):
                x = self.attentions[index](x, text)
            results.append(x)
        return results + [downsample(x) for downsample in self.downsamplers]


class MidBlock(nn.Module):
    """Resnet, transformer, resnet."""

    def __init__(self, config: Config, form: str) -> None:
        super().__init__()
        last = len(config["block_out_channels"]) - 1
        own = config["block_out_channels"][last]
        self.resnets = resnets([(own, own)] * 2, config)
        self.attentions = transformers(1, last, config, form)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time), text), time)


class UpBlock(nn.Module):
    """One resnet more than on the way down, each with what the way down left; then twice the size."""

    def __init__(self, index: int, config: Config, form: str) -> None:
        super().__init__()
        channels, count = config["block_out_channels"], config["layers_per_block"] + 1
        level = len(channels) - 1 - index
        own, below, above = channels[level], channels[min(level + 1, len(channels) - 1)], channels[max(level - 1, 0)]
        skips = [own] * (count - 1) + [above]
        self.resnets = resnets([((own if i else below) + skips[i], own) for i in range(count)], config)
        self.attentions = transformers(count if config["up_attention"][index] else 0, level, config, form)
        self.upsamplers = nn.ModuleList([Upsample(own)] if level > 0 else [])

    def forward(self, x: Tensor, time: Tensor, text: Tensor, skips: list[Tensor]) -> Tensor:
        """Takes what it needs from the end of `skips`."""
        for index, resnet in enumerate(self.resnets):
            x = resnet(cat(x, skips.pop()), time)
            if len(self.attentions):
                x = self.attentions[index](x, text)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNet(nn.Module):
    """sample (B, 4, H, W), timestep (B), encoder_hidden_states (B, C, 1, T) → noise_pred (B, 4, H, W)."""

    def __init__(self, config: Config, form: str) -> None:
        super().__init__()
        channels = config["block_out_channels"]
        self.flip = config["flip_sin_to_cos"]
        self.register_buffer("frequencies", frequencies(channels[0], config["freq_shift"]), persistent=False)
        self.conv_in = nn.Conv2d(config["in_channels"], channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], 4 * channels[0])
        levels = range(len(channels))
        self.down_blocks = nn.ModuleList([DownBlock(level, config, form) for level in levels])
        self.mid_block = MidBlock(config, form)
        self.up_blocks = nn.ModuleList([UpBlock(index, config, form) for index in levels])
        self.conv_norm_out = nn.GroupNorm(config["norm_num_groups"], channels[0], config["norm_eps"])
        self.conv_out = nn.Conv2d(channels[0], config["out_channels"], 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        time = self.time_embedding(sinusoids(timestep, self.frequencies, self.flip))
        x = self.conv_in(sample)
        skips = [x]
        for down in self.down_blocks:
            results = down(x, time, encoder_hidden_states)
            skips += results
            x = results[-1]
        x = self.mid_block(x, time, encoder_hidden_states)
        for up in self.up_blocks:
            x = up(x, time, encoder_hidden_states, skips)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
