"""Drawing pictures: batching, guidance and the scheduler, with small functions in place of the networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hubpub.errors import BadInput, ConfigError
from hubpub.runtime.pictures import (
    Painter,
    Request,
    Text,
    check_parts,
    draw,
    find,
    load,
    picture_psnr,
    scheduler_class,
    sheet,
)
from hubpub.runtime.tokenizers import read_tokenizer, read_tokenizers

CONFIG = {"beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "clip_sample": False}
HEIGHT, WIDTH = 2, 3
LATENT = (1, 4, HEIGHT, WIDTH)
PIXELS = (1, 3, 8 * HEIGHT, 8 * WIDTH)

Arrays = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class Network:
    """A function with the interface of a loaded model: its inputs and outputs, and predict(), which keeps the calls."""

    shapes: Shapes  # of the inputs
    function: Callable[[Arrays], dict[str, Any]]
    out: tuple[int, ...] = ()  # shape of the picture
    dtype: type[np.floating[Any]] = np.float32
    calls: list[Arrays] = field(default_factory=list)
    closed: bool = False

    @property
    def inputs(self) -> dict[str, Any]:
        return {name: SimpleNamespace(name=name, shape=shape, dtype=self.dtype) for name, shape in self.shapes.items()}

    @property
    def outputs(self) -> dict[str, Any]:
        return {"image": SimpleNamespace(shape=self.out)}

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        assert {name: array.shape for name, array in inputs.items()} == self.shapes
        assert {array.dtype for array in inputs.values()} == {np.dtype(self.dtype)}
        self.calls.append(inputs)
        return self.function(inputs)

    def close(self) -> None:
        self.closed = True


def padding(pad: int) -> Callable[..., list[int]]:
    """A tokenizer: the text's length, and then `pad`."""
    return lambda text, *, length: [len(text), *[pad] * (length - 1)]


def encode(inputs: Arrays) -> dict[str, Any]:
    return {"last_hidden_state": np.full((1, 4, 3), inputs["input_ids"].sum(), np.float32)}


def encode_1(inputs: Arrays) -> dict[str, Any]:
    """As the first encoder of XL: what its last layer takes, beside what it gives."""
    total = inputs["input_ids"].sum()
    return {
        "last_hidden_state": np.full((1, 4, 3), -1, np.float32),
        "hidden_embeds": np.full((1, 4, 3), total, np.float32) + np.arange(4, dtype=np.float32)[:, None] / 8,
        "pooled_outputs": np.full((1, 3), -1, np.float32),
    }


def encode_2(inputs: Arrays) -> dict[str, Any]:
    total = inputs["input_ids"].sum()
    return {
        "last_hidden_state": np.full((1, 4, 2), -1, np.float32),
        "hidden_embeds": np.full((1, 4, 2), total, np.float32),
        "pooled_outputs": np.full((1, 5), 10 * total, np.float32),
    }


def predict(inputs: Arrays) -> dict[str, Any]:
    """The mean of the embedding, as fp16."""
    mean = inputs["encoder_hidden_states"].mean(axis=(1, 2, 3), keepdims=True)
    return {"noise_pred": inputs["sample"][:, :4] * 0 + mean.astype(np.float16)}


def decode(inputs: Arrays) -> dict[str, Any]:
    return {"image": np.sin(inputs["z"][:, :3].repeat(8, axis=2).repeat(8, axis=3))}


def unet(batch: int, *, channels: int = 4, width: int = 3, ids: int = 0) -> Network:
    shapes: dict[str, tuple[int, ...]] = {
        "sample": (batch, channels, HEIGHT, WIDTH),
        "timestep": (batch,),
        "encoder_hidden_states": (batch, width, 1, 4),
    }
    if ids:
        shapes |= {"time_ids": (batch, ids), "text_embeds": (batch, 5)}
    return Network(shapes, predict)


def painter(*, batch: int = 2, scheduler: str = "DDIM", guides: bool = True, **more: Any) -> Painter:
    """Networks: the embedding is the text's length, and the UNet predicts the mean of the embedding."""
    models = {
        "text_encoder": Network({"input_ids": (1, 4)}, encode),
        "unet": unet(batch),
        "vae_decoder": Network({"z": LATENT}, decode, PIXELS),
        **more,
    }
    return Painter(
        models=models,
        tokenizers={"text_encoder": padding(0), "text_encoder_2": padding(1)},  # type: ignore[dict-item]
        scheduler_config=CONFIG | ({"skip_prk_steps": True} if scheduler == "PNDM" else {}),
        scheduler_class=scheduler,
        scaling_factor=0.5,
        guides=guides,
    )


