"""Draws pictures with the packages of a release: text encoder, scheduler, UNet with guidance, VAE decoder.

The packages run on hubpub's runtime, without Core ML. The tokenizer comes from transformers and the
scheduler from diffusers, both configured by the source's files.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hubpub.errors import BadInput, ConfigError, ToolMissing

if TYPE_CHECKING:
    from hubpub.runtime import Model

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

# Scheduler classes of diffusers end in this; other names are refused.
_SCHEDULER = "Scheduler"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw. `guidance` 1 switches guidance off; `seed` seeds torch's CPU generator, as in diffusers."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 20
    guidance: float = 7.5


@dataclass(frozen=True, kw_only=True)
class Painter:
    """The loaded components of one model."""

    text_encoder: Model
    unet: Model
    vae_decoder: Model
    tokenizer: Any
    scheduler_config: Mapping[str, Any]
    scheduler_class: str
    scaling_factor: float

    def encode(self, text: str) -> Floats:
        """Token embeddings of a text, (1, C, 1, 77), for the UNet."""
        length = self.text_encoder.inputs[0].shape[1]
        ids = self.tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
        hidden = self.text_encoder.predict({"input_ids": np.asarray([ids], np.float32)})["last_hidden_state"]
        return np.ascontiguousarray(hidden.transpose(0, 2, 1)[:, :, None, :]).astype(np.float32)

    def denoise(self, sample: Floats, timestep: float, embeddings: Floats) -> Floats:
        """The UNet's output for `sample` (N, 4, H, W), computed in batches of the package's batch size."""
        batch = self.unet.inputs[0].shape[0]
        rows = []
        for start in range(0, len(sample), batch):
            part = sample[start : start + batch]
            # np.resize repeats rows to fill the last batch; their outputs are dropped
            latents = np.resize(part, (batch, *part.shape[1:])).astype(np.float16)
            context = np.resize(embeddings[start : start + batch], (batch, *embeddings.shape[1:])).astype(np.float16)
            inputs = {
                "sample": latents,
                "timestep": np.full((batch,), timestep, np.float16),
                "encoder_hidden_states": context,
            }
            rows.append(self.unet.predict(inputs)["noise_pred"][: len(part)])
        return np.concatenate(rows).astype(np.float32)

    def decode(self, latent: Floats) -> Pixels:
        """A latent (1, 4, H, W) as a picture (8H, 8W, 3)."""
        scaled = (latent / self.scaling_factor).astype(np.float16)
        image = self.vae_decoder.predict({"z": scaled})["image"][0]
        return np.asarray((image.transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)

    def scheduler(self, steps: int) -> Any:
        """A new scheduler with the source's configuration, set to `steps` steps."""
        scheduler = scheduler_class(self.scheduler_class).from_config(dict(self.scheduler_config))
        scheduler.set_timesteps(steps)
        return scheduler


def draw(painter: Painter, request: Request) -> Pixels:
    """One picture (H, W, 3), uint8. The same request gives the same picture."""
    import torch

    shape = painter.unet.inputs[0].shape[1:]
    generator = torch.Generator("cpu").manual_seed(request.seed)
    scheduler = painter.scheduler(request.steps)
    latent = torch.randn((1, *shape), generator=generator) * scheduler.init_noise_sigma
    guided = request.guidance != 1
    texts = [request.negative, request.prompt] if guided else [request.prompt]
    embeddings = np.concatenate([painter.encode(text) for text in texts])
    for timestep in scheduler.timesteps:
        sample = scheduler.scale_model_input(latent, timestep).numpy()
        predicted = painter.denoise(np.repeat(sample, len(texts), axis=0), float(timestep), embeddings)
        noise = predicted[0] + request.guidance * (predicted[1] - predicted[0]) if guided else predicted[0]
        latent = scheduler.step(torch.from_numpy(noise[None]), timestep, latent).prev_sample
    return painter.decode(latent.numpy())


