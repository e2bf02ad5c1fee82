"""The networks of the demo's model: Stable Diffusion 1.x in every class and in its constants, small in every width.

What is as in Stable Diffusion 1.x, so that any program for it can draw with this model: the classes, the four latent
channels, the noise schedule, the prediction of the noise, the latent scale 0.18215 and the 77 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

LATENT_SIZE = 32
LATENT_CHANNELS = 4
TEXT_WIDTH = 64
TEXT_LENGTH = 77
SCALING_FACTOR = 0.18215


def vae() -> AutoencoderKL:
    """128×128 pictures to and from 32×32 latents of four channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 16, 32],
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=LATENT_SIZE * 4,
        scaling_factor=SCALING_FACTOR,
    )


def unet() -> UNet2DConditionModel:
    """Three levels, 32×32, 16×16 and 8×8; attention at the first two, with two heads (the field is a misnomer)."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        block_out_channels=[16, 48, 64],
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def text_encoder(vocabulary: int) -> CLIPTextModel:
    """Two layers; the vocabulary's last two tokens start and end a prompt."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.x, to be walked by DDIM."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


def set_top_attention(network: UNet2DConditionModel, *, on: bool) -> None:
    """Switch self-attention at 32×32 on or off: 1,024 queries and keys, and more than half of a training step."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    processors = {}
    for name in network.attn_processors:
        top = name.startswith(("down_blocks.0.", "up_blocks.2.")) and ".attn1." in name
        processors[name] = _NoAttention() if top and not on else AttnProcessor2_0()
    network.set_attn_processor(processors)


@torch.no_grad()
def start_from_identity(network: UNet2DConditionModel) -> None:
    """Let a fresh UNet answer its input, made unit size: at high noise that is nearly the noise that it must predict.

    Each input channel x and its negative share a group of the last normalization, and silu(x) - silu(-x) = x. The input
    goes there by the outermost skip connection; what else feeds these channels starts at zero.
    """
    first, last = network.conv_in, network.conv_out
    end = network.up_blocks[-1].resnets[-1]
    pairs = range(LATENT_CHANNELS)
    skip = end.conv_shortcut.in_channels - first.out_channels  # the skip connection comes second in the concatenation
    for weight in (first.weight[: 2 * LATENT_CHANNELS], end.conv_shortcut.weight[: 2 * LATENT_CHANNELS], last.weight):
        weight.zero_()
    for bias in (first.bias[: 2 * LATENT_CHANNELS], end.conv_shortcut.bias, last.bias):
        bias.zero_()
    for pair in pairs:
        for sign, channel in ((1.0, 2 * pair), (-1.0, 2 * pair + 1)):
            first.weight[channel, pair, 1, 1] = sign
            end.conv_shortcut.weight[channel, skip + channel, 0, 0] = 1.0
            last.weight[pair, channel, 1, 1] = sign
    attentions = getattr(network.up_blocks[-1], "attentions", [])  # XL has none there
    silenced = [end.conv2, *(attention.proj_out for attention in attentions[-1:])]
    for module in silenced:
        module.weight.zero_()
        module.bias.zero_()


def silence_top_attention(network: UNet2DConditionModel) -> None:
    """Make self-attention at 32×32 add nothing, so that it can be switched on later without a jump."""
    for block in (network.down_blocks[0], network.up_blocks[2]):
        for attention in block.attentions:
            for layer in attention.transformer_blocks:
                torch.nn.init.zeros_(layer.attn1.to_out[0].weight)
                torch.nn.init.zeros_(layer.attn1.to_out[0].bias)


class _NoAttention:
    """An attention processor whose output is nothing."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros_like(hidden_states)
