"""Stable Diffusion 1.x: CLIP ViT-L/14 text encoder (quick GELU), 8 heads everywhere, a safety checker.

Inpainting (9 input channels), InstructPix2Pix (8), latent consistency models and distilled UNets
are the same networks with other numbers in their configs.
"""

from __future__ import annotations

from hubpub.architectures.component import Architecture, Config, Configs
from hubpub.architectures.components import STABLE_DIFFUSION
from hubpub.architectures.configs import default_latent
from hubpub.architectures.difference import difference
from hubpub.architectures.values import whole


def is_second_generation(configs: Configs) -> bool:
    """Whether the configs have a mark of Stable Diffusion 2.x; both generations share a model_index.json.

    The marks: a text encoder with exact GELU or 1024 channels (OpenCLIP ViT-H), a UNet with linear
    projections, or with heads of one size (so a list of different numbers of heads).
    """
    unet, text = configs["unet"], configs["text_encoder"]
    return (
        text.get("hidden_act") == "gelu"
        or text.get("hidden_size") == 1024
        or unet.get("cross_attention_dim") == 1024
        or unet.get("use_linear_projection") is True
        or isinstance(whole(unet.get("attention_head_dim")), list | tuple)
    )


def stable_diffusion(model_index: Config, configs: Configs) -> str | None:
    """What distinguishes a source from Stable Diffusion 1.x and 2.x."""
    return difference(model_index, configs, folders=("unet", "text_encoder", "vae"))


def _difference(model_index: Config, configs: Configs) -> str | None:
    other = stable_diffusion(model_index, configs)
    return other or ("Stable Diffusion 2.x" if is_second_generation(configs) else None)


SD1 = Architecture(
    name="sd1",
    title="Stable Diffusion 1.x",
    components=STABLE_DIFFUSION,
    pipelines=frozenset(
        {
            "LatentConsistencyModelImg2ImgPipeline",
            "LatentConsistencyModelPipeline",
            "StableDiffusionImg2ImgPipeline",
            "StableDiffusionInpaintPipeline",
            "StableDiffusionInstructPix2PixPipeline",
            "StableDiffusionPipeline",
        }
    ),
    difference=_difference,
    latent=default_latent,
    whole_bits=6,
)
