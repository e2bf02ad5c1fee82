"""What a model family is made of, as data: which components, what they depend on, how to tell a family.

Nothing here imports torch. A new family is one file beside sd1.py and one row in ARCHITECTURES.
"""

from __future__ import annotations

from typing import Any

from hubpub.architectures import configs as heard
from hubpub.architectures.base import Architecture, Component, Config, Configs
from hubpub.architectures.configs import default_latent
from hubpub.architectures.sd1 import SD1
from hubpub.architectures.sd2 import SD2
from hubpub.errors import ConfigError, UnknownArchitecture, UnknownVariant

__all__ = [
    "ARCHITECTURES",
    "ATTENTIONS",
    "TARGETS",
    "Architecture",
    "Component",
    "components_of",
    "default_latent",
    "detect",
    "export_params",
]

ARCHITECTURES: tuple[Architecture, ...] = (SD1, SD2)
ATTENTIONS = ("original", "split_einsum", "split_einsum_v2")
TARGETS = ("macOS13", "macOS14", "macOS15", "iOS16", "iOS17", "iOS18")

# iOS targets name the same opset, and so the same graph, as the macOS of their year.
_CANONICAL_TARGET = {"iOS16": "macOS13", "iOS17": "macOS14", "iOS18": "macOS15"}
_BATCHES = (1, 2)

_PIPELINES = frozenset({"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"})
_UNSUPPORTED_PIPELINES = {  # beginning of a pipeline's class name → what people call it; the first match counts
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableDiffusionControlNet": "ControlNet",
    "StableDiffusionInpaint": "Stable Diffusion inpainting",
    "StableDiffusionDepth2Img": "Stable Diffusion depth-to-image",
    "StableDiffusionUpscale": "the Stable Diffusion upscaler",
    "StableDiffusionLatentUpscale": "the Stable Diffusion upscaler",
    "StableDiffusionInstructPix2Pix": "InstructPix2Pix",
    "StableDiffusionImageVariation": "Stable Diffusion image variations",
    "StableUnCLIP": "Stable unCLIP",
    "StableCascade": "Stable Cascade",
    "StableVideoDiffusion": "Stable Video Diffusion",
    "LatentConsistencyModel": "a latent consistency model",
    "Flux": "Flux",
    "PixArt": "PixArt",
    "Kandinsky": "Kandinsky",
    "AltDiffusion": "AltDiffusion",
    "Wuerstchen": "Würstchen",
}
_UNSUPPORTED_INPUTS = {
    9: "Stable Diffusion inpainting (9 input channels)",
    8: "InstructPix2Pix (8 input channels)",
    7: "the Stable Diffusion upscaler (7 input channels)",
    5: "Stable Diffusion depth-to-image (5 input channels)",
}
_REQUIRED_FOLDERS = ("unet", "text_encoder", "vae")


