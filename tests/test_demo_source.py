"""The demo's source: small, safe to load, of Stable Diffusion 1.x's making, and it draws what it is asked for."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "hubpub" / "demo_source"
WEIGHTS = {
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
}


@pytest.fixture(scope="module")
def digits_eval() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module("benchmarks.digits_eval")


@pytest.fixture(scope="module")
def pipeline(digits_eval: ModuleType) -> Any:
    return digits_eval.load_pipeline(SOURCE)


def _json(name: str) -> Any:
    return json.loads((SOURCE / name).read_text(encoding="utf-8"))


def test_it_is_package_data_of_less_than_four_megabytes() -> None:
    assert resources.files("hubpub").joinpath("demo_source", "model_index.json").is_file()
    assert sum(path.stat().st_size for path in SOURCE.rglob("*") if path.is_file()) <= 4_000_000


def test_its_only_weights_are_safetensors_in_half_precision() -> None:
    files = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*") if path.is_file()}
    assert {name for name in files if not name.endswith((".json", ".txt", "README.md", "LICENSE"))} == WEIGHTS
    for name in WEIGHTS:
        with safe_open(SOURCE / name, "np") as weights:
            tensors = [weights.get_tensor(key) for key in weights.keys()]  # noqa: SIM118 (not a mapping)
        assert {tensor.dtype for tensor in tensors if tensor.dtype.kind == "f"} == {np.dtype(np.float16)}
        assert all(np.isfinite(tensor).all() for tensor in tensors)


def test_its_constants_are_those_of_stable_diffusion_1() -> None:
    index, scheduler = _json("model_index.json"), _json("scheduler/scheduler_config.json")
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert (scheduler["beta_start"], scheduler["beta_end"]) == (0.00085, 0.012)
    assert (scheduler["beta_schedule"], scheduler["prediction_type"]) == ("scaled_linear", "epsilon")
    assert _json("vae/config.json")["scaling_factor"] == 0.18215
    unet, text = _json("unet/config.json"), _json("text_encoder/config.json")
    assert (unet["sample_size"], unet["in_channels"], unet["out_channels"]) == (32, 4, 4)
    assert unet["down_block_types"][0] == "CrossAttnDownBlock2D"
    assert unet["cross_attention_dim"] == text["hidden_size"]


def test_the_end_token_has_the_highest_id_and_any_text_has_tokens(pipeline: Any) -> None:
    vocabulary = _json("tokenizer/vocab.json")
    end = vocabulary["<|endoftext|>"]
    assert end == len(vocabulary) - 1 == max(vocabulary.values())
    assert _json("text_encoder/config.json")["eos_token_id"] == end
    assert _json("text_encoder/config.json")["vocab_size"] == len(vocabulary)
    assert pipeline.tokenizer.model_max_length == _json("text_encoder/config.json")["max_position_embeddings"] == 77
    known = pipeline.tokenizer("a handwritten Seven").input_ids
    assert known == [end - 1, *(vocabulary[f"{word}</w>"] for word in ("a", "handwritten", "seven")), end]
    assert pipeline.tokenizer("日本 naïve?!").input_ids.count(end) == 1


@pytest.mark.slow
def test_a_classifier_of_real_digits_reads_what_it_draws(digits_eval: ModuleType, pipeline: Any) -> None:
    judge, real = digits_eval.classifier()
    assert real >= 0.97
    texts, asked = digits_eval.prompts(10)
    pictures = digits_eval.draw_with_pipeline(pipeline, texts, seed=1000, steps=10)
    share, _ = digits_eval.accuracy(judge, pictures, asked)
    assert share >= 0.9
    # Other words, other digits: the text is heard.
    assert digits_eval.accuracy(judge, pictures, (asked + 1) % 10)[0] <= 0.1


@pytest.mark.slow
def test_it_reads_what_packages_of_6_bits_draw(
    digits_eval: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmarks/digits.md has 500 pictures of every width."""
    monkeypatch.chdir(ROOT)
    quality = importlib.import_module("benchmarks.digits_quality")
    folder = quality.convert(SOURCE, tmp_path, 6, "split_einsum_v2")
    pictures = quality.draw_packages(SOURCE, folder, 0, 10)
    judge, _ = digits_eval.classifier()
    share, read = digits_eval.accuracy(judge, pictures, np.arange(10))
    assert share == 1.0, f"read as {read.tolist()}"
