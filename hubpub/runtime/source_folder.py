"""A diffusers folder of a source that is none: a single file, a model with LoRAs or with another VAE.

Only pictures need it: diffusers then draws with the very tensors that a release is made of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hubpub.checkpoints import Checkpoint, open_checkpoint
from hubpub.files.copies import clone


def write_folder(folder: Path, described: Mapping[str, Any], inputs: Mapping[str, Path], tokenizer: Path) -> Path:
    """Write model_index.json, configs, scheduler, tokenizers and fp16 weights; returns `folder`.

    `described` has `model_index`, `scheduler`, `pads` (text encoder → token), and `components`: folder → `config` and
    `checkpoint` (what open_checkpoint takes); its inputs are `<folder>/<name>` of `inputs`.
    """
    folder.mkdir(parents=True)
    _json(folder / "model_index.json", described["model_index"])
    (folder / "scheduler").mkdir()
    _json(folder / "scheduler" / "scheduler_config.json", described["scheduler"])
    for name, one in described["components"].items():
        (folder / name).mkdir()
        _json(folder / name / "config.json", one["config"])
        own = {key.removeprefix(f"{name}/"): path for key, path in inputs.items() if key.startswith(f"{name}/")}
        stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
        with open_checkpoint(one["checkpoint"], own) as checkpoint:
            save_file(_arrays(checkpoint), folder / name / f"{stem}.safetensors", metadata={"format": "pt"})
        if name.startswith("text_encoder"):
            _write_tokenizer(folder / name.replace("text_encoder", "tokenizer"), tokenizer, described["pads"].get(name))
    return folder


def _arrays(checkpoint: Checkpoint) -> dict[str, Any]:
    """All floating tensors; single files hold linear layers of the VAE's attention as 1×1 convolutions."""
    arrays = {}
    for name, info in checkpoint.tensors().items():
        if info.dtype in ("F16", "BF16", "F32", "F64"):
            values = np.ascontiguousarray(checkpoint.float16(name))
            if "mid_block.attentions" in name and values.shape[2:] == (1, 1) and ".to_" in name:
                values = values.reshape(values.shape[:2])
            arrays[name] = values
    return arrays


def _write_tokenizer(folder: Path, tokenizer: Path, pad: str | None) -> None:
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        clone(tokenizer / name, folder / name)
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": pad or end, "unk_token": end}
    _json(folder / "special_tokens_map.json", special)
    _json(folder / "tokenizer_config.json", special | {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
