"""Draws pictures with the packages of a release: text encoders, scheduler, UNet with guidance, refiner, VAE decoder.

The packages run on hubpub's runtime, without Core ML. The tokenizer comes from transformers and the
scheduler from diffusers, both configured by the source's files.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hubpub.errors import BadInput, ConfigError, ToolMissing
from hubpub.runtime.tokenizers import Tokenizer, read_tokenizers

if TYPE_CHECKING:
    from hubpub.runtime import Model

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

# Scheduler classes of diffusers end in this; other names are refused.
_SCHEDULER = "Scheduler"
# What most models are drawn with.
USUAL_STEPS, USUAL_GUIDANCE = 20, 7.5


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to draw. `guidance` 1 and less switch guidance off; `seed` seeds torch's CPU generator, as in diffusers.

    Steps and guidance that are None are those of the model (`with_usual`).
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None

    def with_usual(self, drawing: Mapping[str, Any]) -> Request:
        """The same with the steps and the guidance that a model is drawn with, where none were asked for."""
        steps = drawing.get("steps", USUAL_STEPS) if self.steps is None else self.steps
        guidance = drawing.get("guidance", USUAL_GUIDANCE) if self.guidance is None else self.guidance
        return replace(self, steps=steps, guidance=guidance)


# The components that draw, by the end of their packages' names; a UNet may lie in chunks.
PARTS = (
    "text_encoder",
    "text_encoder_2",
    "unet",
    "unet_chunk1",
    "unet_chunk2",
    "refiner",
    "refiner_chunk1",
    "refiner_chunk2",
    "vae_decoder",
    "vae_encoder",
)
# The part of the steps after which a refiner takes over (its model card, and Apple's pipeline).
REFINED_FROM = 0.8
# Aesthetic scores that a refiner is told, for what is not wanted and for what is (diffusers' defaults).
_SCORES = (2.5, 6.0)
_INPAINTING, _PIX2PIX = 9, 8


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text as a UNet takes it: hidden states (1, C, 1, 77), and XL's pooled text (1, P)."""

    states: Floats
    pooled: Floats | None


