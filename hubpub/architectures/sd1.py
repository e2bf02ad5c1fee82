"""Stable Diffusion 1.x: CLIP ViT-L/14 text encoder (quick GELU), 8 heads everywhere, a safety checker."""

from __future__ import annotations

from hubpub.architectures import configs as heard
from hubpub.architectures.base import Architecture, Component, Config, Configs

TEXT_ENCODER = Component(
    name="text_encoder",
    coreml_name="TextEncoder",
    folder="text_encoder",
    hears=frozenset({"target"}),
    palettizes=True,
    normalise=heard.text_encoder,
)
UNET = Component(
    name="unet",
    coreml_name="Unet",
    folder="unet",
    hears=frozenset({"attention", "latent", "batch", "target"}),
    palettizes=True,
    normalise=heard.unet,
)
VAE_DECODER = Component(
    name="vae_decoder",
    coreml_name="VAEDecoder",
    folder="vae",
    hears=frozenset({"latent", "target"}),
    palettizes=False,
    normalise=heard.vae_decoder,
)
VAE_ENCODER = Component(
    name="vae_encoder",
    coreml_name="VAEEncoder",
    folder="vae",
    hears=frozenset({"latent", "target"}),
    palettizes=False,
    normalise=heard.vae_encoder,
)
SAFETY_CHECKER = Component(
    name="safety_checker",
    coreml_name="SafetyChecker",
    folder="safety_checker",
    hears=frozenset({"latent", "target"}),
    palettizes=False,
    normalise=heard.safety_checker,
    optional=True,
    sized_by="image",
)

COMPONENTS = (TEXT_ENCODER, UNET, VAE_DECODER, VAE_ENCODER, SAFETY_CHECKER)


def _recognises(model_index: Config, configs: Configs) -> bool:
    return not is_second_generation(configs)


def is_second_generation(configs: Configs) -> bool:
    """Whether the configs have a mark of Stable Diffusion 2.x; both generations share a model_index.json.

    The marks: a text encoder with exact GELU or 1024 channels (OpenCLIP ViT-H), a UNet with linear
    projections, or with heads of one size (so a list of numbers of heads).
    """
    unet, text = configs["unet"], configs["text_encoder"]
    return (
        text.get("hidden_act") == "gelu"
        or text.get("hidden_size") == 1024
        or unet.get("cross_attention_dim") == 1024
        or unet.get("use_linear_projection") is True
        or isinstance(unet.get("attention_head_dim"), list | tuple)
    )


SD1 = Architecture(name="sd1", title="Stable Diffusion 1.x", components=COMPONENTS, recognises=_recognises)
