"""The operation that torch and Core ML say differently: a layer norm over the channels of (B, C, 1, S).

A torch custom op keeps it in one piece through torch.export, and steps/export.py turns it
into one MIL `layer_norm` with axes [1], gamma and beta as the source holds them.
"""

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
