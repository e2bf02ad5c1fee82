"""Single files: diffusers' from_single_file is the oracle for names and values, a folder's own files for configs."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hubpub.architectures import detect
from hubpub.architectures.single_file import describe, describe_vae
from hubpub.checkpoints import match_names
from hubpub.checkpoints.ldm import component_tensors
from hubpub.checkpoints.tensors import Tensor
from hubpub.checkpoints.weights import open_weights, read_header
from hubpub.errors import BadWeights, ConfigError, HubpubError, UnknownArchitecture
from tests.support.single_files import renamed, single_arrays, write_single
from tests.support.sources import components, make_source

_FAMILIES = {
    "sd15": "sd1",
    "sd15-inpaint": "sd1",
    "sd15-pix2pix": "sd1",
    "sd15-lcm": "sd1",
    "sd15-small": "sd1",
    "sd21": "sd2",
    "sd21-768": "sd2",
    "sdxl": "sdxl",
    "sdxl-refiner": "sdxl_refiner",
    "sdxl-small": "sdxl",
}
# What no tensor says: tiny sources have other numbers of heads than the families.
_UNSAID = ("attention_head_dim", "num_attention_heads", "sample_size", "_diffusers_version")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("single")
    return {family: make_source(root / family, family) for family in _FAMILIES}


def _described(path: Path) -> Any:
    header = read_header(path)
    return describe(header.tensors, header.metadata, name=path.name, prediction_type="epsilon")


@pytest.mark.parametrize("family", _FAMILIES)
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_single_file_holds_what_its_folder_held(
    family: str, ending: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    source = sources[family]
    path = write_single(source, tmp_path / f"model.{ending}")
    described = _described(path)
    assert detect(described.model_index, described.configs).name == _FAMILIES[family]
    with open_weights([path]) as weights:
        for folder, prefix in described.prefixes.items():
            own = weights.renamed(component_tensors(weights.located, folder, prefix))
            expected = load_file(next((source / folder).glob("*.safetensors")))
            names = match_names(own.tensors(), expected)
            for name, values in expected.items():
                assert np.array_equal(own.float16(names[name]).reshape(values.shape), values), name
    for folder, config in described.configs.items():
        held = json.loads((source / folder / "config.json").read_bytes())
        if family == "sdxl-small" and folder == "unet":  # the same depths in another spelling
            held.pop("transformer_layers_per_block"), held.pop("reverse_transformer_layers_per_block")
        differing = {
            key: (held[key], value)
            for key, value in config.items()
            if key in held and held[key] != value and key not in _UNSAID
        }
        assert differing == {}, folder


@pytest.mark.parametrize("family", ["sd15", "sd15-inpaint", "sd21", "sdxl", "sdxl-refiner"])
def test_diffusers_reads_the_file_as_we_do(family: str, sources: dict[str, Path], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    source = sources[family]
    path = write_single(source, tmp_path / "model.safetensors")
    named = json.loads((source / "model_index.json").read_bytes())["_class_name"]
    more = {} if "xl" in family else {"safety_checker": None}
    diffusers.utils.logging.set_verbosity_error()
    pipeline = getattr(diffusers, named).from_single_file(
        str(path), config=str(source), local_files_only=True, torch_dtype=torch.float16, **more
    )
    described = _described(path)
    with open_weights([path]) as weights:
        for folder, prefix in described.prefixes.items():
            own = weights.renamed(component_tensors(weights.located, folder, prefix))
            state = getattr(pipeline, folder).state_dict()
            names = match_names(own.tensors(), [name for name in state if "position_ids" not in name])
            assert len(names) == len([name for name in state if "position_ids" not in name])
            for name, held in names.items():
                assert np.array_equal(own.float16(held).reshape(state[name].shape), state[name].numpy()), name


@pytest.mark.parametrize(
    ("family", "predicts"),
    [
        ("sd15", "epsilon"),
        ("sd15-inpaint", "epsilon"),
        ("sd21", "epsilon"),
        ("sd21-768", "v_prediction"),
        ("sdxl", "epsilon"),
        ("sdxl-refiner", "epsilon"),
    ],
)
def test_at_true_size_every_config_is_the_familys(family: str, predicts: str) -> None:
    """From shapes alone, numbers of heads and the size of latents among them."""
    parts = {part.folder: part for part in components(family, tiny=False) if part.folder != "safety_checker"}
    zero = np.zeros((), np.int8)
    arrays = renamed(
        {
            folder: {name: np.broadcast_to(zero, shape) for name, shape in part.shapes(part.config).items()}
            for folder, part in parts.items()
        },
        {folder: part.config for folder, part in parts.items()},
    )
    tensors = {
        name: Tensor(file=0, dtype="F16", shape=array.shape, start=0, strides=None) for name, array in arrays.items()
    }
    described = describe(tensors, {}, name="x.safetensors", prediction_type=predicts)
    family_of = detect(described.model_index, described.configs)
    assert family_of.name == _FAMILIES[family]
    held = {folder: part.config for folder, part in parts.items()}
    for component in family_of.components:
        if component.origin.folder in held and component.origin.source == "model":
            own = {**held, component.origin.folder: described.configs[component.origin.folder]}
            assert component.config(own) == component.config(held), component.name
    assert described.configs["unet"]["sample_size"] == held["unet"]["sample_size"]


def test_what_a_stable_diffusion_2_predicts_must_be_said(sources: dict[str, Path], tmp_path: Path) -> None:
    source = sources["sd21"]
    silent = write_single(source, tmp_path / "my-model.safetensors")
    header = read_header(silent)
    with pytest.raises(ConfigError, match=r"neither its weights nor its header"):
        describe(header.tensors, header.metadata, name=silent.name)
    asked = describe(header.tensors, header.metadata, name=silent.name, prediction_type="v_prediction")
    assert asked.scheduler["prediction_type"] == "v_prediction"
    assert asked.configs["unet"]["sample_size"] == 96
    for name, predicts in (("v2-1_768-ema-pruned.ckpt", "v_prediction"), ("512-base-ema.ckpt", "epsilon")):
        assert describe(header.tensors, {}, name=name).scheduler["prediction_type"] == predicts
    said = {"modelspec.prediction_type": "v"}
    assert describe(header.tensors, said, name="x.safetensors").scheduler["prediction_type"] == "v_prediction"


def test_keys_of_xl_say_that_it_predicts_v(sources: dict[str, Path], tmp_path: Path) -> None:
    marks = {"v_pred": np.zeros(0, np.float16), "ztsnr": np.zeros(0, np.float16)}
    described_file = write_single(sources["sdxl"], tmp_path / "x.safetensors", more=marks)
    header = read_header(described_file)
    described = describe(header.tensors, header.metadata, name="x.safetensors")
    assert described.scheduler["prediction_type"] == "v_prediction"
    assert described.scheduler["rescale_betas_zero_snr"] is True


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vae_by_itself(prefix: str, sources: dict[str, Path], tmp_path: Path) -> None:
    held = load_file(next((sources["sd15"] / "vae").glob("*.safetensors")))
    ldm = {
        name.removeprefix("first_stage_model."): array
        for name, array in single_arrays(sources["sd15"]).items()
        if name.startswith("first_stage_model.")
    }
    for number, arrays in enumerate((held, ldm)):
        path = tmp_path / f"{number}.safetensors"
        save_file({prefix + name: array for name, array in arrays.items()}, path)
        config, found = describe_vae(read_header(path).tensors, name=path.name, xl=False)
        assert found == prefix
        assert config["scaling_factor"] == 0.18215
        with open_weights([path]) as weights:
            own = weights.renamed(component_tensors(weights.located, "vae", found))
            for name, values in held.items():
                assert np.array_equal(own.float16(name).reshape(values.shape), values), name


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["lora_unet_down_blocks_0.lora_up.weight"], "is a LoRA"),
        (["unet.down_blocks.0.lora_A.weight"], "is a LoRA"),
        (["model.diffusion_model.joint_blocks.0.x"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.norm.key_norm.scale"], "Flux"),
        (["control_model.time_embed.0.weight"], "ControlNet"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "is a VAE"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "holds no vae"),
        (["something.else"], "no whole model"),
    ],
)
def test_other_files_are_named(names: list[str], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: np.zeros((4, 4, 3, 3), np.float16) for name in names}, path)
    header = read_header(path)
    with pytest.raises((UnknownArchitecture, BadWeights), match=sentence):
        describe(header.tensors, header.metadata, name=path.name)


def test_a_damaged_file_is_refused_in_a_sentence(sources: dict[str, Path]) -> None:
    """Tensors are left out, renamed and reshaped: it is described, or refused; the weights step checks every shape."""
    random = np.random.default_rng(0)
    arrays = single_arrays(sources["sdxl"])
    header = {name: array.shape for name, array in arrays.items()}
    for _ in range(200):
        spoiled = dict(header)
        for name in random.choice(list(spoiled), size=int(random.integers(1, 40)), replace=False):
            shape = spoiled.pop(name)
            match random.integers(3):
                case 0:
                    spoiled[f"{name[: len(name) // 2]}{random.integers(99)}"] = shape
                case 1:
                    spoiled[name] = tuple(int(random.integers(0, 9)) for _ in range(random.integers(0, 5)))
        tensors = {
            name: Tensor(file=0, dtype="F16", shape=tuple(shape), start=0, strides=None)
            for name, shape in spoiled.items()
        }
        with suppress(HubpubError):  # any other exception fails the test
            described = describe(tensors, {}, name="x.safetensors")
            detect(described.model_index, described.configs)
