"""The two halves of AutoencoderKL; scaling and sampling are the caller's.

Interfaces: z (1, 4, h, w) → image (1, 3, 8h, 8w) in -1 … 1; x (1, 3, 8h, 8w) → latent (1, 8, h, w): mean, log variance.
"""

from __future__ import annotations

from dataclasses import dataclass

from hubpub.networks.layers import resnet
from hubpub.networks.scope import Dtype, NetworkConfig, Scope, Size, Value

_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VAEConfig(NetworkConfig):
    """What one half of the VAE depends on, of its config.json."""

    block_out_channels: tuple[int, ...]
    latent_channels: int
    layers_per_block: int
    norm_num_groups: int
    quantizes: bool  # whether it has quant_conv (the encoder) or post_quant_conv (the decoder)
    upcast: bool = False  # whether it overflows fp16: then all of it is fp32, its inputs too

    @property
    def floats(self) -> Dtype:
        return "fp32" if self.upcast else "fp16"


def vae_decoder(at: Scope, config: VAEConfig, size: Size, attention: str) -> None:
    """Write the decoder; z comes divided by the scaling factor."""
    x = at.input("z", (1, config.latent_channels, size.height, size.width))
    widths, groups, own = config.block_out_channels[::-1], config.norm_num_groups, at / "decoder"
    if config.quantizes:
        x = at.conv("post_quant_conv", x, x.shape[1])
    x = _middle(own / "mid_block", own.conv("conv_in", x, widths[0], kernel=3), groups)
    for level, width in enumerate(widths):
        block = own / f"up_blocks.{level}"
        for layer in range(config.layers_per_block + 1):
            x = resnet(block / f"resnets.{layer}", x, width, groups=groups, eps=_EPS)
        if level < len(widths) - 1:
            x = block.conv("upsamplers.0.conv", block.upsample(x), width, kernel=3)
    x = own.silu(own.group_norm("conv_norm_out", x, groups, _EPS))
    at.output("image", own.conv("conv_out", x, 3, kernel=3))


def vae_encoder(at: Scope, config: VAEConfig, size: Size, attention: str) -> None:
    """Write the encoder."""
    scale = 2 ** (len(config.block_out_channels) - 1)
    x = at.input("x", (1, 3, size.height * scale, size.width * scale))
    widths, groups, own = config.block_out_channels, config.norm_num_groups, at / "encoder"
    x = own.conv("conv_in", x, widths[0], kernel=3)
    for level, width in enumerate(widths):
        block = own / f"down_blocks.{level}"
        for layer in range(config.layers_per_block):
            x = resnet(block / f"resnets.{layer}", x, width, groups=groups, eps=_EPS)
        if level < len(widths) - 1:
            padded = block.pad(x, 0, 0, 0, 0, 0, 1, 0, 1)
            x = block.conv("downsamplers.0.conv", padded, width, kernel=3, stride=2, pad=0)
    x = own.silu(own.group_norm("conv_norm_out", _middle(own / "mid_block", x, groups), groups, _EPS))
    x = own.conv("conv_out", x, 2 * config.latent_channels, kernel=3)
    at.output("latent", at.conv("quant_conv", x, x.shape[1]) if config.quantizes else x)


def _middle(at: Scope, x: Value, groups: int) -> Value:
    x = resnet(at / "resnets.0", x, x.shape[1], groups=groups, eps=_EPS)
    x = _attention(at / "attentions.0", x, groups)
    return resnet(at / "resnets.1", x, x.shape[1], groups=groups, eps=_EPS)


def _attention(at: Scope, x: Value, groups: int) -> Value:
    """One head over all pixels of (B, C, H, W), around a residual."""
    width = x.shape[1]
    rows = at.transpose(at.group_norm_rows("group_norm", x, groups, _EPS), 0, 2, 1)
    query, key, value = (at.expand_dims(at.linear(name, rows, width), 1) for name in ("to_q", "to_k", "to_v"))
    query = query if at.fuses else at.mul(query, width**-0.5)
    mixed = at.squeeze(at.attend(query, key, value), 1)
    return at.add(at.reshape(at.transpose(at.linear("to_out.0", mixed, width), 0, 2, 1), *x.shape), x)