def load(packages: Path, tokenizer: Path, facts: Mapping[str, Any], *, device: str = "cpu") -> Painter:
    """Load the packages of a folder (`…_text_encoder`, `…_unet`, `…_vae_decoder`).

    `tokenizer` is a folder with vocab.json and merges.txt; `facts` are the manifest's
    `scheduler_config`, `scheduler` and `scaling_factor`. Raises BadInput if a package is missing.
    """
    from hubpub import runtime

    parts = {
        name: runtime.load(find(packages, name), device=device) for name in ("text_encoder", "unet", "vae_decoder")
    }
    return Painter(
        **parts,
        tokenizer=read_tokenizer(tokenizer, length=parts["text_encoder"].inputs[0].shape[1]),
        scheduler_config=facts["scheduler_config"],
        scheduler_class=facts["scheduler"],
        scaling_factor=float(facts["scaling_factor"]),
    )


def find(packages: Path, part: str) -> Path:
    """The package of component `part` in a folder: the one named `*_{part}.mlpackage`."""
    matches = sorted(packages.glob(f"*_{part}.mlpackage"))
    if len(matches) != 1:
        count = "no" if not matches else "more than one"
        raise BadInput(f"{packages} holds {count} *_{part}.mlpackage.", hint="Name a folder of one variant's packages.")
    return matches[0]


def read_tokenizer(folder: Path, *, length: int) -> Any:
    """CLIP's tokenizer from vocab.json and merges.txt; a release holds no other tokenizer files."""
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise _missing("transformers") from error
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    end = max(vocab, key=lambda token: vocab[token])
    start = "<|startoftext|>" if "<|startoftext|>" in vocab else end
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
        model_max_length=length,
    )


def scheduler_class(name: str) -> Any:
    """The scheduler class of diffusers by its name (`PNDM`, `DDIM`, …). Raises ConfigError for an unknown name."""
    try:
        diffusers = importlib.import_module("diffusers")
    except ImportError as error:
        raise _missing("diffusers") from error
    scheduler = getattr(diffusers, f"{name.removesuffix(_SCHEDULER)}{_SCHEDULER}", None)
    if not name.isidentifier() or scheduler is None or not hasattr(scheduler, "set_timesteps"):
        raise ConfigError(f"diffusers has no scheduler {name!r}.", hint="Choose one with --scheduler, such as DDIM.")
    return scheduler


def sheet(pictures: Mapping[str, Pixels]) -> Any:
    """Pictures side by side under their labels, as one PIL image."""
    from PIL import Image, ImageDraw

    height, width = next(iter(pictures.values())).shape[:2]
    margin, line = 12, 18 * (1 + max(label.count("\n") for label in pictures))
    size = ((width + margin) * len(pictures) + margin, height + line + 2 * margin)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for number, (label, pixels) in enumerate(pictures.items()):
        left = margin + number * (width + margin)
        pen.multiline_text((left, margin // 2), label, fill="black", font_size=13)
        canvas.paste(Image.fromarray(pixels), (left, line + margin))
    return canvas


def picture_psnr(reference: Pixels, measured: Pixels) -> float:
    """PSNR of 8-bit pictures in dB: 20·log10(255 / RMS difference); 200 for equal ones."""
    error = float(np.sqrt(np.mean((reference.astype(np.float64) - measured.astype(np.float64)) ** 2)))
    return 20 * float(np.log10(255 / error)) if error else 200.0


def draw_with_diffusers(folder: Path, request: Request) -> Pixels:
    """The picture of the source, drawn by diffusers' pipeline in fp32 on the CPU."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False, local_files_only=True
    ).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    answer = pipeline(
        request.prompt,
        negative_prompt=request.negative,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="np",
    )
    return np.asarray(answer.images[0] * 255).round().astype(np.uint8)


def _missing(package: str) -> ToolMissing:
    return ToolMissing(f"Drawing needs {package}.", hint="Install it with `pip install 'hubpub[numeric]'`.")
