"""Draws the same pictures with the source itself: diffusers' pipeline of its family, in fp32 on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hubpub.runtime.pictures import REFINED_FROM, Pixels, Request

_INPAINTING = 9


def draw_with_diffusers(
    folder: Path, request: Request, *, refiner: Path | None = None, size: tuple[int, int] | None = None
) -> Pixels:
    """The picture of the source, as `pictures.draw` draws it: from text alone, refined where there is a refiner.

    `size` is (height, width) in pixels, if not the model's own.
    """
    import torch

    pipeline = _pipeline(folder)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    given: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "generator": generator,
    }
    own = pipeline.unet.config.sample_size
    sides = own if isinstance(own, list | tuple) else (own, own)
    height, width = size or (side * pipeline.vae_scale_factor for side in sides)
    given |= {"height": height, "width": width}
    if pipeline.unet.config.in_channels == _INPAINTING:
        from PIL import Image

        given |= {"image": Image.new("RGB", (width, height), (127, 127, 127)), "strength": 1.0}
        given["mask_image"] = Image.new("L", (width, height), 255)
    if refiner is None:
        return _pixels(pipeline(**given, output_type="np"))
    latent = pipeline(**given, denoising_end=REFINED_FROM, output_type="latent").images
    second = _pipeline(refiner, kind="StableDiffusionXLImg2ImgPipeline")
    second.scheduler = pipeline.scheduler
    del given["height"], given["width"]  # the latent says it
    return _pixels(second(**given, image=latent, denoising_start=REFINED_FROM, output_type="np"))


def _pipeline(folder: Path, kind: str | None = None) -> Any:
    import diffusers
    import torch
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    index = diffusers.DiffusionPipeline.load_config(folder, local_files_only=True)
    named = str(index["_class_name"])
    more: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if xl := "XL" in named:
        more = {"add_watermarker": False}
    kind = kind or f"StableDiffusion{'XL' if xl else ''}{'Inpaint' if 'Inpaint' in named else ''}Pipeline"
    pipeline = getattr(diffusers, kind).from_pretrained(folder, local_files_only=True, **more).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pixels(answer: Any) -> Pixels:
    return np.asarray(answer.images[0] * 255).round().astype(np.uint8)
