"""Names of single-file checkpoints (LDM's, "original" ones) ↔ names of diffusers and transformers.

A single file holds all networks of a model, each below a prefix, under the names of the code that they were
trained with. Here those names are read into the ones that a diffusers folder has; the fused query, key and value
of OpenCLIP become three, each a part of the same bytes. Nothing is copied: every tensor stays where it lies.

Facts: the modules of CompVis/latent-diffusion and Stability-AI/generative-models, and of open_clip's
TextTransformer; diffusers' `loaders/single_file_utils.py` maps the same names and is the oracle of the tests.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np

from hubpub.checkpoints.tensors import DTYPES, Tensor

UNET: Final = "model.diffusion_model."
VAE: Final = "first_stage_model."
# The text encoders: Stable Diffusion 1 and XL's first (transformers' names), 2 and XL's second (OpenCLIP's names).
CLIP: Final = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP: Final = ("cond_stage_model.model.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model.")

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OPEN_CLIP = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def component_tensors(tensors: Mapping[str, Tensor], component: str, prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix` under the names that the component's folder of a diffusers repo gives them."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if component == "unet":
        names = unet_names(own)
        return {names.get(name, name): tensor for name, tensor in own.items()}
    if component == "vae":
        names = vae_names(own)
        return {names.get(name, name): tensor for name, tensor in own.items()}
    if prefix in OPEN_CLIP:
        return dict(_open_clip(own))
    return own


# -- UNet ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Levels:
    """How many ResNet blocks each level has, on the way down and up."""

    down: tuple[int, ...]
    up: tuple[int, ...]


def unet_names(names: Iterable[str]) -> dict[str, str]:
    """LDM's name of each of a UNet's tensors (without the file's prefix) → diffusers' name; others are left out.

    >>> unet_names(["input_blocks.0.0.weight", "input_blocks.1.0.in_layers.0.weight"])["input_blocks.0.0.weight"]
    'conv_in.weight'
    """
    names = list(names)
    prefixes = _unet_prefixes(_levels_of_ldm(names))
    return {name: new for name in names if (new := _renamed(name, prefixes)) is not None}


def unet_modules(modules: Iterable[str]) -> dict[str, str]:
    """diffusers' name of each of a UNet's modules → LDM's; the modules must be those of a whole UNet.

    >>> unet_modules(["conv_in", "down_blocks.0.resnets.0.conv1"])["conv_in"]
    'input_blocks.0.0'
    """
    modules = list(modules)
    levels = _levels_of_diffusers(modules)
    back: dict[str, str] = {}
    for ldm, diffusers in _unet_prefixes(levels).items():
        # The upsampler comes after the attention where there is one.
        if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", diffusers):
            attends = any(name.startswith(f"up_blocks.{match[1]}.attentions.") for name in modules)
            if ldm.endswith(".1.conv") is attends:
                continue
        back[diffusers] = ldm
    resnet = {new: old for old, new in _RESNET.items()}
    named = {}
    for module in modules:
        prefix = _longest(module, back)
        if prefix is None:
            continue
        rest = module[len(prefix) + 1 :]
        if ".resnets." in prefix:
            rest = resnet.get(rest, rest)
        named[module] = f"{back[prefix]}.{rest}" if rest else back[prefix]
    return named


def _levels_of_ldm(names: Collection[str]) -> _Levels:
    """Levels end with a downsampler (input_blocks.N.0.op), and with an upsampler (output_blocks.N.1.conv or .2)."""
    inputs: set[int] = set()
    outputs: set[int] = set()
    downs: set[int] = set()
    ups: set[int] = set()
    for name in names:
        if match := re.match(r"input_blocks\.(\d{1,4})\.(0\.op\.)?", name):
            (downs if match[2] else inputs).add(int(match[1]))
        elif match := re.match(r"output_blocks\.(\d{1,4})\.(\d\.conv\.)?", name):
            outputs.add(int(match[1]))
            if match[2]:
                ups.add(int(match[1]))
    down, count = [], 0
    for number in range(1, max(inputs | downs, default=0) + 1):
        if number in downs:
            down.append(count)
            count = 0
        else:
            count += 1
    up, so_far = [], 0
    for number in range(max(outputs, default=-1) + 1):
        so_far += 1
        if number in ups:
            up.append(so_far)
            so_far = 0
    return _Levels(down=(*down, count), up=(*up, so_far))


def _levels_of_diffusers(modules: Collection[str]) -> _Levels:
    def counts(way: str) -> tuple[int, ...]:
        numbers: dict[int, int] = {}
        for module in modules:
            if match := re.match(way + r"_blocks\.(\d{1,4})\.resnets\.(\d{1,4})\.", module):
                level, block = int(match[1]), int(match[2])
                numbers[level] = max(numbers.get(level, 0), block + 1)
        return tuple(numbers.get(level, 0) for level in range(max(numbers, default=-1) + 1))

    return _Levels(down=counts("down"), up=counts("up"))


@cache
def _unet_prefixes(levels: _Levels) -> dict[str, str]:
    """LDM's name of each block → diffusers'."""
    prefixes = dict(_UNET_ENDS)
    number = 1
    for level, blocks in enumerate(levels.down):
        for block in range(blocks):
            prefixes[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{block}"
            prefixes[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{block}"
            number += 1
        prefixes[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        number += 1
    number = 0
    for level, blocks in enumerate(levels.up):
        for block in range(blocks):
            prefixes[f"output_blocks.{number}.0"] = f"up_blocks.{level}.resnets.{block}"
            prefixes[f"output_blocks.{number}.1"] = f"up_blocks.{level}.attentions.{block}"
            number += 1
        for place in (1, 2):
            prefixes[f"output_blocks.{number - 1}.{place}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return prefixes


def _renamed(name: str, prefixes: Mapping[str, str]) -> str | None:
    prefix = _longest(name, prefixes)
    if prefix is None:
        return None
    new, rest = prefixes[prefix], name[len(prefix) + 1 :]
    if ".resnets." in new:
        for old, inner in _RESNET.items():
            if rest.startswith(f"{old}."):
                rest = inner + rest[len(old) :]
                break
    return f"{new}.{rest}"


def _longest(name: str, prefixes: Mapping[str, str]) -> str | None:
    """The longest of the prefixes that ends at a dot of the name, or is the name."""
    end = len(name)
    while end > 0:
        if name[:end] in prefixes:
            return name[:end]
        end = name.rfind(".", 0, end)
    return None


# -- VAE -------------------------------------------------------------------------------------------------------


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """LDM's name of each of a VAE's tensors (without the file's prefix) → diffusers' name.

    >>> vae_names(["encoder.down.1.block.0.nin_shortcut.weight"])["encoder.down.1.block.0.nin_shortcut.weight"]
    'encoder.down_blocks.1.resnets.0.conv_shortcut.weight'
    """
    names = list(names)
    levels = [int(match[1]) for name in names if (match := re.match(r"decoder\.up\.(\d{1,4})\.", name))]
    last = max(levels, default=0)
    return {name: _vae_name(name, last) for name in names}


def _vae_name(name: str, last: int) -> str:
    name = name.replace(".nin_shortcut.", ".conv_shortcut.").replace(".norm_out.", ".conv_norm_out.")
    name = re.sub(r"\.mid\.block_([12])\.", lambda match: f".mid_block.resnets.{int(match[1]) - 1}.", name)
    if match := re.fullmatch(r"(.*\.)mid\.attn_1\.(\w+)\.(weight|bias)", name):
        return f"{match[1]}mid_block.attentions.0.{_VAE_ATTENTION.get(match[2], match[2])}.{match[3]}"
    name = re.sub(r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", name)
    name = re.sub(r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", name)
    if match := re.match(r"decoder\.up\.(\d{1,4})\.(block|upsample)\.", name):
        inner = {"block": "resnets", "upsample": "upsamplers.0"}[match[2]]
        return f"decoder.up_blocks.{last - int(match[1])}.{inner}.{name[match.end() :]}"
    return name


# -- OpenCLIP --------------------------------------------------------------------------------------------------


def _open_clip(tensors: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
            thirds = _thirds(tensor)
            for part, third in zip(_FUSED, thirds, strict=False):
                yield f"text_model.encoder.layers.{match[1]}.{part}.{match[2]}", third
            if not thirds:
                yield name, tensor
        elif match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)", name):
            inner = _OPEN_CLIP_LAYER.get(match[2], match[2])
            yield f"text_model.encoder.layers.{match[1]}.{inner}.{match[3]}", tensor
        elif name == "text_projection" and len(tensor.shape) == 2:
            yield "text_projection.weight", _transposed(tensor)
        else:
            first, dot, rest = name.partition(".")
            yield f"{_OPEN_CLIP.get(first, first)}{dot}{rest}", tensor


def _thirds(tensor: Tensor) -> list[Tensor]:
    """Query, key and value of a fused tensor: each a third of its rows; nothing where they cannot be split so."""
    if not tensor.shape or tensor.shape[0] % 3:
        return []
    rows = tensor.shape[0] // 3
    step = tensor.strides[0] if tensor.strides else int(np.prod(tensor.shape[1:], dtype=np.int64))
    size = np.dtype(DTYPES[tensor.dtype]).itemsize
    return [
        replace(tensor, shape=(rows, *tensor.shape[1:]), start=tensor.start + part * rows * step * size)
        for part in range(3)
    ]


def _transposed(tensor: Tensor) -> Tensor:
    rows, columns = tensor.shape
    row, column = tensor.strides or (columns, 1)
    return replace(tensor, shape=(columns, rows), strides=(column, row))
