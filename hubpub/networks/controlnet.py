"""ControlNetModel of Stable Diffusion 1.x, 2.x and XL: a UNet's way down and middle that have seen a picture.

Interface: sample (B, 4, H, W), timestep (B,), encoder_hidden_states (B, C, 1, S), for XL also time_ids
(B, 6) and text_embeds (B, P), controlnet_cond (B, 3, 8H, 8W) in 0 … 1 → additional_residual_0 … n, which
the UNet adds to its skip connections and its middle, in the order of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hubpub.networks.attention import ATTENTIONS
from hubpub.networks.scope import Scope, Size, Value
from hubpub.networks.unet import RESIDUAL, Inputs, State, UNetConfig, run, stages_down, time_embedding


@dataclass(frozen=True, kw_only=True)
class ControlNetConfig(UNetConfig):
    """What a ControlNet depends on; what its config says of a UNet's way up is empty."""

    conditioning_channels: int
    conditioning_widths: tuple[int, ...]


def controlnet(at: Scope, config: ControlNetConfig, size: Size, attention: str) -> None:
    """Write the whole network."""
    scale = image_scale(config)
    inputs = Inputs(at, config, size).declare()
    shape = (size.batch, config.conditioning_channels, size.height * scale, size.width * scale)
    picture = at.input("controlnet_cond", shape)
    time = time_embedding(at, inputs, config)
    x = at.conv("conv_in", inputs.sample, config.block_out_channels[0], kernel=3)
    x = at.add(x, _seen(at / "controlnet_cond_embedding", picture, config))
    state = State(x=x, time=time, skips=[x])
    run(at, stages_down(config), state, inputs, config, ATTENTIONS[attention])
    for number, skip in enumerate(state.skips):
        at.output(f"{RESIDUAL}{number}", at.conv(f"controlnet_down_blocks.{number}", skip, skip.shape[1]))
    middle = at.conv("controlnet_mid_block", state.x, state.x.shape[1])
    at.output(f"{RESIDUAL}{len(state.skips)}", middle)


def image_scale(config: ControlNetConfig) -> int:
    """How many pixels of the picture one latent pixel stands for, along each side."""
    return int(2 ** (len(config.conditioning_widths) - 1))


def _seen(at: Scope, picture: Value, config: ControlNetConfig) -> Value:
    """(B, 3, 8H, 8W) → (B, C, H, W)."""
    widths = config.conditioning_widths
    x = at.silu(at.conv("conv_in", picture, widths[0], kernel=3))
    for number, (width, following) in enumerate(pairwise(widths)):
        x = at.silu(at.conv(f"blocks.{2 * number}", x, width, kernel=3))
        x = at.silu(at.conv(f"blocks.{2 * number + 1}", x, following, kernel=3, stride=2))
    return at.conv("conv_out", x, config.block_out_channels[0], kernel=3)