def xl(*, batch: int = 2, scheduler: str = "EulerDiscrete", **more: Any) -> Painter:
    """As XL: two encoders, and a UNet that is told of the picture."""
    networks: dict[str, Any] = {
        "text_encoder": Network({"input_ids": (1, 4)}, encode_1),
        "text_encoder_2": Network({"input_ids": (1, 4)}, encode_2),
        "unet": unet(batch, width=5, ids=6),
    }
    return painter(scheduler=scheduler, **(networks | more))


def calls(drawn: Painter, name: str) -> list[Arrays]:
    """What the model of that name was given."""
    network = drawn.models[name]
    assert isinstance(network, Network)
    return network.calls


def text(value: float, pooled: float | None = None) -> Text:
    states = np.full((1, 3, 1, 4), value, np.float32)
    return Text(states=states, pooled=None if pooled is None else np.full((1, 5), pooled, np.float32))


def test_encode_gives_the_layout_that_the_unet_takes() -> None:
    found = painter().encode("abc")
    assert found.states.shape == (1, 3, 1, 4)
    assert (found.states == 3).all()
    assert found.pooled is None


def test_two_encoders_stand_side_by_side_and_the_second_gives_the_pooled_text() -> None:
    drawn = xl()
    found = drawn.encode("abc")
    assert found.states.shape == (1, 5, 1, 4)
    np.testing.assert_array_equal(found.states[0, :3, 0], [[3, 3.125, 3.25, 3.375]] * 3)
    np.testing.assert_array_equal(found.states[0, 3:, 0], np.full((2, 4), 6))  # padded with 1
    np.testing.assert_array_equal(found.pooled, np.full((1, 5), 60))
    assert calls(drawn, "text_encoder")[0]["input_ids"].tolist() == [[3, 0, 0, 0]]
    assert calls(drawn, "text_encoder_2")[0]["input_ids"].tolist() == [[3, 1, 1, 1]]


def test_a_refiner_reads_the_second_encoder_alone() -> None:
    drawn = xl()
    found = drawn.encode("abc", refiner=True)
    np.testing.assert_array_equal(found.states, np.full((1, 2, 1, 4), 6))
    np.testing.assert_array_equal(found.pooled, np.full((1, 5), 60))
    assert not calls(drawn, "text_encoder")


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_denoise_fills_batches_and_drops_the_filling(batch: int) -> None:
    drawn = painter(batch=batch)
    sample = np.arange(24, dtype=np.float32).reshape(LATENT)
    noise = drawn.denoise(sample, 7.0, [text(0), text(1), text(2)])
    assert noise.shape == (3, *LATENT[1:])
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise[:, 0, 0, 0], [0, 1, 2])
    assert len(calls(drawn, "unet")) == -(-3 // batch)
    for given in calls(drawn, "unet"):
        np.testing.assert_array_equal(given["sample"], np.repeat(sample, batch, axis=0))
        assert given["timestep"].tolist() == [7.0] * batch


def test_inputs_are_cast_to_what_the_package_takes() -> None:
    half = replace(unet(2), dtype=np.float16)
    noise = painter(unet=half).denoise(np.zeros(LATENT, np.float32), 7.0, [text(1), text(2)])
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise[:, 0, 0, 0], [1, 2])


@pytest.mark.parametrize("batch", [1, 2])
def test_xl_is_told_the_size_of_the_picture_and_the_pooled_text(batch: int) -> None:
    drawn = painter(unet=unet(batch, ids=6))
    drawn.denoise(np.zeros(LATENT, np.float32), 7.0, [text(1, 3), text(2, 4)])
    given = calls(drawn, "unet")
    rows = np.concatenate([call["time_ids"] for call in given])
    assert rows.tolist() == [[16, 24, 0, 0, 16, 24]] * 2
    assert np.concatenate([call["text_embeds"] for call in given])[:, 0].tolist() == [3, 4]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_refiner_is_told_scores_instead(batch: int) -> None:
    drawn = painter(refiner=unet(batch, ids=5))
    drawn.denoise(np.zeros(LATENT, np.float32), 7.0, [text(1, 3), text(2, 4)], unet="refiner")
    assert not calls(drawn, "unet")
    rows = np.concatenate([call["time_ids"] for call in calls(drawn, "refiner")])
    assert rows.tolist() == [[16, 24, 0, 0, 2.5], [16, 24, 0, 0, 6]]
    alone = painter(refiner=unet(batch, ids=5))
    alone.denoise(np.zeros(LATENT, np.float32), 7.0, [text(1, 3)], unet="refiner")
    [given] = calls(alone, "refiner")
    assert given["time_ids"].tolist() == [[16, 24, 0, 0, 6]] * batch, "the one text is what is wanted"


