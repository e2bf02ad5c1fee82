"""CLIP's tokenizer, from the two files that a release has of it, padded as apps pad."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubpub.errors import ToolMissing


class Tokenizer:
    """CLIP's tokenizer: text → token ids, padded."""

    def __init__(self, clip: Any, pad: int) -> None:
        self._clip, self._pad = clip, pad

    def __call__(self, text: str, *, length: int) -> list[int]:
        ids: list[int] = self._clip(text, max_length=length, truncation=True).input_ids
        return [*ids, *[self._pad] * (length - len(ids))]


def read_tokenizers(folder: Path, pads: Mapping[str, str] | None = None) -> dict[str, Tokenizer]:
    """The tokenizer of each text encoder; `pads` are the tokens that a source pads with, where they are known.

    A source has the second one's in a folder of its own beside `folder`. A release holds one pair of files: Apple's
    Swift package pads with the end token, and for the second encoder with "!", as the authors of XL do.
    """
    if pads is not None:
        return {
            "text_encoder": read_tokenizer(folder, pad=pads.get("text_encoder")),
            "text_encoder_2": read_tokenizer(folder, pad=pads.get("text_encoder_2", "!")),
        }
    second = folder.with_name("tokenizer_2")
    own = second.is_dir()
    return {
        "text_encoder": read_tokenizer(folder),
        "text_encoder_2": read_tokenizer(second) if own else read_tokenizer(folder, pad="!"),
    }


def read_tokenizer(folder: Path, *, pad: str | None = None) -> Tokenizer:
    """CLIP's tokenizer from vocab.json and merges.txt; padded with `pad`, or as special_tokens_map.json says."""
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise ToolMissing(
            "Drawing needs transformers.", hint="Install it with `pip install 'hubpub[numeric]'`."
        ) from error
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    end = max(vocab, key=lambda token: vocab[token])
    start = "<|startoftext|>" if "<|startoftext|>" in vocab else end
    clip = CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        bos_token=start,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    )
    return Tokenizer(clip, vocab.get(pad or _pad_token(folder / "special_tokens_map.json"), vocab[end]))


def _pad_token(path: Path) -> str | None:
    """The token that a source pads with: a text, or a table with its content."""
    if not path.is_file():
        return None
    tokens = json.loads(path.read_text(encoding="utf-8"))
    token = tokens.get("pad_token") if isinstance(tokens, dict) else None
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
