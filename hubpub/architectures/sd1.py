"""Stable Diffusion 1.x: CLIP ViT-L/14 text encoder (quick GELU), 8 heads everywhere, a safety checker."""

from __future__ import annotations

from hubpub import networks
from hubpub.architectures import configs as parsed
from hubpub.architectures.component import Architecture, Component, Config, Configs, Memory, Origin
from hubpub.architectures.difference import difference

_MB = 1 << 20
_REFERENCES = "hubpub.runtime.references"
# What diffusers and transformers skip when they load such a folder: buffers of older versions, EMA copies.
_SKIPPED = (r"(.*\.)?position_ids", r"(model_)?ema\..*", r".*\.ema_.*")

TEXT_ENCODER = Component(
    name="text_encoder",
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
    # a whole CLIP beside its text half, and more layers than the config says
    ignored=(
        *_SKIPPED,
        r"text_projection(\..*)?",
        r"logit_scale",
        r"vision_model\..*",
        r"visual_projection\..*",
        r"encoder\.layers\.\d+\..*",
    ),
    memory=Memory(reference=6.0, measure=2.5, full=200 * _MB),  # transformers widens all weights at once
)
UNET = Component(
    name="unet",
    resource="Unet",
    origin=Origin(folder="unet"),
    knobs=frozenset({"attention", "latent", "batch", "target"}),
    palettizes=True,
    config=parsed.unet,
    config_type=networks.UNetConfig,
    network=networks.unet,
    reference=f"{_REFERENCES}:unet",
    checked=("noise_pred",),
    ignored=_SKIPPED,
)
VAE_DECODER = Component(
    name="vae_decoder",
    resource="VAEDecoder",
    origin=Origin(folder="vae"),
    knobs=frozenset({"latent", "target"}),
    palettizes=False,
    config=parsed.vae_decoder,
    config_type=networks.VAEConfig,
    network=networks.vae_decoder,
    reference=f"{_REFERENCES}:vae_decoder",
    checked=("image",),
    ignored=(*_SKIPPED, r"encoder\..*", r"quant_conv\..*"),
    share=0.6,
    memory=Memory(activations=800 * _MB, full=2500 * _MB),
)
VAE_ENCODER = Component(
    name="vae_encoder",
    resource="VAEEncoder",
    origin=Origin(folder="vae"),
    knobs=frozenset({"latent", "target"}),
    palettizes=False,
    config=parsed.vae_encoder,
    config_type=networks.VAEConfig,
    network=networks.vae_encoder,
    reference=f"{_REFERENCES}:vae_encoder",
    checked=("latent",),
    ignored=(*_SKIPPED, r"decoder\..*", r"post_quant_conv\..*"),
    share=0.45,
    memory=Memory(activations=800 * _MB, full=2500 * _MB),
)
SAFETY_CHECKER = Component(
    name="safety_checker",
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
    memory=Memory(reference=7.0, full=200 * _MB),
)

COMPONENTS = (TEXT_ENCODER, UNET, VAE_DECODER, VAE_ENCODER, SAFETY_CHECKER)


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


def _recognises(model_index: Config, configs: Configs) -> bool:
    return difference(model_index, configs) is None and not is_second_generation(configs)


SD1 = Architecture(name="sd1", title="Stable Diffusion 1.x", components=COMPONENTS, recognises=_recognises)