def chunks(batch: int) -> dict[str, Network]:
    """The UNet of `painter` in two: the first chunk takes all but the text, the second takes what the first gave."""
    sample = (batch, 4, HEIGHT, WIDTH)
    return {
        "unet_chunk1": Network(
            {"sample": sample, "timestep": (batch,)},
            lambda inputs: {"skip": inputs["sample"].astype(np.float16), "time": inputs["timestep"] + 1},
        ),
        "unet_chunk2": Network(
            {"skip": sample, "time": (batch,), "encoder_hidden_states": (batch, 3, 1, 4)},
            lambda inputs: predict({"sample": inputs["skip"], **inputs}),
        ),
    }


def test_chunks_run_one_after_the_other() -> None:
    pytest.importorskip("diffusers")
    whole = painter()
    others: dict[str, Any] = {name: model for name, model in whole.models.items() if name != "unet"}
    cut = replace(whole, models=others | chunks(2))
    assert cut.latent == whole.latent == (HEIGHT, WIDTH)
    sample = np.arange(24, dtype=np.float32).reshape(LATENT)
    texts = [text(1), text(2), text(3)]
    np.testing.assert_array_equal(cut.denoise(sample, 7.0, texts), whole.denoise(sample, 7.0, texts))
    [first, _], [second, _] = calls(cut, "unet_chunk1"), calls(cut, "unet_chunk2")
    assert first["timestep"].tolist() == [7, 7]
    assert second["time"].tolist() == [8, 8]
    np.testing.assert_array_equal(second["skip"], np.repeat(sample, 2, axis=0))
    request = Request(prompt="a", steps=3)
    np.testing.assert_array_equal(draw(cut, request), draw(whole, request))


def test_decode_scales_latents_and_maps_to_8_bits() -> None:
    drawn = painter()
    pixels = drawn.decode(np.zeros(LATENT, np.float32))
    assert pixels.shape == (16, 24, 3)
    assert pixels.dtype == np.uint8
    assert np.unique(pixels).tolist() == [128]
    drawn.decode(np.ones(LATENT, np.float32))
    assert np.unique(calls(drawn, "vae_decoder")[1]["z"]).tolist() == [2]


@pytest.mark.parametrize("scheduler", ["DDIM", "PNDM", "LCM", "EulerDiscrete", "EulerAncestralDiscrete"])
def test_the_same_request_draws_the_same_picture(scheduler: str) -> None:
    """Also where the scheduler draws noise of its own."""
    pytest.importorskip("diffusers")
    request = Request(prompt="a", steps=3, seed=5)
    first = draw(painter(scheduler=scheduler), request)
    np.testing.assert_array_equal(first, draw(painter(scheduler=scheduler, batch=1), request))
    assert (first != draw(painter(scheduler=scheduler), Request(prompt="a", steps=3, seed=6))).any()


def test_a_model_is_drawn_as_it_usually_is_unless_told_otherwise() -> None:
    pytest.importorskip("diffusers")
    asked = Request(prompt="a", steps=3, guidance=0.0, seed=7)
    assert asked.with_usual({"steps": 4, "guidance": 8.0}) == asked
    plain = Request(prompt="a", seed=7)
    assert plain.with_usual({"steps": 4, "guidance": 1.0}) == replace(plain, steps=4, guidance=1.0)
    assert plain.with_usual({}) == replace(plain, steps=20, guidance=7.5)
    drawn = painter()
    np.testing.assert_array_equal(draw(drawn, plain), draw(painter(), plain.with_usual({})))
    assert len(calls(drawn, "unet")) == 20


def test_guidance_1_ignores_the_negative_prompt() -> None:
    pytest.importorskip("diffusers")
    plain, other = (
        draw(painter(), Request(prompt="a", negative=text, steps=2, guidance=1)) for text in ("", "something")
    )
    np.testing.assert_array_equal(plain, other)
    guided = draw(painter(), Request(prompt="a", negative="something", steps=2, guidance=7.5))
    assert (guided != plain).any()


