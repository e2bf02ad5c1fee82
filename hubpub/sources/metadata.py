"""Metadata of a source, read from its small files: configs, scheduler, card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hubpub.checkpoints import TensorInfo
from hubpub.errors import SourceNotFound, UnknownArchitecture
from hubpub.files.front_matter import load

MODEL_INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler/scheduler_config.json"
# As the keys of a model_index.json that name a folder.
_FOLDER = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
# Cards are untrusted: only this many bytes of one are read.
_MAX_CARD = 1 << 20
_STEPS = re.compile(r"num_inference_steps\s*=\s*(\d{1,4})\b")
_GUIDANCE = re.compile(r"guidance_scale\s*=\s*(\d{1,3}(?:\.\d{1,4})?)\b")
_MOST_STEPS, _MOST_GUIDANCE = 200, 50.0
_MAX_NAME = 100  # letters of a title or an author


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A source's model_index.json, config.json files by folder, scheduler config, and the card's front matter."""

    model_index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""  # path of the single file that holds all weights; "" for a folder with one for each component
    prefixes: Mapping[str, str] = field(default_factory=dict)  # of the same: component → prefix of its names
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)  # of a single file
    header: Mapping[str, str] = field(default_factory=dict)  # of a single file: what it says of itself
    pads: Mapping[str, str] = field(default_factory=dict)  # text encoder → the token that its tokenizer pads with
    folders: Mapping[str, str] = field(default_factory=dict)  # component folder → where it is, if not there
    steps: int | None = None  # that the card's example draws with
    guidance: float | None = None  # of the same; 0 and 1 mean none

    @property
    def title(self) -> str | None:
        """What the header of a single file calls the model (ModelSpec)."""
        return _plain(self.header.get("modelspec.title"))

    @property
    def author(self) -> str | None:
        """Whom the header of a single file names as its author (ModelSpec)."""
        return _plain(self.header.get("modelspec.author"))

    @property
    def prediction_type(self) -> str:
        """The UNet's prediction type, `epsilon` or `v_prediction`; apps need it."""
        return str(self.scheduler.get("prediction_type") or "epsilon")

    @property
    def scheduler_name(self) -> str:
        """The source's scheduler class without the suffix `Scheduler`, such as `PNDM`."""
        listed = self.model_index.get("scheduler")
        name = self.scheduler.get("_class_name") or (listed[1] if isinstance(listed, list) and len(listed) == 2 else "")
        return str(name or "").removesuffix("Scheduler")

    @property
    def scaling_factor(self) -> float:
        """The factor by which latents are divided before decoding. Raises UnknownArchitecture for an invalid one."""
        factor = self.configs.get("vae", {}).get("scaling_factor", 0.18215)
        if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 < factor < 1e6:
            raise UnknownArchitecture(f"The VAE's config.json has scaling_factor = {factor!r}, not a positive number.")
        return float(factor)


def read_facts(read: Callable[[str], bytes | None], *, name: str) -> Facts:
    """The facts of a source. `read(path)` returns a file's bytes, or None if the file is missing.

    A ControlNet's repo is one model without a model_index.json: its config.json, in the top folder, names the class.
    Raises UnknownArchitecture where there is neither, and SourceNotFound for damaged JSON files.
    """
    card = read("README.md") or b""
    index = read(MODEL_INDEX)
    if index is None and (alone := read(CONFIG)) is not None:
        config = read_object(alone, CONFIG)
        return Facts(model_index={"_class_name": config.get("_class_name")}, configs={"": config}, **card_facts(card))
    if index is None:
        raise UnknownArchitecture(
            f"{name} is not a diffusers repo: it has no {MODEL_INDEX}.",
            hint="A source is a diffusers folder, or one weight file that holds the whole model.",
        )
    model_index = read_object(index, MODEL_INDEX)
    configs = {}
    for folder in component_folders(model_index):
        data = read(f"{folder}/config.json")
        if data is not None:
            configs[folder] = read_object(data, f"{folder}/config.json")
    scheduler = read(SCHEDULER)
    return Facts(
        model_index=model_index,
        configs=configs,
        scheduler=read_object(scheduler, SCHEDULER) if scheduler is not None else {},
        pads=dict(_pads(read)),
        **card_facts(card),
    )


def card_facts(card: bytes) -> dict[str, Any]:
    """Of Facts what a card says: its front matter, and the settings in its first example."""
    return {"card": front_matter(card), **_drawn_with(card[:_MAX_CARD].decode("utf-8", "replace"))}


def _drawn_with(text: str) -> dict[str, Any]:
    """The steps and the guidance that a card's first example passes to diffusers' pipeline, where both make sense.

    >>> _drawn_with("pipe(prompt, num_inference_steps=1, guidance_scale=0.0)")
    {'steps': 1, 'guidance': 0.0}
    """
    named: dict[str, Any] = {}
    if (steps := _STEPS.search(text)) and 0 < int(steps[1]) <= _MOST_STEPS:
        named["steps"] = int(steps[1])
    if (guidance := _GUIDANCE.search(text)) and float(guidance[1]) <= _MOST_GUIDANCE:
        named["guidance"] = float(guidance[1])
    return named


def _plain(text: str | None) -> str | None:
    """A name of others without what Markdown, HTML or a terminal would read as more than text."""
    kept = "".join(letter for letter in text or "" if letter.isalnum() or letter in " .,-'()&+:")
    return " ".join(kept.split())[:_MAX_NAME] or None


def _pads(read: Callable[[str], bytes | None]) -> Iterator[tuple[str, str]]:
    """The token that each tokenizer pads with: a text, or a table with its content."""
    for encoder, folder in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            data = read(f"{folder}/{name}")
            token = read_object(data, f"{folder}/{name}").get("pad_token") if data is not None else None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                yield encoder, token
                break


def component_folders(model_index: Mapping[str, Any]) -> tuple[str, ...]:
    """The folders that a model_index.json names: keys with a library and a class, which diffusers loads."""
    return tuple(
        key
        for key, value in model_index.items()
        if _FOLDER.fullmatch(key) and isinstance(value, list | tuple) and len(value) == 2 and value[1] is not None
    )


def front_matter(card: bytes) -> dict[str, Any]:
    """The YAML between the first two `---` lines of a card; empty if there is none or it cannot be read."""
    text = card[:_MAX_CARD].decode("utf-8", "replace").replace("\r\n", "\n").lstrip("\ufeff")
    if not text.startswith("---\n"):
        return {}
    head, marker, _ = text[4:].partition("\n---")
    if not marker:
        return {}
    try:
        return load(head)
    except ValueError:
        return {}


def read_object(data: bytes, path: str) -> dict[str, Any]:
    """The JSON object in a source's file. Raises SourceNotFound, naming the file."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceNotFound(
            f"The source's {path} is not JSON: it is a git-LFS pointer, an HTML page, or damaged.",
            hint="Download the source again.",
        ) from error
    if not isinstance(value, dict):
        raise SourceNotFound(f"The source's {path} is not a JSON object.", hint="Download the source again.")
    return value
