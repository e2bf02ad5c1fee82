"""A diffusers folder → one file as LDM's code writes it: the inverse of what hubpub reads, for tests and benchmarks.

diffusers' from_single_file reads these files back, which is the test of this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from hubpub.checkpoints.ldm import unet_modules

Arrays = dict[str, npt.NDArray[Any]]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_single(
    source: Path, path: Path, *, metadata: Mapping[str, str] | None = None, more: Arrays | None = None
) -> Path:
    """Write the components of a diffusers folder into one file; `.safetensors`, or `.ckpt` as torch.save writes it."""
    arrays = single_arrays(source) | (more or {})
    if path.suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata=metadata)
    else:
        import torch

        state = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        torch.save({"state_dict": state, "global_step": 1000, "epoch": 3}, path)
    return path


def single_arrays(source: Path) -> Arrays:
    """The tensors of a diffusers folder under the names of a single file."""
    places = [path.parent for path in source.glob("*/config.json")]
    configs = {place.name: json.loads((place / "config.json").read_bytes()) for place in places}
    return renamed({place.name: _weights(place) for place in places}, configs)


def renamed(folders: Mapping[str, Arrays], configs: Mapping[str, Mapping[str, Any]]) -> Arrays:
    """Each component's tensors under the names of a single file."""
    arrays: Arrays = {}
    unet = folders["unet"]
    modules = unet_modules(dict.fromkeys(name.rpartition(".")[0] for name in unet))
    for name, array in unet.items():
        module, _, end = name.rpartition(".")
        arrays[f"{UNET}{modules[module]}.{end}"] = array
    levels = len(configs["vae"]["block_out_channels"])
    arrays |= {f"{VAE}{_vae_name(name, levels)}": array for name, array in folders["vae"].items()}
    for folder in ("text_encoder", "text_encoder_2"):
        if folder in folders:
            config = configs[folder]
            xl = "text_encoder_2" in folders
            arrays |= _text(folders[folder], folder, config, xl=xl, alone="text_encoder" not in folders)
    return arrays


def _weights(folder: Path) -> Arrays:
    found: Arrays = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def _text(arrays: Arrays, folder: str, config: Mapping[str, Any], *, xl: bool, alone: bool) -> Arrays:
    if config["hidden_act"] == "quick_gelu":
        prefix = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
        return {prefix + name: array for name, array in arrays.items()}
    prefix = f"conditioner.embedders.{0 if alone else 1}.model." if xl else "cond_stage_model.model."
    named = dict(_open_clip(arrays))
    if not xl:  # the last layer, which Stable Diffusion 2 does not use
        last = config["num_hidden_layers"]
        beginning = f"transformer.resblocks.{last - 1}."
        named |= {
            name.replace(beginning, f"transformer.resblocks.{last}."): array
            for name, array in named.items()
            if name.startswith(beginning)
        }
    return {prefix + name: array for name, array in named.items()}


def _open_clip(arrays: Arrays) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    held = {name.removeprefix("text_model."): array for name, array in arrays.items()}
    for name, array in held.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [held[f"encoder.layers.{match[1]}.self_attn.{one}_proj.{match[2]}"] for one in "qkv"]
            yield f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}", np.concatenate(parts)
        elif re.search(r"\.(k|v)_proj\.", name):
            continue
        elif match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name):
            yield f"transformer.resblocks.{match[1]}.{_LAYER[match[2]]}.{match[3]}", array
        elif name == "text_projection.weight":
            yield "text_projection", array.T
        elif name == "embeddings.position_embedding.weight":
            yield "positional_embedding", array
        elif name.startswith("final_layer_norm."):
            yield name.replace("final_layer_norm", "ln_final"), array
        else:
            yield name.replace("embeddings.token_embedding", "token_embedding"), array


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if match := re.fullmatch(r"(.*\.)mid_block\.attentions\.0\.(.+)\.(weight|bias)", name):
        return f"{match[1]}mid.attn_1.{_ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block", name)
    name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    if match := re.match(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers\.0)", name):
        inner = {"resnets": "block", "upsamplers.0": "upsample"}[match[2]]
        name = f"decoder.up.{levels - 1 - int(match[1])}.{inner}{name[match.end() :]}"
    return name
