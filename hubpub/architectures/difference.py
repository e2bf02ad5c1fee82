"""What a source is that is not Stable Diffusion 1 or 2: both families recognise by it, and errors name it."""

from __future__ import annotations

from hubpub.architectures.component import Config, Configs

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


def difference(model_index: Config, configs: Configs) -> str | None:
    """What distinguishes a source from Stable Diffusion 1 and 2, in words; None if nothing does.

    >>> difference({"_class_name": "FluxPipeline"}, {})
    'Flux (FluxPipeline)'
    """
    pipeline = str(model_index.get("_class_name", ""))
    if pipeline not in _PIPELINES:
        return _title_of(pipeline)
    for folder in _REQUIRED_FOLDERS:
        if folder not in configs:
            return f"a {pipeline} without {folder}/config.json"
    unet = configs["unet"]
    if unet.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        return f"a pipeline with a {unet['_class_name']}"
    if (vae := configs["vae"].get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
        return f"a pipeline with a {vae}"
    channels = unet.get("in_channels", 4)
    if channels != 4:
        known = _UNSUPPORTED_INPUTS.get(channels) if isinstance(channels, int) else None
        return known or f"a UNet with {channels!r} input channels"
    if unet.get("time_cond_proj_dim") is not None:
        return "a latent consistency model (time_cond_proj_dim)"
    if unet.get("addition_embed_type") is not None:
        return "Stable Diffusion XL (addition_embed_type)"
    return None


def _title_of(pipeline: str) -> str:
    if not pipeline:
        return "not a diffusers repo (its model_index.json names no pipeline)"
    if "ControlNet" in pipeline:
        return f"ControlNet ({pipeline})"
    for beginning, title in _UNSUPPORTED_PIPELINES.items():
        if pipeline.startswith(beginning):
            return f"{title} ({pipeline})"
    return f"a {pipeline}"
