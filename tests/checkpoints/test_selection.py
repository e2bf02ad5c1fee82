"""Which weight files are read: diffusers' and transformers' own loaders are the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubpub.checkpoints import choose
from hubpub.checkpoints.selection import passed_over, variants_of
from hubpub.errors import BadWeights
from tests.support.sources import Layout, components, make_source

VAE, TEXT = "diffusion_pytorch_model", "model"
# One file is 1, its fp16 variant 2, shards 3, shards of the variant 4, `.bin` 5, its variant 6.
_SETS = [
    {1},
    {1, 2},
    {1, 3},
    {1, 2, 3, 4},
    {1, 5},
    {2, 1, 5, 6},
    {3},
    {3, 5},
    {2, 5},
    {5, 6},
]


def _write(folder: Path, stem: str, which: set[int], tensors: dict[str, Any], name: str) -> None:
    """The files of `which`, each of which holds its own number in the tensor `name`."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    binary = "pytorch_model" if stem == TEXT else stem
    for number in which:
        values = {
            key: torch.full_like(value, float(number)) if key == name else value for key, value in tensors.items()
        }
        variant = ".fp16" if number in (2, 4, 6) else ""
        match number:
            case 1 | 2:
                save_file(values, folder / f"{stem}{variant}.safetensors", metadata={"format": "pt"})
            case 5 | 6:
                torch.save(values, folder / f"{binary}{variant}.bin")
            case _:
                keys = list(values)
                places = {}
                for shard, part in ((1, keys[:2]), (2, keys[2:])):
                    file = f"{stem}{variant}-0000{shard}-of-00002.safetensors"
                    save_file({key: values[key] for key in part}, folder / file, metadata={"format": "pt"})
                    places |= dict.fromkeys(part, file)
                size = sum(value.numel() * 4 for value in values.values())
                index = {"metadata": {"total_size": size}, "weight_map": places}
                (folder / f"{stem}.safetensors.index{variant}.json").write_text(json.dumps(index))


def _vae(folder: Path | None, **given: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    diffusers.utils.logging.set_verbosity(50)
    if folder is not None:
        return diffusers.AutoencoderKL.from_pretrained(folder, local_files_only=True, **given)
    return diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2)


def _text(folder: Path | None, **given: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    if folder is not None:
        return transformers.CLIPTextModel.from_pretrained(folder, local_files_only=True, **given)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=64, **sizes))


@pytest.mark.parametrize("which", _SETS, ids=str)
@pytest.mark.parametrize(("stem", "model"), [(VAE, _vae), (TEXT, _text)], ids=["diffusers", "transformers"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_file_is_the_one_that_the_loader_takes(
    which: set[int], stem: str, model: Callable[..., Any], variant: str | None, tmp_path: Path
) -> None:
    fresh = model(None)
    tensors = {name: value.clone().contiguous() for name, value in fresh.state_dict().items()}
    name = list(tensors)[-1]
    folder = tmp_path / "part"
    _write(folder, stem, which, tensors, name)
    (fresh.save_config if stem == VAE else fresh.config.save_pretrained)(folder)
    try:
        read = float(model(folder, variant=variant).state_dict()[name].flatten()[0])
    except (OSError, ValueError):
        read = None  # the loader takes none of them
    paths = sorted(path.name for path in folder.iterdir())
    files = choose(paths, folder="", variant=variant)
    number = 5 if files[0].endswith(".bin") else 3 if "-of-" in files[0] else 1
    chosen = number + (".fp16" in files[0])
    if read is None:
        # We read what is there all the same: variants alone, and the plain files where a variant was asked for,
        # which is what DiffusionPipeline.from_pretrained(variant=) does with folders that have none.
        assert which <= {2, 4, 6} or variant is not None or stem == VAE
    else:
        assert chosen == read
    others = passed_over(paths, folder="", chosen=files)
    assert not set(others) & set(files)
    assert bool(others) is (len(which) > 1)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "model.onnx", "openvino_model.bin"], [0]),
        (["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.bin"], [1]),
        (["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"], [0]),
        (
            [
                "diffusion_pytorch_model-00002-of-00002.safetensors",
                "diffusion_pytorch_model-00001-of-00002.safetensors",
                "diffusion_pytorch_model.safetensors.index.json",
            ],
            [1, 0],
        ),
        (["model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"], [0, 1]),
        (
            ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"],
            [0, 1],
        ),
    ],
)
def test_other_files_are_not_looked_at(files: list[str], chosen: list[int]) -> None:
    listed = [f"unet/{name}" for name in files]
    others = ["vae/diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors", "unet/config.json"]
    assert choose(listed + others, folder="unet") == tuple(listed[number] for number in chosen)


def test_the_variants_of_a_folder() -> None:
    files = ["unet/model.fp16.safetensors", "unet/model.safetensors", "unet/model.non_ema.bin", "vae/model.bf16.bin"]
    assert variants_of(files, folder="unet") == {"fp16", "non_ema"}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["diffusion_pytorch_model.non_ema.bin", "config.json"], "holds no weights"),
        (["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"], r"\[2\] of 3 are missing"),
        (["model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors"], "several sets"),
    ],
)
def test_an_incomplete_folder_is_refused_by_name(files: list[str], sentence: str) -> None:
    with pytest.raises(BadWeights, match=sentence) as refused:
        choose([f"text_encoder/{name}" for name in files], folder="text_encoder")
    assert "text_encoder" in refused.value.message
    assert refused.value.hint


def test_what_make_source_writes_is_chosen(tmp_path: Path) -> None:
    for number, layout in enumerate([Layout(), Layout(variant=True, shards=3), Layout(dtype="F32", shards=2)]):
        folder = make_source(tmp_path / str(number), "sd15", layout=layout)
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        assert len(choose(files, folder="unet")) == layout.shards
        for part in components("sd15", tiny=True):
            assert choose(files, folder=part.folder)
