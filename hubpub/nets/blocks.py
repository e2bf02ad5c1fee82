"""The blocks that UNet and VAE are built of; names of parameters are those of diffusers' state dicts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hubpub.nets.attention import Attention
from hubpub.nets.ops import ChannelNorm


class Resnet(nn.Module):
    """norm, SiLU, conv, twice, around a residual; the time embedding (B, T, 1, 1), if any, is added in between."""

    def __init__(
        self, channels_in: int, channels_out: int, *, groups: int, eps: float, time: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Conv2d(time, channels_out, 1) if time else None
        self.norm2 = nn.GroupNorm(groups, channels_out, eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        if self.time_emb_proj is not None and time is not None:
            hidden = hidden + self.time_emb_proj(F.silu(time))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return hidden + x


class Downsample(nn.Module):
    """Halve the sides; the VAE pads on the right and at the bottom only."""

    def __init__(self, channels: int, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Double the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class GeGlu(nn.Module):
    """A projection to twice the width, of which the second half, through GELU, gates the first."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, 2 * inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """diffusers' FeedForward with GEGLU; net.1 is its dropout, which does nothing here."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GeGlu(channels, 4 * channels), nn.Identity(), nn.Conv2d(4 * channels, channels, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward, each after a layer norm and added to its input."""

    def __init__(self, channels: int, context_channels: int, heads: int, form: str) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attn1 = Attention(channels, channels, heads, form)
        self.norm2 = ChannelNorm(channels)
        self.attn2 = Attention(channels, context_channels, heads, form)
        self.norm3 = ChannelNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), text) + x
        return self.ff(self.norm3(x)) + x


class Transformer(nn.Module):
    """diffusers' Transformer2DModel: (B, C, H, W) → (B, C, 1, H·W) through the blocks, and back."""

    def __init__(
        self, channels: int, context_channels: int, heads: int, *, layers: int, groups: int, form: str
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(channels, context_channels, heads, form) for _ in range(layers)]
        )
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        hidden = self.proj_in(self.norm(x)).reshape(batch, channels, 1, height * width)
        for block in self.transformer_blocks:
            hidden = block(hidden, text)
        return self.proj_out(hidden.reshape(batch, channels, height, width)) + x


class ImageAttention(nn.Module):
    """The VAE's attention: one head over all pixels of (B, C, H, W)."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, 1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = self.group_norm(x.reshape(batch, channels, height * width)).transpose(1, 2)
        query, key, value = (project(rows).unsqueeze(1) for project in (self.to_q, self.to_k, self.to_v))
        mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return self.to_out[0](mixed).transpose(1, 2).reshape(batch, channels, height, width) + x


def cat(x: Tensor, y: Tensor) -> Tensor:
    """Both along the channels."""
    return torch.cat([x, y], dim=1)
