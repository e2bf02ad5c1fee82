"""The small trained source with the shape of Stable Diffusion XL: a classifier reads what it and its packages draw."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner

from hubpub.cli.app import app

pytest.importorskip("diffusers", reason="pictures are drawn with diffusers' schedulers")
pytest.importorskip("sklearn", reason="a classifier reads the pictures")

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "benchmarks" / "digits_xl_source"
TOKENIZERS = ("tokenizer", "tokenizer_2")
STEPS = 10


@pytest.fixture(scope="module")
def digits_eval() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield importlib.import_module("benchmarks.digits_eval")


def test_it_is_small_and_has_the_shape_of_xl() -> None:
    assert sum(path.stat().st_size for path in SOURCE.rglob("*") if path.is_file()) <= 4_000_000
    unet = json.loads((SOURCE / "unet/config.json").read_text())
    assert unet["addition_embed_type"] == "text_time"
    assert json.loads((SOURCE / "vae/config.json").read_text())["force_upcast"] is True
    pads = [json.loads((SOURCE / name / "special_tokens_map.json").read_text())["pad_token"] for name in TOKENIZERS]
    assert pads == ["<|endoftext|>", "!"]


@pytest.mark.slow
def test_a_classifier_reads_what_it_draws(digits_eval: ModuleType) -> None:
    judge, _ = digits_eval.classifier()
    texts, asked = digits_eval.prompts(10)
    pictures = digits_eval.draw_with_pipeline(digits_eval.load_pipeline(SOURCE), texts, seed=1000, steps=STEPS)
    share, read = digits_eval.accuracy(judge, pictures, asked)
    assert share >= 0.9, f"read as {read.tolist()}"


@pytest.mark.slow
def test_it_reads_what_packages_of_6_bits_draw(digits_eval: ModuleType, tmp_path: Path) -> None:
    """What it draws depends on the first encoder; a wrong second one, pooled text or size would still be read right.

    Those are compared in decibels with diffusers' pictures, in tests/e2e/test_families.py.
    """
    from hubpub.runtime import pictures

    settings = ["--attention", "original", "--format", "packages", "--verify", "weights", "--bits", "6"]
    done = CliRunner().invoke(app, ["convert", str(SOURCE), "-o", str(tmp_path / "out"), *settings])
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "out/hubpub.json").read_text())
    painter = pictures.load(tmp_path / "out/original/packages", SOURCE / "tokenizer", facts)
    texts, asked = digits_eval.prompts(4)
    requests = [
        pictures.Request(prompt=text, seed=1000 + number, steps=STEPS, guidance=digits_eval.GUIDANCE)
        for number, text in enumerate(texts)
    ]
    drawn = np.stack([pictures.draw(painter, request) for request in requests])
    judge, _ = digits_eval.classifier()
    share, read = digits_eval.accuracy(judge, drawn, asked)
    assert share == 1.0, f"read as {read.tolist()}"
