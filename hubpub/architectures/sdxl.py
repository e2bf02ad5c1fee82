"""Stable Diffusion XL: two text encoders side by side, and a UNet that is told the size of the picture.

SDXL-Turbo, Lightning, Pony, Illustrious and the distilled SSD-1B and Vega are fine-tunes of it. The refiner is
a part of a base release (`--refiner`), or a source of its own with the second text encoder alone.
"""

from __future__ import annotations

from dataclasses import replace

from hubpub.architectures import configs as parsed
from hubpub.architectures.component import REFINER, Architecture, Component, Config, Configs, Origin
from hubpub.architectures.components import (
    CONTROL,
    CONTROL_UNET,
    TEXT_ENCODER,
    UNET,
    VAE_DECODER,
    VAE_ENCODER,
    chunked,
)
from hubpub.architectures.difference import difference

XL_TEXT_ENCODER = replace(TEXT_ENCODER, config=parsed.xl_text_encoder, checked=("hidden_embeds", "pooled_outputs"))
XL_TEXT_ENCODER_2 = replace(
    XL_TEXT_ENCODER,
    name="text_encoder_2",
    title="second text encoder",
    resource="TextEncoder2",
    origin=Origin(folder="text_encoder_2"),
    config=parsed.xl_text_encoder_2,
    ignored=tuple(pattern for pattern in TEXT_ENCODER.ignored if not pattern.startswith("text_projection")),
)
XL_VAE_DECODER = replace(VAE_DECODER, config=parsed.xl_vae_decoder)
XL_VAE_ENCODER = replace(VAE_ENCODER, config=parsed.xl_vae_encoder)
# Seventy transformer blocks one after the other add up more noise than the sixteen of Stable Diffusion 1: at true
# size with random weights 25.0 dB are left at 6 bits (benchmarks/README.md).
_FLOORS = {16: 35.0, 8: 30.0, 6: 20.0, 4: 8.0}
XL_UNET = replace(UNET, floors=_FLOORS)
XL_CONTROL_UNET = replace(CONTROL_UNET, floors=_FLOORS)
REFINER_UNET = replace(
    XL_UNET,
    name="refiner",
    title="refiner",
    resource="UnetRefiner",
    origin=Origin(folder="unet", source=REFINER),
    beside=REFINER,
)


def _parts(*components: Component) -> tuple[Component, ...]:
    return (*components, XL_TEXT_ENCODER_2, XL_VAE_DECODER, XL_VAE_ENCODER)


def _difference(model_index: Config, configs: Configs) -> str | None:
    if model_index.get("requires_aesthetics_score") is True and "text_encoder" not in configs:
        return _difference_refiner(model_index, configs) or "a refiner"
    folders = ("unet", "text_encoder", "text_encoder_2", "vae")
    return difference(model_index, configs, folders=folders, added="text_time")


def _difference_refiner(model_index: Config, configs: Configs) -> str | None:
    """It has no first text encoder, and is told an aesthetic score."""
    if model_index.get("requires_aesthetics_score") is not True or "text_encoder" in configs:
        return "no refiner (model_index.json has no requires_aesthetics_score, or lists a first text encoder)"
    return difference(model_index, configs, folders=("unet", "text_encoder_2", "vae"), added="text_time")


SDXL = Architecture(
    name="sdxl",
    title="Stable Diffusion XL",
    components=_parts(XL_TEXT_ENCODER, chunked(XL_UNET), chunked(REFINER_UNET), chunked(XL_CONTROL_UNET), CONTROL),
    pipelines=frozenset(
        {"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"}
    ),
    difference=_difference,
    latent=parsed.default_latent,
    devices="Stable Diffusion XL needs iOS 17 or macOS 14 in Apple's Swift package, and a Mac with 8 GB of memory or "
    "more; for iPad and iPhone convert it at 768×768 (--latent-height 96 --latent-width 96).",
    swift="StableDiffusionXLPipeline",
)
SDXL_REFINER = replace(
    SDXL,
    name="sdxl_refiner",
    title="Stable Diffusion XL refiner",
    components=_parts(chunked(XL_UNET)),
    difference=_difference_refiner,
    tokenizer="tokenizer_2",
    swift=None,  # it refines what a base model has begun
)