def test_a_guidance_that_is_built_in_is_not_computed_as_well() -> None:
    pytest.importorskip("diffusers")
    plain = draw(painter(), Request(prompt="a", steps=2, guidance=1))
    drawn = painter(guides=False, batch=1)
    for guidance in (1.0, 7.5):
        request = Request(prompt="a", negative="something", steps=2, guidance=guidance)
        np.testing.assert_array_equal(draw(drawn, request), plain)
    assert len(calls(drawn, "unet")) == 2 * 2, "one run for each step"
    assert {given["input_ids"][0, 0] for given in calls(drawn, "text_encoder")} == {1}, "the prompt alone"


def test_guidance_leads_from_the_negative_prompt_to_the_prompt() -> None:
    diffusers = pytest.importorskip("diffusers")
    import torch

    drawn = painter()
    draw(drawn, Request(prompt="a", negative="no", steps=2, guidance=3.0, seed=4))
    first, second = (given["sample"][:1] for given in calls(drawn, "unet"))
    scheduler = diffusers.DDIMScheduler.from_config(CONFIG)
    scheduler.set_timesteps(2)
    noise = torch.full(LATENT, 2 + 3.0 * (1 - 2))  # the texts' lengths
    expected = scheduler.step(noise, scheduler.timesteps[0], torch.from_numpy(first)).prev_sample
    np.testing.assert_allclose(second, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("cut", [False, True])
def test_a_refiner_takes_over_for_the_last_fifth(cut: bool) -> None:
    pytest.importorskip("diffusers")
    refiner = unet(2, width=2, ids=5)
    networks: dict[str, Any] = {"refiner": refiner}
    if cut:
        first = {name: refiner.shapes[name] for name in ("sample", "timestep", "time_ids", "text_embeds")}
        second = {"skip": first["sample"], "encoder_hidden_states": refiner.shapes["encoder_hidden_states"]}
        networks = {
            "refiner_chunk1": Network(first, lambda inputs: {"skip": inputs["sample"]}),
            "refiner_chunk2": Network(second, lambda inputs: predict({"sample": inputs["skip"], **inputs})),
        }
    drawn = xl(**networks)
    assert drawn.refines()
    draw(drawn, Request(prompt="a", negative="no", steps=10))
    base, refined = calls(drawn, "unet"), calls(drawn, "refiner_chunk1" if cut else "refiner")
    steps = [given["timestep"][0] for given in base + refined]
    assert steps == sorted(steps, reverse=True)
    assert len(steps) == 10
    assert min(given["timestep"].min() for given in base) >= 200 > max(given["timestep"].max() for given in refined)
    assert len(refined) == 2
    assert all(given["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]] * 2 for given in base)
    assert all(given["time_ids"].tolist() == [[16, 24, 0, 0, 2.5], [16, 24, 0, 0, 6]] for given in refined)
    states = calls(drawn, "refiner_chunk2" if cut else "refiner")[0]["encoder_hidden_states"]
    assert states[:, 0, 0, 0].tolist() == [2 + 3, 1 + 3], "the second encoder's, for what is not wanted and what is"


def test_a_refiner_that_predicts_the_same_changes_nothing() -> None:
    """Its scheduler goes on where the base's stopped."""
    pytest.importorskip("diffusers")

    def constant(inputs: Arrays) -> dict[str, Any]:
        return {"noise_pred": np.full((2, *LATENT[1:]), 0.25, np.float32)}

    request = Request(prompt="a", steps=10)
    base = replace(unet(2, width=5, ids=6), function=constant)
    refiner = replace(unet(2, width=2, ids=5), function=constant)
    np.testing.assert_array_equal(draw(xl(unet=base, refiner=refiner), request), draw(xl(unet=base), request))
    assert refiner.calls


def test_without_a_refiner_the_unet_draws_to_the_end() -> None:
    pytest.importorskip("diffusers")
    drawn = xl()
    assert not drawn.refines()
    draw(drawn, Request(prompt="a", steps=10))
    assert len(calls(drawn, "unet")) == 10


def encoded(inputs: Arrays) -> dict[str, Any]:
    """A latent's mean, 1 more than the picture's, and a logarithm of its variance that is almost none."""
    mean = np.ones((1, 4, HEIGHT, WIDTH)) + inputs["x"].mean()
    return {"latent": np.concatenate([mean, np.full_like(mean, -80)], axis=1).astype(np.float16)}


def test_inpainting_sees_a_mask_of_ones_and_a_grey_picture() -> None:
    pytest.importorskip("diffusers")
    encoder = Network({"x": PIXELS}, encoded)
    drawn = painter(unet=unet(2, channels=9), vae_encoder=encoder)
    request = Request(prompt="a", steps=3, seed=5)
    picture = draw(drawn, request)
    assert not encoder.calls[0]["x"].any()
    for given in calls(drawn, "unet"):
        assert (given["sample"][:, 4] == 1).all()
        np.testing.assert_allclose(given["sample"][:, 5:], 0.5)  # times the scaling factor
    np.testing.assert_array_equal(picture, draw(painter(), request), "the fake UNet predicts the same")


def test_the_grey_picture_is_drawn_from_its_distribution() -> None:
    torch = pytest.importorskip("torch")
    halves = np.full((1, 4, HEIGHT, WIDTH), 3, np.float16), np.full((1, 4, HEIGHT, WIDTH), 2, np.float16)
    encoder = Network({"x": PIXELS}, lambda inputs: {"latent": np.concatenate(halves, axis=1)})
    drawn = painter(unet=unet(2, channels=9), vae_encoder=encoder)
    found = drawn.besides(torch.Generator("cpu").manual_seed(3))
    noise = torch.randn(LATENT, generator=torch.Generator("cpu").manual_seed(3)).numpy()
    assert found is not None
    np.testing.assert_allclose(found[:, 1:], 0.5 * (3 + np.exp(1) * noise), rtol=1e-5)
    assert painter().besides(torch.Generator("cpu")) is None


def test_what_cannot_be_drawn_from_text_is_refused() -> None:
    pytest.importorskip("torch")
    with pytest.raises(BadInput, match="VAE encoder, and its package is missing"):
        painter(unet=unet(2, channels=9)).besides(None)
    with pytest.raises(BadInput, match="edits pictures"):
        painter(unet=unet(2, channels=8)).besides(None)


def test_scheduler_classes_are_named_with_and_without_their_suffix() -> None:
    diffusers = pytest.importorskip("diffusers")
    assert scheduler_class("PNDM") is scheduler_class("PNDMScheduler") is diffusers.PNDMScheduler
    for name in ("Nothing", "__class__", "UNet2DConditionModel", "a.b"):
        with pytest.raises(ConfigError, match="no scheduler"):
            scheduler_class(name)


def test_find_takes_no_more_than_one_package(tmp_path: Path) -> None:
    assert find(tmp_path, "unet") is None
    for other in ("a_control-unet", "a_unet_chunk1", "a_text_encoder_2"):
        (tmp_path / f"{other}.mlpackage").mkdir()
    assert find(tmp_path, "unet") is None
    assert find(tmp_path, "text_encoder") is None
    (tmp_path / "a_unet.mlpackage").mkdir()
    assert find(tmp_path, "unet") == tmp_path / "a_unet.mlpackage"
    (tmp_path / "b_unet.mlpackage").mkdir()
    with pytest.raises(BadInput, match="more than one"):
        find(tmp_path, "unet")


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        ("text_encoder unet vae_decoder", None),
        ("text_encoder text_encoder_2 unet vae_decoder", None),
        ("text_encoder_2 unet vae_decoder", None),
        ("text_encoder unet_chunk1 unet_chunk2 vae_decoder", None),
        ("", "unet"),
        ("unet vae_decoder", "text_encoder"),
        ("text_encoder unet vae_encoder", "vae_decoder"),
        ("text_encoder vae_decoder", "unet"),
        ("text_encoder unet_chunk1 vae_decoder", "unet"),
        ("text_encoder unet_chunk2 vae_decoder", "unet"),
        ("text_encoder refiner vae_decoder", "unet"),
    ],
)
def test_the_parts_that_draw(names: str, lacking: str | None) -> None:
    if lacking is None:
        check_parts(names.split(), "here")
        return
    with pytest.raises(BadInput, match=rf"here holds no \*_{lacking}\.mlpackage"):
        check_parts(names.split(), "here")


VOCABULARY = {"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
LONGER = {**VOCABULARY, "!": 4, "<|endoftext|>": 5}


def write_vocabulary(folder: Path, *, vocabulary: Mapping[str, int] = VOCABULARY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder


def test_the_tokenizer_pads_with_the_last_token(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    tokenizer = read_tokenizer(write_vocabulary(tmp_path))
    assert tokenizer("a a", length=5) == [2, 1, 1, 3, 3]
    assert tokenizer("a a a a a", length=4) == [2, 1, 1, 3]
    assert tokenizer("", length=3) == [2, 3, 3]


@pytest.mark.parametrize("said", ["!", {"content": "!", "lstrip": False}])
def test_the_tokenizer_pads_as_its_source_says(tmp_path: Path, said: Any) -> None:
    pytest.importorskip("transformers")
    write_vocabulary(tmp_path, vocabulary=LONGER)
    assert read_tokenizer(tmp_path)("a a", length=6) == [2, 1, 1, 5, 5, 5]
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": said}), encoding="utf-8")
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer("a a", length=6) == [2, 1, 1, 5, 4, 4]
    assert tokenizer("a a a a a", length=4) == [2, 1, 1, 5]
    assert read_tokenizer(tmp_path, pad="a")("a a", length=6) == [2, 1, 1, 5, 0, 0], "what is asked for counts"
    assert read_tokenizer(write_vocabulary(tmp_path), pad="!")("a", length=4) == [2, 1, 3, 3], "it has no such token"


def test_the_second_encoder_has_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    release = write_vocabulary(tmp_path / "compiled", vocabulary=LONGER)
    found = read_tokenizers(release)
    assert found.keys() == {"text_encoder", "text_encoder_2"}
    assert found["text_encoder"]("a", length=5) == [2, 1, 5, 5, 5]
    assert found["text_encoder_2"]("a", length=5) == [2, 1, 5, 4, 4], "as the authors of XL pad"
    first, second = (tmp_path / "source" / name for name in ("tokenizer", "tokenizer_2"))
    write_vocabulary(second)
    write_vocabulary(first, vocabulary=LONGER)
    found = read_tokenizers(first)
    assert found["text_encoder"]("a", length=5) == [2, 1, 5, 5, 5]
    assert found["text_encoder_2"]("a", length=5) == [2, 1, 3, 3, 3]
    assert read_tokenizers(second)["text_encoder_2"]("a", length=5) == [2, 1, 3, 3, 3], "a refiner has it alone"


@pytest.mark.parametrize(
    ("facts", "guides"), [({}, True), ({"guidance_embedding": None}, True), ({"guidance_embedding": 8.0}, False)]
)
def test_load_takes_the_packages_that_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], guides: bool
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    loaded: list[tuple[str, str]] = []

    def fake(path: Path, *, device: str) -> Network:
        loaded.append((path.name, device))
        return Network({}, lambda inputs: {})

    monkeypatch.setattr("hubpub.runtime.load", fake)
    facts = {"scheduler_config": CONFIG, "scheduler": "DDIM", "scaling_factor": "0.13025", **facts}
    (tmp_path / "a_text_encoder.mlpackage").mkdir()
    with pytest.raises(BadInput, match=r"holds no \*_unet\.mlpackage"):
        load(tmp_path, write_vocabulary(tmp_path), facts)
    parts = ("text_encoder_2", "unet", "vae_decoder", "refiner_chunk1", "refiner_chunk2")
    for part in (*parts, "control-unet", "safety_checker"):
        (tmp_path / f"a_{part}.mlpackage").mkdir()
    assert not loaded
    drawn = load(tmp_path, tmp_path, facts, device="cuda")
    assert set(drawn.models) == {"text_encoder", *parts}
    assert sorted(loaded) == sorted((f"a_{part}.mlpackage", "cuda") for part in ("text_encoder", *parts))
    assert drawn.guides == guides
    assert drawn.scaling_factor == 0.13025
    drawn.close()
    assert all(isinstance(model, Network) and model.closed for model in drawn.models.values())


def test_psnr_of_pictures() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert picture_psnr(black, black) == 200
    assert picture_psnr(black, white) == 0


def test_a_sheet_shows_pictures_side_by_side() -> None:
    pytest.importorskip("PIL")
    picture = np.zeros((10, 20, 3), np.uint8)
    canvas = sheet({"one": picture, "two\nlines": picture})
    assert canvas.size == (2 * (20 + 12) + 12, 10 + 18 * 2 + 2 * 12)
