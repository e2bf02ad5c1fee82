"""Realistic, reproducible inputs for Stable Diffusion components.

By the input's name:

    input_ids               a real prompt's CLIP tokens: begin, words, end, padded with end
    sample                  latents of unit variance, as from a variance-preserving scheduler at any timestep
    timestep                the rows of a batch spread over the scheduler's timesteps, so that one
                            run covers almost pure noise and almost no noise
    encoder_hidden_states   unit variance, as the text encoder's last layer norm leaves it
    text_embeds             unit variance
    time_ids                the picture's size, no crop, the same target size (refiner: aesthetic scores 2.5 and 6)
    z                       latents of unit variance divided by the VAE's scaling factor, as the decoder expects them
    x                       a picture in -1 … 1: soft shapes with a little grain
    controlnet_cond         a picture in 0 … 1, black and white lines
    additional_residual_*   small numbers around 0
    clip_input, images      a normalised picture for CLIP, and a picture in 0 … 1
    adjustment              0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.errors import BadInput
from hubpub.runtime.features import Feature

Array = npt.NDArray[Any]

SEED = 93
# "a photo of an astronaut riding a horse on mars" in CLIP's vocabulary, which all Stable Diffusion models use.
_WORDS = (320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496)
_VOCABULARY = 49408


def realistic(features: Iterable[Feature], *, params: Mapping[str, Any]) -> dict[str, Array]:
    """An array for every input, by name.

    params: `vocabulary` (size of the token embedding, default CLIP's), `timesteps` (of the
    scheduler, default 1000), `scaling_factor` (of the VAE, default 0.18215), `size` (height and
    width for time_ids, default 1024 × 1024). Raises BadInput for an unknown input name.
    """
    arrays = {}
    for number, item in enumerate(features):
        generator = np.random.default_rng([SEED, number])
        arrays[item.name] = _generator(item.name)(item, generator, params).astype(item.dtype)
    return arrays


def _generator(name: str) -> Callable[[Feature, np.random.Generator, Mapping[str, Any]], Array]:
    if name.startswith("additional_residual_"):
        return _small
    if name not in _GENERATORS:
        raise BadInput(f"{name} is not an input of a Stable Diffusion component: hubpub has no sample values for it.")
    return _GENERATORS[name]


def _tokens(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    size = int(params.get("vocabulary", _VOCABULARY))
    length = item.shape[-1]
    words: Iterable[int] = _WORDS
    if size < _VOCABULARY:  # a small vocabulary: the same number of words, spread over it
        words = (1 + (size - 3) * place // len(_WORDS) for place in range(len(_WORDS)))
    ids = [size - 2, *words][: length - 1]
    return np.broadcast_to(np.array([*ids, *[size - 1] * (length - len(ids))]), item.shape)


def _timesteps(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    count = int(params.get("timesteps", 1000))
    rows = item.shape[0]
    return np.array([count - 1 - (2 * row + 1) * count // (2 * rows) for row in range(rows)])


def _normal(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    return generator.standard_normal(item.shape)


def _latents(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    return generator.standard_normal(item.shape) / float(params.get("scaling_factor", 0.18215))


def _small(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    return 0.1 * generator.standard_normal(item.shape)


def _time_ids(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    height, width = params.get("size", (1024, 1024))
    if item.shape[-1] == 5:
        rows = [[height, width, 0, 0, score] for score in (2.5, 6.0)]
        return np.array([rows[row % 2] for row in range(item.shape[0])])
    return np.broadcast_to(np.array([height, width, 0, 0, height, width]), item.shape)


def _picture(shape: tuple[int, int], generator: np.random.Generator, channels: int) -> Array:
    """(channels, H, W) in 0 … 1: soft shapes with a little grain."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / max(shape)
    waves = generator.uniform(1, 9, (channels, 4, 2))
    phases = generator.uniform(0, 2 * np.pi, (channels, 4))
    soft = np.cos(2 * np.pi * (waves[..., 0, None, None] * y + waves[..., 1, None, None] * x) + phases[..., None, None])
    return np.clip(0.5 + soft.sum(1) / 8 + 0.03 * generator.standard_normal((channels, *shape)), 0, 1)


def _pixels(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    batch, channels, height, width = item.shape
    picture = 2 * _picture((height, width), generator, channels) - 1
    return np.broadcast_to(picture, (batch, channels, height, width))


def _lines(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    batch, channels, height, width = item.shape
    edges = np.abs(_picture((height, width), generator, 1) - 0.5) < 0.03
    return np.broadcast_to(edges.astype(np.float32), (batch, channels, height, width))


def _clip_pixels(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    return (_pixels(item, generator, params) + 1) / 2 / 0.27 - 1.7  # CLIP's mean and deviation, about


def _images(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    _, height, width, channels = item.shape
    return np.broadcast_to(np.moveaxis(_picture((height, width), generator, channels), 0, -1), item.shape)


def _zeros(item: Feature, generator: np.random.Generator, params: Mapping[str, Any]) -> Array:
    return np.zeros(item.shape)


_GENERATORS: Mapping[str, Callable[[Feature, np.random.Generator, Mapping[str, Any]], Array]] = {
    "input_ids": _tokens,
    "sample": _normal,
    "timestep": _timesteps,
    "encoder_hidden_states": _normal,
    "text_embeds": _normal,
    "time_ids": _time_ids,
    "z": _latents,
    "x": _pixels,
    "controlnet_cond": _lines,
    "clip_input": _clip_pixels,
    "images": _images,
    "adjustment": _zeros,
}
