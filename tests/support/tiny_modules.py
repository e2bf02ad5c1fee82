"""diffusers' and transformers' own modules, tiny, with random weights: what hubpub's networks are compared with.

Sizes are those of the sources that shared/apple_reference.json was recorded from.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel

from hubpub.architectures import detect, export_params

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
FOLDERS = {"vae_decoder": "vae", "vae_encoder": "vae"}


@functools.cache
def module(folder: str, generation: int) -> torch.nn.Module:
    """The module of a source's folder, of Stable Diffusion `generation` (1 or 2), fp32, from a fixed seed."""
    torch.manual_seed(generation)
    made = {"unet": _unet, "vae": _vae, "text_encoder": _text_encoder, "safety_checker": _safety_checker}[folder]
    network = made(generation).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and "concept" not in name and "special" not in name:
            # Fresh modules have biases of 0 and norms of 1, which hide what happens to them.
            parameter.copy_(parameter + 0.1 * torch.randn(parameter.shape))
    return network


@functools.cache
def configs(generation: int) -> Mapping[str, Mapping[str, Any]]:
    """folder → config.json."""
    text = module("text_encoder", generation).config.to_dict()
    return {
        "unet": dict(module("unet", generation).config),
        "vae": dict(module("vae", generation).config),
        "text_encoder": text | {"architectures": ["CLIPTextModel"]},
        "safety_checker": module("safety_checker", generation).config.to_dict()
        | {"architectures": ["StableDiffusionSafetyChecker"]},
    }


def params(
    component: str,
    generation: int = 1,
    *,
    attention: str = "original",
    latent: tuple[int, int] | None = None,
    batch: int = 2,
    target: str = "macOS13",
) -> dict[str, Any]:
    """Export parameters of a tiny component."""
    family = detect(INDEX, configs(generation))
    found = family.component(component)
    return export_params(found, configs(generation), attention=attention, latent=latent, batch=batch, target=target)


def state(component: str, generation: int = 1) -> dict[str, torch.Tensor]:
    """The tensors of a component's folder, by name."""
    return dict(module(FOLDERS.get(component, component), generation).state_dict())


def psnr(original: torch.Tensor, final: torch.Tensor) -> float:
    """Decibels, by the formula of Apple's converter (the peak is that of `final`)."""
    a, b = original.double().numpy(), final.double().numpy()
    return float(20 * np.log10((np.abs(b).max() + 1e-5) / (np.sqrt(np.mean((a - b) ** 2)) + 1e-10)))


def _unet(generation: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=2 if generation == 1 else [1, 2, 2],
        use_linear_projection=generation == 2,
    )


def _vae(generation: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
    )


def _text_encoder(generation: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="quick_gelu" if generation == 1 else "gelu",
        bos_token_id=0,
        eos_token_id=2,
    )
    return CLIPTextModel(config)


def _safety_checker(generation: int) -> StableDiffusionSafetyChecker:
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision | {"patch_size": 32}, projection_dim=64))
    for embeds in (made.concept_embeds, made.special_care_embeds):
        embeds.data.normal_()
    for thresholds in (made.concept_embeds_weights, made.special_care_embeds_weights):
        thresholds.data.uniform_(0.2, 0.4)
    return made
