"""Writes the trained networks as a source repo of Stable Diffusion 1.x: fp16 safetensors, tokenizer, card, licence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from benchmarks import digits_data, digits_networks, digits_tokenizer

PARTS = {
    "feature_extractor": (None, None),
    "image_encoder": (None, None),
    "safety_checker": (None, None),
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def corpus() -> list[str]:
    """Every caption: what the tokenizer learns its words from."""
    return [text for digit in range(10) for text in digits_data.captions(digit)]


def write(folder: Path, *, vae: Any, unet: Any, text_encoder: Any) -> int:
    """Write the repo, in place of what its subfolders held; returns its size in bytes."""
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    index |= {name: list(part) for name, part in PARTS.items()}
    return write_parts(folder, {"vae": vae, "unet": unet, "text_encoder": text_encoder}, index)


def write_parts(folder: Path, networks: Mapping[str, Any], index: Mapping[str, Any]) -> int:
    """Write a repo of these networks, of what its index names as tokenizers, and of the noise schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizers = [name for name in index if name.startswith("tokenizer")]
    for name in (*networks, *tokenizers, "scheduler"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, network in networks.items():
        network.half().save_pretrained(folder / name, safe_serialization=True)
        network.float()
        for path in (folder / name).iterdir():
            path.chmod(0o644)
    digits_networks.scheduler().save_pretrained(folder / "scheduler")
    for name in tokenizers:
        digits_tokenizer.write(folder / name, corpus())
    whole = {**index, "_diffusers_version": diffusers.__version__}
    (folder / "model_index.json").write_text(json.dumps(dict(sorted(whole.items())), indent=2) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
