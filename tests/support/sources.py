"""Diffusers sources with random weights, of true or toy size, written without torch.

Names and shapes follow from the component's config by the rules in source_shapes.py.
Values come from one seeded generator per tensor: conv and linear weights N(0, 1/sqrt(fan
in)), norms near 1, small biases. The same family, size and seed give the same numbers in
every layout.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.source_shapes import (
    Shapes,
    controlnet_shapes,
    safety_shapes,
    text_shapes,
    unet_shapes,
    vae_shapes,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the weights lie in the source's files."""

    dtype: str = "F16"  # F16, BF16 or F32
    kind: str = "safetensors"  # or bin
    variant: bool = False  # *.fp16.safetensors, whatever the dtype
    shards: int = 1
    legacy: bool = False  # names of 2022: query/key/value in the VAE, position_ids in the text encoder


@dataclass(frozen=True, kw_only=True)
class Component:
    """One folder of a source: what goes into config.json, and its tensors."""

    folder: str
    stem: str  # of the weight files
    config: Mapping[str, Any]
    shapes: Callable[[Mapping[str, Any]], Shapes]


def make_source(
    folder: Path,
    family: str,
    *,
    tiny: bool = True,
    layout: Layout | None = None,
    seed: int = 0,
    only: Sequence[str] = (),
    vocabulary: int | None = None,
) -> Path:
    """Write a whole source of FAMILIES[family] into `folder` (made if needed); returns `folder`.

    `only` restricts the component folders that get weights (benchmarks need just one);
    `vocabulary` is the number of tokens, where the family's toy one is too small.
    """
    layout = layout or Layout()
    parts = components(family, tiny=tiny)
    if vocabulary is not None:
        parts = tuple(
            replace(part, config={**part.config, "vocab_size": vocabulary}) if "vocab_size" in part.config else part
            for part in parts
        )
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        home = folder / part.folder
        home.mkdir(exist_ok=True)
        _json(home / "config.json", part.config)
        if only and part.folder not in only:
            continue
        _write_weights(home, part, layout, seed=seed)
    if family in CONTROLNETS:
        (folder / "README.md").write_text(_readme(family, tiny=tiny), encoding="utf-8")
    else:
        _write_rest(folder, family, parts, tiny=tiny)
    return folder


def components(family: str, *, tiny: bool) -> tuple[Component, ...]:
    """The weighted components of a family."""
    if family in CONTROLNETS:
        config = CONTROLNETS[family](tiny)
        return (Component(folder="", stem="diffusion_pytorch_model", config=config, shapes=controlnet_shapes),)
    unet, vae, text, safety = FAMILIES[family](tiny)
    parts = [
        Component(folder="unet", stem="diffusion_pytorch_model", config=unet, shapes=unet_shapes),
        Component(folder="vae", stem="diffusion_pytorch_model", config=vae, shapes=vae_shapes),
    ]
    for name, config in text.items():
        parts.append(Component(folder=name, stem="model", config=config, shapes=text_shapes))
    if safety:
        parts.append(Component(folder="safety_checker", stem="model", config=safety, shapes=safety_shapes))
    return tuple(parts)


# -- configs ---------------------------------------------------------------------------------------------------


def _unet(**special: Any) -> dict[str, Any]:
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.38.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    } | special


def _vae(**special: Any) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.38.0",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    } | special


def _text(**special: Any) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "torch_dtype": "float16",
        "vocab_size": 49408,
    } | special


def _safety(tiny: bool) -> dict[str, Any]:
    size = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    full = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    projection = 64 if tiny else 768
    return {
        "architectures": ["StableDiffusionSafetyChecker"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": projection,
        "text_config": {"model_type": "clip_text_model"},
        "torch_dtype": "float16",
        "vision_config": {
            "attention_dropout": 0.0,
            "hidden_act": "quick_gelu",
            "image_size": 224,
            "layer_norm_eps": 1e-05,
            "model_type": "clip_vision_model",
            "num_channels": 3,
            "patch_size": 32 if tiny else 14,
            "projection_dim": projection,
        }
        | (size if tiny else full),
    }


_TINY_UNET = {
    "block_out_channels": [32, 64, 64],
    "cross_attention_dim": 64,
    "down_block_types": ["CrossAttnDownBlock2D"] * 2 + ["DownBlock2D"],
    "layers_per_block": 1,
    "sample_size": 32,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 2,
}
_TINY_VAE = {"block_out_channels": [32, 32, 64, 64], "layers_per_block": 1, "sample_size": 256}
_TINY_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "projection_dim": 64,
    "vocab_size": 1024,
}

# UNet, VAE, text encoders by folder, safety checker
Configs = tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]], dict[str, Any] | None]


