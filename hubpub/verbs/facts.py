"""What the sources of a config say of themselves: which there are, opened, and read as far as planning needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hubpub.architectures import single_file
from hubpub.architectures.component import CONTROLNET, LORA, MODEL, REFINER, VAE
from hubpub.architectures.few_steps import few_steps
from hubpub.checkpoints import TensorInfo
from hubpub.checkpoints.weights import Header
from hubpub.errors import ConfigError, UnknownArchitecture
from hubpub.plan.config import Config
from hubpub.plan.parts import split_scale
from hubpub.sources import source as sources
from hubpub.sources.metadata import CONFIG, MODEL_INDEX, Facts, card_facts, read_facts, read_object
from hubpub.sources.resolve import Opened, Progress, open_source
from hubpub.sources.source import WEIGHT_FILES, Source
from hubpub.verbs.session import Session

# Names that diffusers and PEFT give to the file of a LoRA; one of them is meant where a repo has several files.
_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.bin")
# Beside a LoRA of PEFT: alpha, rank, and settings that change what is merged.
_PEFT_CONFIG = "adapter_config.json"
_PEFT_OTHERS = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern")
_SPDX = {"creativeml open rail-m": "creativeml-openrail-m", "creativeml openrail-m": "creativeml-openrail-m"}


def named_sources(config: Config) -> dict[str, Source]:
    """The sources of a config by their names in the plan: model, refiner, vae, controlnet, controlnet/2, lora …"""
    named = {MODEL: sources.parse(config.source, name=config.name, revision=config.revision)}
    if config.refiner:
        named[REFINER] = sources.parse(config.refiner)
    if config.vae:
        named[VAE] = sources.parse(config.vae)
    for role, texts in ((CONTROLNET, config.controlnet), (LORA, [split_scale(text)[0] for text in config.lora])):
        for number, text in enumerate(texts, 1):
            named[role if number == 1 else f"{role}/{number}"] = sources.parse(text)
    return named


def look(config: Config, session: Session) -> dict[str, Opened]:
    """A config's sources, opened, by their names in the plan."""
    return {
        name: open_source(
            source, digests=session.store.digests, clones=session.store.root / "clones", hub=lambda: session.source_hub
        )
        for name, source in named_sources(config).items()
    }


def read_sources(config: Config, opened: Mapping[str, Opened], progress: Progress | None = None) -> dict[str, Facts]:
    """What each source says of itself. The model's VAE is the one of `--vae`, where that is given.

    Raises UnknownArchitecture, SourceNotFound, BadWeights; reads small files and headers only.
    """
    facts = {MODEL: facts_of(opened[MODEL], prediction_type=config.prediction_type, progress=progress)}
    for name, one in opened.items():
        match name.partition("/")[0]:
            case "model":
                pass
            case "vae":
                facts[name] = _vae(one, xl="text_encoder_2" in facts[MODEL].configs, progress=progress)
            case "lora":
                facts[name] = _lora(one, progress)
            case _:
                facts[name] = facts_of(one, progress=progress)
    for name in facts:
        if name.partition("/")[0] == LORA:
            driven = few_steps(f"{opened[name].source.name}/{facts[name].weights}")
            if driven is not None:
                scheduler = {**facts[MODEL].scheduler, **driven.scheduler}
                facts[MODEL] = replace(facts[MODEL], scheduler=scheduler, steps=driven.steps, guidance=driven.guidance)
    if VAE in facts:
        configs = {**facts[MODEL].configs, "vae": facts[VAE].configs["vae"]}
        facts[MODEL] = replace(facts[MODEL], configs=configs)
    return facts


def facts_of(opened: Opened, *, prediction_type: str | None = None, progress: Progress | None = None) -> Facts:
    """What a model says of itself: a diffusers folder, or one file that holds all of it."""
    file = opened.source.file or _only_file(opened)
    if not file:
        facts = read_facts(opened.read, name=title(opened))
        if prediction_type is not None:
            facts = replace(facts, scheduler={**facts.scheduler, "prediction_type": prediction_type})
        return facts
    header = opened.header(file, progress)
    described = single_file.describe(header.tensors, header.metadata, name=file, prediction_type=prediction_type)
    return Facts(
        model_index=described.model_index,
        configs=described.configs,
        scheduler=described.scheduler,
        prefixes=described.prefixes,
        pads=described.pads,
        **_of_file(opened, file, header),
    )


