"""The components that several families share."""

from __future__ import annotations

from dataclasses import replace

from hubpub import networks
from hubpub.architectures import configs as parsed
from hubpub.architectures import unet_configs
from hubpub.architectures.component import CONTROLNET, MODEL, Component, Memory, Origin

_MB = 1 << 20
_REFERENCES = "hubpub.runtime.references"
# What diffusers and transformers skip when they load such a folder: buffers of older versions, EMA copies.
_SKIPPED = (r"(.*\.)?position_ids", r"(model_)?ema\..*", r".*\.ema_.*")
# The other chunk's tensors.
_UNET_PARTS = r"(conv_in|time_embedding|add_embedding|down_blocks|mid_block|up_blocks|conv_norm_out|conv_out)\..*"
# A whole CLIP beside its text half, and more layers than the config says.
_CLIP_BESIDES = (r"logit_scale", r"vision_model\..*", r"visual_projection\..*", r"encoder\.layers\.\d+\..*")

TEXT_ENCODER = Component(
    name="text_encoder",
    title="text encoder",
    resource="TextEncoder",
    origin=Origin(folder="text_encoder"),
    knobs=frozenset({"target"}),
    palettizes=True,
    config=parsed.text_encoder,
    config_type=networks.TextEncoderConfig,
    network=networks.text_encoder,
    reference=f"{_REFERENCES}:text_encoder",
    checked=("last_hidden_state", "pooled_outputs"),
    samples=lambda config: {"vocabulary": config.vocab_size},
    ignored=(*_SKIPPED, *_CLIP_BESIDES, r"text_projection(\..*)?"),
    memory=Memory(reference=6.0, measure=2.5, full=200 * _MB),  # transformers widens all weights at once
)
UNET = Component(
    name="unet",
    title="UNet",
    resource="Unet",
    origin=Origin(folder="unet"),
    knobs=frozenset({"attention", "latent", "batch", "target"}),
    palettizes=True,
    config=unet_configs.unet,
    config_type=networks.UNetConfig,
    keys=unet_configs.UNET_KEYS,
    network=networks.unet,
    reference=f"{_REFERENCES}:unet",
    checked=("noise_pred",),
    ignored=_SKIPPED,
    chosen=("guidance_embedding",),
)
CONTROL_UNET = replace(
    UNET,
    name="control-unet",
    resource="ControlledUnet",
    network=networks.control_unet,
    beside=CONTROLNET,
    weights="unet",
)
CONTROL = Component(
    name="controlnet",
    title="ControlNet",
    resource="controlnet/{title}",
    package="ControlNet_{source}",
    origin=Origin(folder="", source=CONTROLNET),
    knobs=frozenset({"attention", "latent", "batch", "target"}),
    palettizes=True,
    config=unet_configs.controlnet,
    config_type=networks.ControlNetConfig,
    keys=unet_configs.CONTROLNET_KEYS,
    network=networks.controlnet,
    reference=f"{_REFERENCES}:controlnet",
    checked=("additional_residual_*",),
    ignored=_SKIPPED,
)
VAE_DECODER = Component(
    name="vae_decoder",
    title="VAE",
    resource="VAEDecoder",
    origin=Origin(folder="vae"),
    knobs=frozenset({"latent", "target"}),
    palettizes=False,
    config=parsed.vae_decoder,
    config_type=networks.VAEConfig,
    keys=parsed.VAE_KEYS,
    network=networks.vae_decoder,
    reference=f"{_REFERENCES}:vae_decoder",
    checked=("image",),
    ignored=(*_SKIPPED, r"encoder\..*", r"quant_conv\..*"),
    share=0.6,
    memory=Memory(activations=800 * _MB, full=2500 * _MB),
)
VAE_ENCODER = Component(
    name="vae_encoder",
    title="VAE",
    resource="VAEEncoder",
    origin=Origin(folder="vae"),
    knobs=frozenset({"latent", "target"}),
    palettizes=False,
    config=parsed.vae_encoder,
    config_type=networks.VAEConfig,
    keys=parsed.VAE_KEYS,
    network=networks.vae_encoder,
    reference=f"{_REFERENCES}:vae_encoder",
    checked=("latent",),
    ignored=(*_SKIPPED, r"decoder\..*", r"post_quant_conv\..*"),
    share=0.45,
    memory=Memory(activations=800 * _MB, full=2500 * _MB),
)
SAFETY_CHECKER = Component(
    name="safety_checker",
    title="safety checker",
    resource="SafetyChecker",
    origin=Origin(folder="safety_checker"),
    knobs=frozenset({"latent", "target"}),
    palettizes=False,
    config=parsed.safety_checker,
    config_type=networks.SafetyCheckerConfig,
    network=networks.safety_checker,
    reference=f"{_REFERENCES}:safety_checker",
    # its picture and its verdict jump where a score crosses zero
    checked=("concept_scores",),
    ignored=(*_SKIPPED, r"logit_scale"),
    optional=True,
    switch="safety_checker",
    memory=Memory(reference=7.0, full=200 * _MB),
)


def chunked(whole: Component) -> Component:
    """A UNet that can be cut in two."""
    control = whole.network is networks.control_unet
    halves = (
        (networks.control_unet_chunk1, networks.control_unet_chunk2)
        if control
        else (networks.unet_chunk1, networks.unet_chunk2)
    )
    chunks = tuple(
        replace(
            whole,
            name=f"{whole.name}_chunk{number}",
            resource=f"{whole.resource}Chunk{number}",
            network=network,
            weights=whole.weights and f"{whole.weights}_chunk{number}",
            ignored=(*whole.ignored, _UNET_PARTS),
            share=whole.share / 2,
        )
        for number, network in enumerate(halves, 1)
    )
    return replace(whole, chunks=chunks)


# What Stable Diffusion 1.x and 2.x are made of.
STABLE_DIFFUSION = (
    TEXT_ENCODER,
    chunked(UNET),
    chunked(CONTROL_UNET),
    CONTROL,
    VAE_DECODER,
    VAE_ENCODER,
    SAFETY_CHECKER,
)

# A source's own ControlNet.
ONLY_CONTROL = CONTROL.of(MODEL)
