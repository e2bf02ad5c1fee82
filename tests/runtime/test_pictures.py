"""Drawing pictures: batching, guidance and the scheduler, with small functions in place of the networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hubpub.errors import BadInput, ConfigError
from hubpub.runtime.pictures import Painter, Request, draw, find, picture_psnr, read_tokenizer, scheduler_class, sheet

CONFIG = {"beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "clip_sample": False}


@dataclass
class Network:
    """A function with the interface of a loaded model: the shape of its first input, and predict()."""

    shape: tuple[int, ...]
    function: Callable[[Mapping[str, Any]], dict[str, Any]]

    @property
    def inputs(self) -> tuple[Any, ...]:
        return (SimpleNamespace(shape=self.shape),)

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        assert next(iter(inputs.values())).shape == self.shape
        return self.function(inputs)


def painter(*, batch: int = 2) -> Painter:
    """Networks: the embedding is the text's length, and the UNet predicts the mean of the embedding."""

    def encode(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"last_hidden_state": np.full((1, 4, 3), inputs["input_ids"].sum(), np.float32)}

    def unet(inputs: Mapping[str, Any]) -> dict[str, Any]:
        mean = inputs["encoder_hidden_states"].mean(axis=(1, 2, 3), keepdims=True)
        return {"noise_pred": inputs["sample"] * 0 + mean.astype(np.float16)}

    def decode(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": np.sin(inputs["z"][:, :3].repeat(8, axis=2).repeat(8, axis=3))}

    return Painter(
        text_encoder=Network((1, 4), encode),  # type: ignore[arg-type]
        unet=Network((batch, 4, 2, 3), unet),  # type: ignore[arg-type]
        vae_decoder=Network((1, 4, 2, 3), decode),  # type: ignore[arg-type]
        tokenizer=lambda text, **_: SimpleNamespace(input_ids=[len(text), 0, 0, 0]),
        scheduler_config=CONFIG,
        scheduler_class="DDIM",
        scaling_factor=0.5,
    )


def test_encode_gives_the_layout_that_the_unet_takes() -> None:
    embeddings = painter().encode("abc")
    assert embeddings.shape == (1, 3, 1, 4)
    assert (embeddings == 3).all()


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_denoise_fills_batches_and_drops_the_filling(batch: int) -> None:
    embeddings = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1).repeat(4, axis=3)
    noise = painter(batch=batch).denoise(np.zeros((3, 4, 2, 3), np.float32), 7.0, embeddings)
    assert noise.shape == (3, 4, 2, 3)
    np.testing.assert_array_equal(noise[:, 0, 0, 0], [0, 1, 2])


def test_decode_scales_latents_and_maps_to_8_bits() -> None:
    pixels = painter().decode(np.zeros((1, 4, 2, 3), np.float32))
    assert pixels.shape == (16, 24, 3)
    assert pixels.dtype == np.uint8
    assert np.unique(pixels).tolist() == [128]


def test_the_same_request_draws_the_same_picture() -> None:
    pytest.importorskip("diffusers")
    request = Request(prompt="a", steps=3, seed=5)
    first = draw(painter(), request)
    np.testing.assert_array_equal(first, draw(painter(batch=1), request))
    assert (first != draw(painter(), Request(prompt="a", steps=3, seed=6))).any()


def test_guidance_1_ignores_the_negative_prompt() -> None:
    pytest.importorskip("diffusers")
    plain, other = (
        draw(painter(), Request(prompt="a", negative=text, steps=2, guidance=1)) for text in ("", "something")
    )
    np.testing.assert_array_equal(plain, other)
    guided = draw(painter(), Request(prompt="a", negative="something", steps=2, guidance=7.5))
    assert (guided != plain).any()


def test_scheduler_classes_are_named_with_and_without_their_suffix() -> None:
    diffusers = pytest.importorskip("diffusers")
    assert scheduler_class("PNDM") is scheduler_class("PNDMScheduler") is diffusers.PNDMScheduler
    for name in ("Nothing", "__class__", "UNet2DConditionModel", "a.b"):
        with pytest.raises(ConfigError, match="no scheduler"):
            scheduler_class(name)


def test_find_needs_exactly_one_package(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no"):
        find(tmp_path, "unet")
    (tmp_path / "a_unet.mlpackage").mkdir()
    assert find(tmp_path, "unet") == tmp_path / "a_unet.mlpackage"
    (tmp_path / "b_unet.mlpackage").mkdir()
    with pytest.raises(BadInput, match="more than one"):
        find(tmp_path, "unet")


def test_the_tokenizer_pads_with_the_last_token(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    vocabulary = {"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path, length=5)
    assert tokenizer("a a", padding="max_length", max_length=5, truncation=True).input_ids == [2, 1, 1, 3, 3]


def test_psnr_of_pictures() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert picture_psnr(black, black) == 200
    assert picture_psnr(black, white) == 0


def test_a_sheet_shows_pictures_side_by_side() -> None:
    pytest.importorskip("PIL")
    picture = np.zeros((10, 20, 3), np.uint8)
    canvas = sheet({"one": picture, "two\nlines": picture})
    assert canvas.size == (2 * (20 + 12) + 12, 10 + 18 * 2 + 2 * 12)
