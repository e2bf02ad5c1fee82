"""Operations that torch.export must keep in one piece; lowering.py says what each is in Core ML."""

from __future__ import annotations

import torch


@torch.library.custom_op("hubpub::channel_norm", mutates_args=())
def channel_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise x (B, C, 1, S) over C, then scale and shift by weight and bias (C)."""
    rows = torch.nn.functional.layer_norm(x.transpose(1, -1), weight.shape, weight, bias, eps)
    return rows.transpose(1, -1).contiguous()


@channel_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.empty_like(x)


class ChannelNorm(torch.nn.Module):
    """torch.nn.LayerNorm of (B, C, 1, S) over C; its parameters are LayerNorm's."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(channels))
        self.bias = torch.nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return channel_norm(x, self.weight, self.bias, self.eps)


@torch.library.custom_op("hubpub::sinusoids", mutates_args=())
def sinusoids(timestep: torch.Tensor, frequencies: torch.Tensor, cosine_first: bool) -> torch.Tensor:
    """Sines and cosines of timestep (B) times frequencies (C / 2), as (B, C, 1, 1)."""
    angles = timestep[:, None] * frequencies
    halves = [torch.sin(angles), torch.cos(angles)]
    return torch.cat(halves[::-1] if cosine_first else halves, dim=1)[:, :, None, None]


@sinusoids.register_fake
def _(timestep: torch.Tensor, frequencies: torch.Tensor, cosine_first: bool) -> torch.Tensor:
    return timestep.new_empty((timestep.shape[0], 2 * frequencies.shape[0], 1, 1))