def detect(model_index: Config, configs: Configs) -> Architecture:
    """The family of a repo with this model_index.json and these config.json files (by folder).

    Raises UnknownArchitecture, which says what the source is, where that is known, and what is supported.
    """
    pipeline = str(model_index.get("_class_name", ""))
    if pipeline not in _PIPELINES:
        raise _not_supported(_title_of(pipeline))
    for folder in _REQUIRED_FOLDERS:
        if folder not in configs:
            raise _not_supported(f"a {pipeline} without {folder}/config.json")
    unet = configs["unet"]
    if unet.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise _not_supported(f"a pipeline with a {unet['_class_name']}")
    if (vae := configs["vae"].get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
        raise _not_supported(f"a pipeline with a {vae}")
    channels = unet.get("in_channels", 4)
    if channels != 4:
        known = _UNSUPPORTED_INPUTS.get(channels) if isinstance(channels, int) else None
        raise _not_supported(known or f"a UNet with {channels!r} input channels")
    if unet.get("time_cond_proj_dim") is not None:
        raise _not_supported("a latent consistency model (time_cond_proj_dim)")
    if unet.get("addition_embed_type") is not None:
        raise _not_supported("Stable Diffusion XL (addition_embed_type)")
    for architecture in ARCHITECTURES:
        if architecture.matches(model_index, configs):
            return architecture
    raise _not_supported(f"a {pipeline} of no known family")


def components_of(architecture: Architecture, model_index: Config, *, safety_checker: bool) -> tuple[Component, ...]:
    """The components that a source of this family has; the safety checker only where it lists one and it is wanted."""
    return tuple(
        component
        for component in architecture.components
        if not component.optional
        or (_lists(model_index, component.folder) and (safety_checker or component.name != "safety_checker"))
    )


def export_params(
    component: Component,
    configs: Configs,
    *,
    attention: str,
    latent: tuple[int, int] | None,
    batch: int,
    target: str,
) -> dict[str, Any]:
    """Parameters of the step `export`: all and only what the component's graph depends on, as plain JSON.

    `latent` is (height, width) in latent pixels, None for what the UNet was trained on. Knobs that
    the component does not hear are left out, so variants that differ in them share its graph.

    Raises UnknownVariant for a value of a knob that does not exist, ConfigError for a latent size that
    the networks cannot process, UnknownArchitecture for a config that they do not implement.
    """
    _check_knobs(attention=attention, batch=batch, target=target)
    height, width = _latent_size(configs, latent)
    params: dict[str, Any] = {
        "component": component.name,
        "config": component.normalise(configs),
        "target": _CANONICAL_TARGET.get(target, target),
    }
    if "attention" in component.hears:
        params["attention"] = attention
    if "batch" in component.hears:
        params["batch"] = batch
    if "latent" in component.hears:
        scale = heard.image_scale(configs) if component.sized_by == "image" else 1
        params[component.sized_by] = [height * scale, width * scale]
    return params


def _check_knobs(*, attention: str, batch: int, target: str) -> None:
    if attention not in ATTENTIONS:
        raise UnknownVariant(f"There is no attention {attention!r}.", hint=f"Choose from {', '.join(ATTENTIONS)}.")
    if target not in TARGETS:
        raise UnknownVariant(f"There is no deployment target {target!r}.", hint=f"Choose from {', '.join(TARGETS)}.")
    if batch not in _BATCHES:
        raise UnknownVariant(f"A UNet cannot be converted for batch {batch!r}.", hint="Choose 2 (guidance) or 1.")


def _latent_size(configs: Configs, latent: tuple[int, int] | None) -> tuple[int, int]:
    size = latent or heard.default_latent(configs)
    if size is None:
        raise ConfigError("The UNet's config gives no sample_size.", hint="Give --latent-height and --latent-width.")
    # Each level of the UNet but the last halves the latent, and the way up needs the halves to fit.
    step = 2 ** (len(heard.unet(configs)["block_out_channels"]) - 1)
    if any(side <= 0 or side % step for side in size):
        scale = heard.image_scale(configs)
        raise ConfigError(
            f"A latent of {size[0]}×{size[1]} cannot be processed: both sides must be multiples of {step}.",
            hint=f"In pixels of the image, both sides must be multiples of {step * scale}.",
        )
    return size


def _lists(model_index: Config, folder: str) -> bool:
    """Whether model_index.json names a class for that folder ([null, null] means that there is none)."""
    entry = model_index.get(folder)
    return isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] is not None


def _title_of(pipeline: str) -> str:
    if not pipeline:
        return "not a diffusers repo (its model_index.json names no pipeline)"
    if "ControlNet" in pipeline:
        return f"ControlNet ({pipeline})"
    for beginning, title in _UNSUPPORTED_PIPELINES.items():
        if pipeline.startswith(beginning):
            return f"{title} ({pipeline})"
    return f"a {pipeline}"


def _not_supported(what: str) -> UnknownArchitecture:
    supported = ", ".join(architecture.title for architecture in ARCHITECTURES)
    return UnknownArchitecture(f"The source is {what}, which is not supported yet.", hint=f"Supported: {supported}.")
