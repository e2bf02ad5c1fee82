"""What a source has that the networks of Stable Diffusion have not: families recognise by it, and errors name it."""

from __future__ import annotations

from collections.abc import Collection

from hubpub.architectures.component import Config, Configs

_CHANNELS = (4, 8, 9)  # text to image, InstructPix2Pix, inpainting
_UNSUPPORTED_INPUTS = {
    7: "the Stable Diffusion upscaler (7 input channels)",
    5: "Stable Diffusion depth-to-image (5 input channels)",
}
_TRANSFORMER = "its network is a transformer, and hubpub writes UNets"
# Beginning of a pipeline's class name → what people call it, and what hubpub lacks; the first match counts.
_UNSUPPORTED_PIPELINES = {
    "StableDiffusionXLControlNet": ("a pipeline with a ControlNet in it", "name the base model, and --controlnet"),
    "StableDiffusionXLInstructPix2Pix": ("InstructPix2Pix XL", "its own text guidance"),
    "StableDiffusionXL": ("Stable Diffusion XL of another kind", "its pipeline"),
    "StableDiffusion3": ("Stable Diffusion 3", f"{_TRANSFORMER} (MMDiT), beside a third text encoder (T5)"),
    "StableDiffusionControlNet": ("a pipeline with a ControlNet in it", "name the base model, and --controlnet"),
    "StableDiffusionDepth2Img": ("Stable Diffusion depth-to-image", "a network that sees depth"),
    "StableDiffusionUpscale": ("the Stable Diffusion upscaler", "a UNet with class embeddings"),
    "StableDiffusionLatentUpscale": ("the Stable Diffusion latent upscaler", "a UNet of another kind"),
    "StableDiffusionImageVariation": ("Stable Diffusion image variations", "an image encoder"),
    "StableUnCLIP": ("Stable unCLIP", "an image encoder, and a UNet with class embeddings"),
    "StableCascade": ("Stable Cascade", "its three networks"),
    "StableVideoDiffusion": ("Stable Video Diffusion", "networks over time"),
    "AnimateDiff": ("AnimateDiff", "networks over time"),
    "Flux": ("Flux", _TRANSFORMER),
    "PixArt": ("PixArt", _TRANSFORMER),
    "Sana": ("Sana", _TRANSFORMER),
    "AuraFlow": ("AuraFlow", _TRANSFORMER),
    "Kolors": ("Kolors", "its text encoder (ChatGLM)"),
    "HunyuanDiT": ("Hunyuan-DiT", _TRANSFORMER),
    "Kandinsky": ("Kandinsky", "its prior and its UNet"),
    "AltDiffusion": ("AltDiffusion", "its text encoder (XLM-RoBERTa)"),
    "Wuerstchen": ("Würstchen", "its three networks"),
}
# Keys of a UNet's config → what they stand for, where they are set.
_UNSUPPORTED_KEYS = {
    "encoder_hid_dim_type": "image embeddings or an IP-Adapter",
    "class_embed_type": "class embeddings",
    "num_class_embeds": "class embeddings",
}


def difference(
    model_index: Config, configs: Configs, *, folders: Collection[str], added: str | None = None
) -> str | None:
    """What distinguishes a source from a UNet with CLIP and a VAE, in words; None if nothing does.

    `folders` are those that it must have; `added` is the UNet's addition_embed_type.

    >>> difference({"_class_name": "StableDiffusionPipeline"}, {}, folders=("unet",))
    'a StableDiffusionPipeline without unet/config.json'
    """
    pipeline = model_index["_class_name"]
    for folder in folders:
        if folder not in configs:
            return f"a {pipeline} without {folder}/config.json"
    unet = configs["unet"]
    if unet.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        return f"a pipeline with a {unet['_class_name']}"
    if (vae := configs["vae"].get("_class_name", "AutoencoderKL")) != "AutoencoderKL":
        return f"a pipeline with a {vae}"
    for key, title in _UNSUPPORTED_KEYS.items():
        if unet.get(key) is not None:
            return f"a UNet with {title} ({key} {unet[key]!r})"
    channels = unet.get("in_channels", 4)
    if channels not in _CHANNELS:
        known = _UNSUPPORTED_INPUTS.get(channels) if isinstance(channels, int) else None
        return known or f"a UNet with {channels!r} input channels"
    if (embeds := unet.get("addition_embed_type")) != added:
        return f"a {pipeline} with a UNet of another family (addition_embed_type {embeds!r})"
    return None


def pipeline_title(pipeline: str) -> tuple[str, str]:
    """What people call the sources of a pipeline that no family knows, and what hubpub lacks for them.

    >>> pipeline_title("FluxPipeline")
    ('Flux (FluxPipeline)', 'its network is a transformer, and hubpub writes UNets')
    """
    if not pipeline:
        return "not a diffusers repo (its model_index.json names no pipeline)", ""
    for beginning, (title, lacking) in _UNSUPPORTED_PIPELINES.items():
        if pipeline.startswith(beginning):
            return f"{title} ({pipeline})", lacking
    return f"a {pipeline}", ""