def title(opened: Opened) -> str:
    """A source in sentences."""
    source = opened.source
    where = source.location if source.kind != "folder" else f"The folder {source.location}"
    return f"{source.file} of {source.location}" if source.file else where


def _vae(opened: Opened, *, xl: bool, progress: Progress | None) -> Facts:
    """A VAE: a repo of its own, the one of a whole model, or a single file."""
    if not opened.source.file:
        for folder in ("", "vae"):
            path = f"{folder}/{CONFIG}".removeprefix("/")
            data = opened.read(path)
            if data is None:
                continue
            config = read_object(data, path)
            if config.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
                raise UnknownArchitecture(
                    f"The VAE {opened.source.name} is a {config['_class_name']}.", hint="--vae takes an AutoencoderKL."
                )
            card = card_facts(opened.read("README.md") or b"")
            return Facts(model_index={}, configs={"vae": config}, folders={"vae": folder}, **card)
    file = opened.source.file or _only_file(opened)
    if not file:
        raise UnknownArchitecture(
            f"{title(opened)} holds no VAE: no config.json, no vae/config.json and no single weight file.",
            hint="--vae takes a folder, a repo or a weight file.",
        )
    header = opened.header(file, progress)
    config, prefix = single_file.describe_vae(header.tensors, name=file, xl=xl)
    return Facts(model_index={}, configs={"vae": config}, prefixes={"vae": prefix}, **_of_file(opened, file, header))


def _lora(opened: Opened, progress: Progress | None) -> Facts:
    """A LoRA: one file, named or alone in its folder or repo, or the one that diffusers' loader takes."""
    paths = set(opened.paths())
    file = opened.source.file or next((name for name in _LORA_FILES if name in paths), "") or _only_file(opened)
    if not file:
        raise UnknownArchitecture(
            f"{title(opened)} holds no LoRA: no weight file in its top folder.",
            hint="--lora takes a file, or a folder or repo that holds one.",
        )
    beside = f"{file.rpartition('/')[0]}/{_PEFT_CONFIG}".removeprefix("/")
    data = opened.read(beside)
    said = read_object(data, beside) if data is not None else {}
    if said.get("lora_alpha") != said.get("r") or any(said.get(key) for key in _PEFT_OTHERS):
        raise UnknownArchitecture(
            f"{title(opened)} has a {_PEFT_CONFIG} with a scale of its own, which hubpub does not read yet.",
            hint="Save the LoRA with diffusers' save_lora_weights, which keeps its settings in the file.",
        )
    return Facts(model_index={}, configs={}, **_of_file(opened, file, opened.header(file, progress)))


def _of_file(opened: Opened, file: str, header: Header) -> dict[str, Any]:
    """What Facts say of a single file: its tensors, its card, and what its header says of title, author and licence."""
    card = card_facts(opened.read("README.md") or b"")
    front = {**_of_header(header.metadata), **card["card"]}
    tensors = {name: TensorInfo(shape=one.shape, dtype=one.dtype) for name, one in header.tensors.items()}
    return {**card, "card": front, "weights": file, "tensors": tensors, "header": header.metadata}


def _of_header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The licence in a header of the ModelSpec (https://github.com/Stability-AI/ModelSpec), as front matter has it."""
    text = metadata.get("modelspec.license", "").strip()
    if not text:
        return {}
    known = _SPDX.get(text.lower(), text.lower())
    if known.replace("-", "").replace(".", "").replace("+", "").isalnum():
        return {"license": known}
    return {"license": "other", "license_name": " ".join(text.split())[:100]}


def _only_file(opened: Opened) -> str:
    """The one weight file in the top folder of a source that is no diffusers folder; "" where there is none."""
    paths = opened.paths()
    if MODEL_INDEX in paths or CONFIG in paths:
        return ""
    top = [path for path in paths if "/" not in path and path.endswith(WEIGHT_FILES)]
    safe = [path for path in top if path.endswith(".safetensors")]
    if len(safe) == 1 and {_stem(path) for path in top} == {_stem(safe[0])}:
        return safe[0]
    if len(top) > 1:
        raise ConfigError(
            f"{title(opened)} holds {len(top)} weight files: {_some(top)}.",
            hint=f"Name one of them: {_address(opened.source, top[0])}.",
        )
    return top[0] if top else ""


def _address(source: Source, file: str) -> str:
    match source.kind:
        case "hub":
            return f"hf:{source.location}/{file}"
        case "git":
            return f"git+{source.location}#{file}"
        case "folder":
            return f"{source.location}/{file}"


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