@dataclass(frozen=True, kw_only=True)
class Painter:
    """The loaded components of one model, by name (PARTS)."""

    models: Mapping[str, Model]
    tokenizers: Mapping[str, Tokenizer]  # by text encoder
    scheduler_config: Mapping[str, Any]
    scheduler_class: str
    scaling_factor: float
    guides: bool = True  # whether guidance is computed from two texts; False where it is built into the UNet

    @property
    def latent(self) -> tuple[int, int]:
        """(height, width) of the latent."""
        height, width = _shape(self._of("unet")[0], "sample")[2:]
        return height, width

    def encode(self, text: str, *, refiner: bool = False) -> Text:
        """The text for the UNet, or for the refiner, which was trained with the second encoder alone."""
        encoders = ["text_encoder_2"] if refiner else ["text_encoder", "text_encoder_2"]
        answers = [self._encode(name, text) for name in encoders if name in self.models]
        states = np.concatenate([_hidden(answer) for answer in answers], axis=-1)
        pooled = answers[-1]["pooled_outputs"] if "text_encoder_2" in self.models else None
        return Text(states=np.ascontiguousarray(states.transpose(0, 2, 1)[:, :, None, :], np.float32), pooled=pooled)

    def _encode(self, name: str, text: str) -> Mapping[str, Any]:
        model = self.models[name]
        ids = self.tokenizers[name](text, length=model.inputs["input_ids"].shape[1])
        answer: Mapping[str, Any] = model.predict({"input_ids": np.asarray([ids], np.float32)})
        return answer

    def denoise(self, sample: Floats, timestep: float, texts: Sequence[Text], *, unet: str = "unet") -> Floats:
        """The UNet's output for one `sample` (1, C, H, W) and each text, in batches of the package's batch size."""
        models = self._of(unet)
        batch = _shape(models[0], "sample")[0]
        rows = []
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            # the last batch is filled with its first text; what comes of that is dropped
            filled = [part[number % len(part)] for number in range(batch)]
            first = [0 if len(texts) == 1 else (start + number % len(part)) for number in range(batch)]
            values: dict[str, Any] = {
                "sample": np.repeat(sample, batch, axis=0),
                "timestep": np.full((batch,), timestep),
                "encoder_hidden_states": np.concatenate([text.states for text in filled]),
            }
            if filled[0].pooled is not None:
                values["text_embeds"] = np.concatenate([text.pooled for text in filled])
                values["time_ids"] = np.array([self._time_ids(models, row, len(texts)) for row in first])
            rows.append(_chain(models, values)["noise_pred"][: len(part)])
        return np.concatenate(rows).astype(np.float32)

    def _time_ids(self, models: Sequence[Model], row: int, rows: int) -> list[float]:
        """What XL is told of the picture: its size, no crop, and the same size again, or a refiner's score."""
        side = self._scale()
        height, width = (length * side for length in self.latent)
        [count] = {given.shape[1] for model in models for given in model.inputs.values() if given.name == "time_ids"}
        score = _SCORES[min(row, 1) if rows > 1 else 1]
        return [height, width, 0, 0, score] if count == 5 else [height, width, 0, 0, height, width]

    def _scale(self) -> int:
        """Pixels for each latent pixel."""
        decoder = self.models["vae_decoder"]
        return int(decoder.outputs["image"].shape[2] // decoder.inputs["z"].shape[2])

    def decode(self, latent: Floats) -> Pixels:
        """A latent (1, 4, H, W) as a picture (8H, 8W, 3)."""
        model = self.models["vae_decoder"]
        image = _chain([model], {"z": latent / self.scaling_factor})["image"][0]
        return np.asarray((image.transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)

    def scheduler(self, steps: int) -> Any:
        """A new scheduler with the source's configuration, set to `steps` steps."""
        scheduler = scheduler_class(self.scheduler_class).from_config(dict(self.scheduler_config))
        scheduler.set_timesteps(steps)
        return scheduler

    def besides(self, generator: Any) -> Floats | None:
        """What an inpainting UNet takes beside the latent, where all of the picture is to be painted; None for others.

        A mask of ones and the latent of a picture that is grey all over, as diffusers' pipeline makes them.
        """
        channels = _shape(self._of("unet")[0], "sample")[1]
        if channels == _PIX2PIX:
            raise BadInput("This UNet edits pictures (InstructPix2Pix); hubpub draws from text alone.")
        if channels != _INPAINTING:
            return None
        import torch

        model = self.models.get("vae_encoder")
        if model is None:
            raise BadInput("An inpainting UNet draws with the VAE encoder, and its package is missing.")
        grey = np.zeros(model.inputs["x"].shape, np.float32)
        mean, variance = np.split(_chain([model], {"x": grey})["latent"].astype(np.float32), 2, axis=1)
        noise = torch.randn(mean.shape, generator=generator).numpy()
        hidden = (mean + np.exp(0.5 * variance) * noise) * self.scaling_factor
        return np.concatenate([np.ones_like(hidden[:, :1]), hidden], axis=1)

    def refines(self) -> bool:
        """Whether a refiner takes over near the end."""
        return bool({"refiner", "refiner_chunk1"} & set(self.models))

    def _of(self, unet: str) -> list[Model]:
        names = [unet] if unet in self.models else [f"{unet}_chunk1", f"{unet}_chunk2"]
        return [self.models[name] for name in names]

    def close(self) -> None:
        """Give back what the models hold."""
        for model in self.models.values():
            model.close()


def _shape(model: Model, name: str) -> tuple[int, ...]:
    """The shape of the input of that name."""
    return model.inputs[name].shape


def _hidden(answer: Mapping[str, Any]) -> Any:
    return answer["hidden_embeds"] if "hidden_embeds" in answer else answer["last_hidden_state"]


def _chain(models: Sequence[Model], values: Mapping[str, Any]) -> dict[str, Any]:
    """Run models one after the other; each takes the inputs that it names, of `values` and of what came before."""
    known = dict(values)
    for model in models:
        known |= model.predict({name: known[name].astype(given.dtype) for name, given in model.inputs.items()})
    return known


def draw(painter: Painter, request: Request) -> Pixels:
    """One picture (H, W, 3), uint8. The same request gives the same picture."""
    import torch

    request = request.with_usual({})
    steps, guidance = request.steps, request.guidance
    assert steps is not None
    assert guidance is not None
    generator = torch.Generator("cpu").manual_seed(request.seed)
    scheduler = painter.scheduler(steps)
    channels = painter.models["vae_decoder"].inputs["z"].shape[1]
    latent = torch.randn((1, channels, *painter.latent), generator=generator) * scheduler.init_noise_sigma
    besides = painter.besides(generator)
    guided = painter.guides and guidance > 1
    prompts = [request.negative, request.prompt] if guided else [request.prompt]
    texts, unet = [painter.encode(text) for text in prompts], "unet"
    last = _refined_below(painter, scheduler)
    for number, timestep in enumerate(scheduler.timesteps):
        if unet == "unet" and timestep < last:
            unet, texts = "refiner", [painter.encode(text, refiner=True) for text in prompts]
            scheduler = painter.scheduler(steps)
            if hasattr(scheduler, "set_begin_index"):  # those that walk by timesteps have none
                scheduler.set_begin_index(number)
        sample = scheduler.scale_model_input(latent, timestep).numpy()
        if besides is not None:
            sample = np.concatenate([sample, besides], axis=1)
        predicted = painter.denoise(sample, float(timestep), texts, unet=unet)
        noise = predicted[0] + guidance * (predicted[1] - predicted[0]) if guided else predicted[0]
        more = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}
        latent = scheduler.step(torch.from_numpy(noise[None]), timestep, latent, **more).prev_sample
    return painter.decode(latent.numpy())


def _refined_below(painter: Painter, scheduler: Any) -> float:
    """The timestep below which the refiner works, as diffusers rounds it; none where there is no refiner."""
    if not painter.refines():
        return -math.inf
    count = scheduler.config.num_train_timesteps
    return float(round(count - REFINED_FROM * count))


def load(packages: Path, tokenizer: Path, facts: Mapping[str, Any], *, device: str = "cpu") -> Painter:
    """Load the packages of a folder that draw (PARTS).

    `tokenizer` is a folder with vocab.json and merges.txt; `facts` are the manifest's
    `scheduler_config`, `scheduler`, `scaling_factor` and `guidance_embedding`. Raises BadInput if a
    package is missing.
    """
    from hubpub import runtime

    paths = {name: path for name in PARTS if (path := find(packages, name)) is not None}
    check_parts(paths, packages)
    return Painter(
        models={name: runtime.load(path, device=device) for name, path in paths.items()},
        tokenizers=read_tokenizers(tokenizer),
        scheduler_config=facts["scheduler_config"],
        scheduler_class=facts["scheduler"],
        scaling_factor=float(facts["scaling_factor"]),
        guides=facts.get("guidance_embedding") is None,
    )


def check_parts(names: Collection[str], where: object) -> None:
    """Raise BadInput where these components cannot draw."""
    lacking = [name for name in ("vae_decoder",) if name not in names]
    if not {"text_encoder", "text_encoder_2"} & set(names):
        lacking.insert(0, "text_encoder")
    if "unet" not in names and not {"unet_chunk1", "unet_chunk2"} <= set(names):
        lacking.insert(0, "unet")
    if lacking:
        raise BadInput(f"{where} holds no *_{lacking[0]}.mlpackage.", hint="Name a folder of one variant's packages.")


def find(packages: Path, part: str) -> Path | None:
    """The package of component `part` in a folder: the one named `*_{part}.mlpackage`; None where there is none."""
    matches = sorted(packages.glob(f"*_{part}.mlpackage"))
    if len(matches) > 1:
        raise BadInput(
            f"{packages} holds more than one *_{part}.mlpackage.", hint="Name a folder of one variant's packages."
        )
    return matches[0] if matches else None


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


def _missing(package: str) -> ToolMissing:
    return ToolMissing(f"Drawing needs {package}.", hint="Install it with `pip install 'hubpub[numeric]'`.")