def _sd1(tiny: bool, **special: Any) -> Configs:
    unet = _unet(**((_TINY_UNET if tiny else {}) | special))
    text = {"text_encoder": _text(**(_TINY_TEXT if tiny else {}))}
    return unet, _vae(**(_TINY_VAE if tiny else {})), text, _safety(tiny)


def _sd2(tiny: bool, *, sample_size: int, upcast: bool) -> Configs:
    special = {"use_linear_projection": True, "dual_cross_attention": False, "num_class_embeds": None}
    if upcast:
        special["upcast_attention"] = True
    full = {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": sample_size}
    toy = _TINY_UNET | {"attention_head_dim": [2, 4, 4], "sample_size": sample_size // 2}
    vae = _TINY_VAE | {"sample_size": sample_size * 4} if tiny else {"sample_size": 768}
    big = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23}
    text = _TINY_TEXT if tiny else big | {"projection_dim": 512}
    return (
        _unet(**special, **(toy if tiny else full)),
        _vae(**vae),
        {"text_encoder": _text(hidden_act="gelu", **text)},
        None,
    )


def _sdxl(tiny: bool, **more: Any) -> Configs:
    special = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 32 if tiny else 256,
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "projection_class_embeddings_input_dim": 6 * 32 + 96 if tiny else 2816,
        "transformer_layers_per_block": [1, 1, 2] if tiny else [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "use_linear_projection": True,
    }
    full = {"block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "sample_size": 128}
    toy = {"block_out_channels": [32, 64, 64], "cross_attention_dim": 160, "sample_size": 64, "layers_per_block": 1}
    heads = {"attention_head_dim": [2, 4, 4] if tiny else [5, 10, 20]}
    vae = _vae(**(_TINY_VAE | {"sample_size": 512} if tiny else {"sample_size": 1024}), scaling_factor=0.13025)
    second = {"architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu"}
    big = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32}
    toy2 = _TINY_TEXT | {"hidden_size": 96, "intermediate_size": 192, "projection_dim": 96}
    texts = {
        "text_encoder": _text(**(_TINY_TEXT if tiny else {})),
        "text_encoder_2": _text(**second, **(toy2 if tiny else big | {"projection_dim": 1280})),
    }
    return _unet(**(special | heads | (toy if tiny else full) | more)), vae, texts, None


def _refiner(tiny: bool) -> Configs:
    full = {
        "block_out_channels": [384, 768, 1536, 1536],
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "projection_class_embeddings_input_dim": 2560,
        "transformer_layers_per_block": [4] * 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    }
    toy = {"cross_attention_dim": 96, "projection_class_embeddings_input_dim": 5 * 32 + 96}
    unet, vae, texts, _ = _sdxl(tiny, **(toy if tiny else full))
    return unet, vae, {"text_encoder_2": texts["text_encoder_2"]}, None


def _distilled_xl(tiny: bool) -> Configs:
    """As SSD-1B and Vega: fewer blocks in some layers, and a middle without attention."""
    return _sdxl(
        tiny,
        layers_per_block=2,
        mid_block_type="UNetMidBlock2D",
        transformer_layers_per_block=[0, [1, 2], [2, 1]],
        reverse_transformer_layers_per_block=[[2, 1, 1], [1, 1, 2], 0],
    )


def _controlnet(base: Configs) -> dict[str, Any]:
    """A ControlNet for a UNet: its way down, and the picture's own layers."""
    unet = base[0]
    left_out = {"_class_name", "center_input_sample", "out_channels", "sample_size", "up_block_types"}
    seen = [8, 16] if unet["block_out_channels"][0] < 320 else [16, 32, 96, 256]
    own = {
        "_class_name": "ControlNetModel",
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": seen + [32, 48][: 4 - len(seen)],
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }
    return {key: value for key, value in unet.items() if key not in left_out} | own


CONTROLNETS: Mapping[str, Callable[[bool], dict[str, Any]]] = {
    "controlnet-sd15": lambda tiny: _controlnet(_sd1(tiny)),
    "controlnet-sd21": lambda tiny: _controlnet(_sd2(tiny, sample_size=64, upcast=False)),
    "controlnet-sdxl": lambda tiny: _controlnet(_sdxl(tiny)),
}


FAMILIES: Mapping[str, Callable[[bool], Configs]] = {
    "sd15": _sd1,
    "sd15-inpaint": lambda tiny: _sd1(tiny, in_channels=9),
    "sd15-pix2pix": lambda tiny: _sd1(tiny, in_channels=8),
    "sd15-lcm": lambda tiny: _sd1(tiny, time_cond_proj_dim=32 if tiny else 256),
    "sd15-small": lambda tiny: _sd1(tiny, mid_block_type=None, layers_per_block=1),
    "sd21": lambda tiny: _sd2(tiny, sample_size=64, upcast=False),
    "sd21-768": lambda tiny: _sd2(tiny, sample_size=96, upcast=True),
    "sdxl": _sdxl,
    "sdxl-refiner": _refiner,
    "sdxl-small": _distilled_xl,
}


# -- values ----------------------------------------------------------------------------------------------------


def tensor(name: str, shape: tuple[int, ...], *, seed: int = 0) -> npt.NDArray[np.float32]:
    """The values of one tensor; they depend on name, shape and seed alone."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    values = np.random.Generator(np.random.SFC64(list(digest))).standard_normal(shape, np.float32)
    if name == "concept_embeds_weights" or name == "special_care_embeds_weights":
        return np.float32(0.2) + np.float32(0.01) * values  # thresholds that noise does not reach
    if name.endswith(".bias"):
        return np.float32(0.02) * values
    if len(shape) == 1 and name.endswith(".weight"):
        return np.float32(1) + np.float32(0.1) * values
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
    return values * np.float32(0.02 if "embedding.weight" in name else 1 / math.sqrt(fan_in))


def tensors(part: Component, *, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """All tensors of a component, before they are rounded to the layout's dtype."""
    return {name: tensor(name, shape, seed=seed) for name, shape in part.shapes(part.config).items()}


def _stored(values: npt.NDArray[np.float32], dtype: str) -> Array:
    if dtype == "F16":
        return values.astype(np.float16)
    if dtype == "BF16":  # round to nearest, ties to even, as bits
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values


def _stored_name(name: str, layout: Layout) -> str:
    if layout.legacy and ".attentions.0." in name and name.startswith(("encoder.mid", "decoder.mid")):
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{old}.")
    return name


# -- files -----------------------------------------------------------------------------------------------------


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_weights(home: Path, part: Component, layout: Layout, *, seed: int) -> None:
    names = dict(sorted(part.shapes(part.config).items()))
    stem = "pytorch_model" if layout.kind == "bin" and part.stem == "model" else part.stem
    suffix = (".fp16" if layout.variant else "") + "{shard}." + layout.kind
    if layout.shards == 1:
        _write_file(home / (stem + suffix.format(shard="")), names, part, layout, seed=seed)
        return
    items = list(names.items())
    total = sum(math.prod(shape) for shape in names.values())
    groups: list[Shapes] = [{} for _ in range(layout.shards)]
    done = 0
    for name, shape in items:
        groups[min(done * layout.shards // total, layout.shards - 1)][name] = shape
        done += math.prod(shape)
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = stem + suffix.format(shard=f"-{number:05}-of-{layout.shards:05}")
        _write_file(home / file, group, part, layout, seed=seed)
        weight_map |= {_stored_name(name, layout): file for name in group}
    size = 4 if layout.dtype == "F32" else 2
    index = f"{stem}.{layout.kind}.index{'.fp16' if layout.variant else ''}.json"
    _json(home / index, {"metadata": {"total_size": total * size}, "weight_map": weight_map})


def _write_file(path: Path, shapes: Shapes, part: Component, layout: Layout, *, seed: int) -> None:
    extra = {}
    if layout.legacy and part.folder == "text_encoder" and "text_model.embeddings.position_embedding.weight" in shapes:
        extra["text_model.embeddings.position_ids"] = np.arange(77, dtype=np.int64)[None]
    produced = _produced(shapes, layout.dtype, seed=seed)
    if layout.kind == "bin":
        _write_bin(path, {_stored_name(name, layout): value for name, value in produced}, extra, layout.dtype)
        return
    size = 4 if layout.dtype == "F32" else 2
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in extra.items():
        header[name] = {"dtype": "I64", "shape": values.shape, "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    for name, shape in shapes.items():
        start, end = end, end + size * math.prod(shape)
        header[_stored_name(name, layout)] = {"dtype": layout.dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in extra.values():
            file.write(values.data)
        for _, values in produced:
            file.write(values.data)


def _produced(shapes: Shapes, dtype: str, *, seed: int) -> Iterator[tuple[str, Array]]:
    """Name and stored values, in order; two threads, a few tensors ahead."""
    pending: list[Any] = []
    with ThreadPoolExecutor(2) as pool:
        for name, shape in shapes.items():
            pending.append((name, pool.submit(lambda n, s: _stored(tensor(n, s, seed=seed), dtype), name, shape)))
            if len(pending) > 3:
                first, future = pending.pop(0)
                yield first, future.result()
        for name, future in pending:
            yield name, future.result()


def _write_bin(path: Path, tensors: Mapping[str, Array], extra: Mapping[str, Array], dtype: str) -> None:
    import torch

    state = {name: torch.from_numpy(values) for name, values in extra.items()}
    for name, values in tensors.items():
        value = torch.from_numpy(values.view(np.int16) if dtype == "BF16" else values)
        state[name] = value.view(torch.bfloat16) if dtype == "BF16" else value
    torch.save(state, path)


def _write_rest(folder: Path, family: str, parts: Sequence[Component], *, tiny: bool) -> None:
    """Everything but components: model_index, scheduler, tokenizers, feature extractor, README."""
    xl = family.startswith("sdxl")
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "_diffusers_version": "0.38.0",
        "scheduler": ["diffusers", _scheduler(family)["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index["_class_name"] = _PIPELINES.get(family, index["_class_name"])
    if "refiner" in family:
        index |= {"text_encoder": [None, None], "tokenizer": [None, None], "requires_aesthetics_score": True}
    for part in parts:
        if part.folder.startswith("text_encoder"):
            tokenizer = part.folder.replace("text_encoder", "tokenizer")
            index[part.folder] = ["transformers", part.config["architectures"][0]]
            index[tokenizer] = ["transformers", "CLIPTokenizer"]
            pad = "!" if family.startswith("sd2") or tokenizer == "tokenizer_2" else None
            write_tokenizer(folder / tokenizer, part.config["vocab_size"], pad=pad)
    if not xl:
        safe = any(part.folder == "safety_checker" for part in parts)
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"] if safe else [None, None]
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
        index["requires_safety_checker"] = safe
        (folder / "feature_extractor").mkdir(exist_ok=True)
        _json(folder / "feature_extractor" / "preprocessor_config.json", _FEATURE_EXTRACTOR)
    _json(folder / "model_index.json", dict(sorted(index.items())))
    (folder / "scheduler").mkdir(exist_ok=True)
    _json(folder / "scheduler" / "scheduler_config.json", _scheduler(family))
    (folder / "README.md").write_text(_readme(family, tiny=tiny), encoding="utf-8")


_PIPELINES = {
    "sd15-inpaint": "StableDiffusionInpaintPipeline",
    "sd15-pix2pix": "StableDiffusionInstructPix2PixPipeline",
    "sd15-lcm": "LatentConsistencyModelPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
}


def _scheduler(family: str) -> dict[str, Any]:
    common = {
        "_diffusers_version": "0.38.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "trained_betas": None,
    }
    if family == "sd21-768":
        return {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"} | common
    if family == "sd15-lcm":
        special = {"original_inference_steps": 50, "timestep_scaling": 10.0}
        return {"_class_name": "LCMScheduler", "prediction_type": "epsilon"} | special | common
    if family.startswith("sdxl"):
        special = {"interpolation_type": "linear", "timestep_spacing": "leading", "use_karras_sigmas": False}
        return {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"} | special | common
    prediction = {"prediction_type": "epsilon"} if family.startswith("sd2") else {}
    return {"_class_name": "PNDMScheduler", "skip_prk_steps": True} | prediction | common


_FEATURE_EXTRACTOR = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


def write_tokenizer(folder: Path, vocab_size: int, *, pad: str | None = None) -> None:
    """A CLIP tokenizer with a made-up vocabulary of `vocab_size` entries (at least 515).

    Bytes first, then the same with `</w>`, then one entry per merge, then the two
    special tokens: the order of CLIP's own vocab.json. `pad` None pads with the end token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    single = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(rest))]
    merges = _merges(vocab_size - 2 * len(single) - 2)
    entries = single + [f"{token}</w>" for token in single] + ["".join(merge) for merge in merges]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    vocab = json.dumps({token: number for number, token in enumerate(entries)}, ensure_ascii=False)
    (folder / "vocab.json").write_text(vocab, encoding="utf-8")
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": pad or end, "unk_token": end}
    _json(folder / "special_tokens_map.json", special)
    more = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    _json(folder / "tokenizer_config.json", special | more | {"tokenizer_class": "CLIPTokenizer"})


def _merges(count: int) -> list[tuple[str, str]]:
    """Merges that are possible one after the other: letters to pairs, pairs and a letter to triples, and so on."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    found: list[tuple[str, str]] = []
    heads = list(letters)
    while len(found) < count:
        longer = [(head, letter) for head in heads for letter in letters]
        found += [(head, f"{letter}</w>") for head, letter in longer] + longer
        heads = [head + letter for head, letter in longer]
    return found[:count]


def _readme(family: str, *, tiny: bool) -> str:
    licence = "openrail++" if family.startswith(("sd2", "sdxl")) else "creativeml-openrail-m"
    size = "toy size" if tiny else "true size"
    return f"""---
license: {licence}
language:
- en
tags:
- stable-diffusion
- stable-diffusion-diffusers
- text-to-image
---

# {family}

A source of {size} with random weights, for tests and benchmarks. It makes noise, not pictures.
"""
