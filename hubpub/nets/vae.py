"""The two halves of the VAE (diffusers' AutoencoderKL); scaling and sampling are the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hubpub.nets.blocks import Downsample, ImageAttention, Resnet, Upsample

Config = Mapping[str, Any]

_EPS = 1e-6
_IMAGE_CHANNELS = 3


class VaeBlock(nn.Module):
    """Resnets, then half or twice the size where the block changes it."""

    def __init__(self, widths: list[tuple[int, int]], *, groups: int, down: bool = False, up: bool = False) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(inner, outer, groups=groups, eps=_EPS) for inner, outer in widths])
        out = widths[-1][1]
        self.downsamplers = nn.ModuleList([Downsample(out, asymmetric=True)] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(out)] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        for part in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = part(x)
        return x


class VaeMidBlock(nn.Module):
    """Resnet, attention, resnet."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(channels, channels, groups=groups, eps=_EPS) for _ in range(2)])
        self.attentions = nn.ModuleList([ImageAttention(channels, groups=groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    """(B, 3, H, W) → mean and log variance before quant_conv (B, 2·latent, h, w)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels, groups, count = config["block_out_channels"], config["norm_num_groups"], config["layers_per_block"]
        self.conv_in = nn.Conv2d(_IMAGE_CHANNELS, channels[0], 3, padding=1)
        before = [channels[0], *channels]
        self.down_blocks = nn.ModuleList(
            [
                VaeBlock([(before[i], own)] + [(own, own)] * (count - 1), groups=groups, down=i < len(channels) - 1)
                for i, own in enumerate(channels)
            ]
        )
        self.mid_block = VaeMidBlock(channels[-1], groups=groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], _EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config["latent_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents after post_quant_conv (B, latent, h, w) → image (B, 3, H, W)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels, groups = config["block_out_channels"][::-1], config["norm_num_groups"]
        count = config["layers_per_block"] + 1
        self.conv_in = nn.Conv2d(config["latent_channels"], channels[0], 3, padding=1)
        self.mid_block = VaeMidBlock(channels[0], groups=groups)
        before = [channels[0], *channels]
        self.up_blocks = nn.ModuleList(
            [
                VaeBlock([(before[i], own)] + [(own, own)] * (count - 1), groups=groups, up=i < len(channels) - 1)
                for i, own in enumerate(channels)
            ]
        )
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], _EPS)
        self.conv_out = nn.Conv2d(channels[-1], _IMAGE_CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VaeEncoder(nn.Module):
    """x (B, 3, H, W) in [-1, 1] → latent (B, 2·latent, h, w): mean, then log variance, neither sampled nor scaled."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = 2 * config["latent_channels"]
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(width, width, 1) if config["use_quant_conv"] else None

    def forward(self, x: Tensor) -> Tensor:
        moments = self.encoder(x)
        return moments if self.quant_conv is None else self.quant_conv(moments)


class VaeDecoder(nn.Module):
    """z (B, latent, h, w), already divided by the scaling factor → image (B, 3, H, W) in [-1, 1]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config["latent_channels"]
        self.post_quant_conv = nn.Conv2d(width, width, 1) if config["use_post_quant_conv"] else None
        self.decoder = Decoder(config)

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
