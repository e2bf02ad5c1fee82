"""The random sources of the tests are what diffusers and transformers would have saved."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.checkpoints.names import canonical
from hubpub.checkpoints.selection import choose
from hubpub.checkpoints.weights import open_weights
from tests.support.sources import (
    CONTROLNETS,
    FAMILIES,
    Component,
    Layout,
    components,
    make_source,
    tensor,
    write_tokenizer,
)

# Parameters of the real models, as their cards and papers give them (in millions).
SIZES = {
    ("sd15", "unet"): 859.5,
    ("sd15", "vae"): 83.7,
    ("sd15", "text_encoder"): 123.1,
    ("sd21", "unet"): 865.9,
    ("sd21", "text_encoder"): 340.4,
    ("sdxl", "unet"): 2567.5,
    ("sdxl", "text_encoder_2"): 694.7,
}


@pytest.mark.parametrize(("family", "folder"), SIZES)
def test_true_sizes(family: str, folder: str) -> None:
    part = next(part for part in components(family, tiny=False) if part.folder == folder)
    parameters = sum(math.prod(shape) for shape in part.shapes(part.config).values())
    assert parameters / 1e6 == pytest.approx(SIZES[family, folder], abs=0.05)


def _module(part: Component) -> Any:
    """The library's own module of this config."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    match part.folder:
        case "":
            return ControlNetModel.from_config(part.config)
        case "unet":
            return UNet2DConditionModel.from_config(part.config)
        case "vae":
            return AutoencoderKL.from_config(part.config)
        case "safety_checker":
            return StableDiffusionSafetyChecker(CLIPConfig.from_dict(dict(part.config)))
        case _:
            projected = part.config["architectures"] == ["CLIPTextModelWithProjection"]
            kind = CLIPTextModelWithProjection if projected else CLIPTextModel
            return kind(CLIPTextConfig.from_dict(dict(part.config)))


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, *CONTROLNETS])
def test_names_and_shapes_are_those_of_the_libraries(family: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    for tiny in (True, False):
        for part in components(family, tiny=tiny):
            with torch.device("meta"):
                state = _module(part).state_dict()
            ours = {canonical(name): shape for name, shape in part.shapes(part.config).items()}
            assert ours == {canonical(name): tuple(value.shape) for name, value in state.items()}, (part.folder, tiny)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_source_is_whole_and_quick(tmp_path: Path, family: str) -> None:
    start = time.process_time()
    folder = make_source(tmp_path / "source", family)
    assert time.process_time() - start < 2
    index = json.loads((folder / "model_index.json").read_text())
    for name, entry in index.items():
        if not name.startswith("_") and isinstance(entry, list) and entry[0] is not None:
            assert any((folder / name).iterdir()), name
    assert (folder / "README.md").read_text().startswith("---\nlicense: ")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    for part in components(family, tiny=True):
        with open_weights([folder / name for name in choose(files, folder=part.folder)]) as weights:
            assert {name: weights.shape(name) for name in weights} == part.shapes(part.config)


def test_values_depend_on_name_and_seed_alone(tmp_path: Path) -> None:
    assert np.array_equal(tensor("a.weight", (3, 4)), tensor("a.weight", (3, 4)))
    assert not np.array_equal(tensor("a.weight", (3, 4)), tensor("b.weight", (3, 4)))
    assert not np.array_equal(tensor("a.weight", (3, 4)), tensor("a.weight", (3, 4), seed=1))
    one = make_source(tmp_path / "1", "sd15", layout=Layout(shards=2), only=["vae"])
    two = make_source(tmp_path / "2", "sd15", layout=Layout(shards=2), only=["vae"])
    assert [p.read_bytes() for p in sorted((one / "vae").iterdir())] == [
        p.read_bytes() for p in sorted((two / "vae").iterdir())
    ]
    index = json.loads((one / "vae" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {p.name for p in (one / "vae").glob("*.safetensors")}
    assert not list((one / "unet").glob("*.safetensors"))


def test_conv_weights_have_the_scale_of_their_fan_in() -> None:
    assert tensor("x.weight", (400, 100, 3, 3)).std() == pytest.approx(1 / 30, rel=0.01)
    assert tensor("x.norm.weight", (5000,)).mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("size", [1024, 49408])
def test_the_tokenizer_is_one_that_transformers_loads(tmp_path: Path, size: int) -> None:
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path, size)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocabulary.values()) == list(range(size))
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert len(merges) == size - 514 + 1
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    ids = tokenizer("a photo of a cat", padding="max_length", max_length=77).input_ids
    assert len(ids) == 77
    assert ids[0] == size - 2
    assert ids[-1] == size - 1
    assert max(ids) == size - 1
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a photo of a cat"
