"""The two halves of AutoencoderKL; scaling and sampling are the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubpub.coreml.interim import Scope, Value
from hubpub.networks.unet import resnet

Config = Mapping[str, Any]
_EPS = 1e-6


def image_attention(at: Scope, x: Value, groups: int) -> Value:
    """One head over all pixels of (B, C, H, W)."""
    width = x.shape[1]
    rows = at.transpose(at.group_norm("group_norm", x, groups, _EPS, flat=True), 0, 2, 1)
    query, key, value = (at.expand_dims(at.linear(name, rows, width), 1) for name in ("to_q", "to_k", "to_v"))
    query = query if at.fuses else at.mul(query, width**-0.5)
    mixed = at.squeeze(at.attend(query, key, value), 1)
    return at.add(at.reshape(at.transpose(at.linear("to_out.0", mixed, width), 0, 2, 1), *x.shape), x)


def middle(at: Scope, x: Value, groups: int) -> Value:
    x = resnet(at / "resnets.0", x, x.shape[1], groups=groups, eps=_EPS)
    x = image_attention(at / "attentions.0", x, groups)
    return resnet(at / "resnets.1", x, x.shape[1], groups=groups, eps=_EPS)


def encoder(at: Scope, given: Mapping[str, Value], config: Config) -> Value:
    """x (B, 3, H, W) in [-1, 1] → mean, then log variance (B, 2·latent, h, w)."""
    widths, groups, own = config["block_out_channels"], config["norm_num_groups"], at / "encoder"
    x = own.conv("conv_in", given["x"], widths[0], kernel=3)
    for level, width in enumerate(widths):
        block = own / f"down_blocks.{level}"
        for index in range(config["layers_per_block"]):
            x = resnet(block / f"resnets.{index}", x, width, groups=groups, eps=_EPS)
        if level < len(widths) - 1:
            padded = block.pad(x, 0, 0, 0, 0, 0, 1, 0, 1)
            x = block.conv("downsamplers.0.conv", padded, width, kernel=3, stride=2, pad=0)
    x = own.silu(own.group_norm("conv_norm_out", middle(own / "mid_block", x, groups), groups, _EPS))
    x = own.conv("conv_out", x, 2 * config["latent_channels"], kernel=3)
    return at.conv("quant_conv", x, x.shape[1]) if config["use_quant_conv"] else x


def decoder(at: Scope, given: Mapping[str, Value], config: Config) -> Value:
    """z (B, latent, h, w), already divided by the scaling factor → image (B, 3, H, W) in [-1, 1]."""
    widths, groups, own = config["block_out_channels"][::-1], config["norm_num_groups"], at / "decoder"
    x = given["z"]
    if config["use_post_quant_conv"]:
        x = at.conv("post_quant_conv", x, x.shape[1])
    x = middle(own / "mid_block", own.conv("conv_in", x, widths[0], kernel=3), groups)
    for level, width in enumerate(widths):
        block = own / f"up_blocks.{level}"
        for index in range(config["layers_per_block"] + 1):
            x = resnet(block / f"resnets.{index}", x, width, groups=groups, eps=_EPS)
        if level < len(widths) - 1:
            x = block.conv("upsamplers.0.conv", block.upsample(x), width, kernel=3)
    x = own.silu(own.group_norm("conv_norm_out", x, groups, _EPS))
    return own.conv("conv_out", x, 3, kernel=3)
