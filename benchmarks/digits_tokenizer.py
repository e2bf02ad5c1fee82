"""The tokenizer of the demo's model: CLIP's byte-pair encoding with a vocabulary of its own.

The format is CLIP's (A. Radford et al., 2021; byte symbols of GPT-2): 256 byte symbols, the same with the end-of-word
mark, one token per merge, then the start and the end token. The end token has the highest id, because CLIP's text
model finds the end of a prompt by the highest id in it.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
LENGTH = 77


def byte_symbols() -> list[str]:
    """One printable character per byte, in the order in which CLIP numbers them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def learn_merges(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first (ties by spelling), until every ASCII word is one token."""
    words: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        for word in re.findall(r"[a-z]+|[0-9]", text.lower()):
            words[(*word[:-1], word[-1] + END_OF_WORD)] += 1
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for parts, count in words.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += count
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for parts, count in words.items():
            merged[_merge(parts, best)] += count
        words = merged


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    index = 0
    while index < len(parts):
        if parts[index : index + 2] == pair:
            out.append(parts[index] + parts[index + 1])
            index += 2
        else:
            out.append(parts[index])
            index += 1
    return tuple(out)


def write(folder: Path, texts: Iterable[str]) -> int:
    """Write the four tokenizer files into `folder`; returns the size of the vocabulary."""
    merges = learn_merges(texts)
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols), *(a + b for a, b in merges), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    assert len(vocabulary) == len(tokens), "two merges spell the same token"
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    _json(folder / "special_tokens_map.json", special, indent=2)
    config = {
        "add_prefix_space": False,
        **special,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }
    _json(folder / "tokenizer_config.json", config, indent=2)
    return len(vocabulary)


def _json(path: Path, value: object, *, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
