"""Parts: which sources a config names, and which components of them a release is made of. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hubpub import architectures
from hubpub.architectures import Architecture, Component
from hubpub.architectures.component import LORA, MODEL, VAE, Configs
from hubpub.checkpoints import choose
from hubpub.checkpoints.lora import read_lora
from hubpub.checkpoints.selection import passed_over
from hubpub.checkpoints.tokenizer import FILES as TOKENIZER_FILES
from hubpub.errors import ConfigError
from hubpub.plan.config import Config
from hubpub.plan.fits import check_adapters, check_chunks, check_controlnets, check_sources, check_vae, check_variant
from hubpub.plan.licences import licence_file
from hubpub.sources.metadata import MODEL_INDEX, Facts

_LARGEST_SCALE = 100.0
# What most models are drawn with (runtime.pictures says the same), and LCM's authors' number of steps.
_STEPS, _GUIDANCE, _DISTILLED_STEPS = 20, 7.5, 4


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The settings that a model is drawn with; `guidance_embedding` is built into a UNet that was distilled for one."""

    steps: int
    guidance: float
    guidance_embedding: float | None


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """Where a component's weights are: files in a folder of one of the plan's sources, and what to read of them."""

    source: str
    folder: str  # "" is the top
    names: tuple[str, ...]
    part: Mapping[str, str]  # of a single file: the component and the prefix of its tensors; else empty

    @property
    def paths(self) -> tuple[str, ...]:
        """The files as the source lists them."""
        return tuple(f"{self.folder}/{name}".removeprefix("/") for name in self.names)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA of the plan, and the scale at which it is merged."""

    source: str
    scale: float
    folders: frozenset[str]  # of the components that it changes


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a release is made of: a family, and components of one or more sources."""

    architecture: Architecture
    components: tuple[Component, ...]
    facts: Mapping[str, Facts]  # by the source's name in the plan
    names: Mapping[str, str]  # by the same: ORG/NAME
    cut: bool  # whether UNets are cut into chunks
    adapters: tuple[Adapter, ...] = ()
    weights_variant: str | None = None

    def pieces(self, component: Component) -> tuple[Component, ...]:
        """The component, or its chunks in its place."""
        if not (self.cut and component.chunks):
            return (component,)
        return tuple(chunk.of(component.origin.source) for chunk in component.chunks)

    def drawing(self, config: Config) -> Drawing:
        """With how many steps and which guidance this model draws: as asked for, as its card says, or as usual."""
        facts = self.facts[MODEL]
        main = self.architecture.component(self.architecture.main).read(self.configs(MODEL), config.model_dump())
        built_in = main.guidance_embedding
        steps = config.prompt_steps or facts.steps or (_DISTILLED_STEPS if built_in is not None else _STEPS)
        guidance = config.prompt_guidance if config.prompt_guidance is not None else facts.guidance
        if built_in is not None:
            guidance = built_in
        return Drawing(steps=steps, guidance=_GUIDANCE if guidance is None else guidance, guidance_embedding=built_in)

    def weight_files(self, component: Component, listed: Iterable[str]) -> WeightFiles:
        """A component's weight files among those that its source lists. Raises BadWeights where some are missing."""
        origin = component.origin
        facts = self.facts[origin.source]
        if facts.weights:
            folder, _, name = facts.weights.rpartition("/")
            part = {"component": origin.folder, "prefix": facts.prefixes[origin.folder]}
            return WeightFiles(source=origin.source, folder=folder, names=(name,), part=part)
        folder = facts.folders.get(origin.folder, origin.folder)
        paths = choose(listed, folder=folder, variant=self.weights_variant)
        names = tuple(path.removeprefix(f"{folder}/") if folder else path for path in paths)
        return WeightFiles(source=origin.source, folder=folder, names=names, part={})

    def adapters_of(self, component: Component) -> tuple[Adapter, ...]:
        """The LoRAs that change a component's weights: those of the model's own components."""
        if component.origin.source != MODEL:
            return ()
        return tuple(one for one in self.adapters if component.origin.folder in one.folders)

    @property
    def composed(self) -> bool:
        """Whether the model is more than a diffusers folder: a single file, or with LoRAs or another VAE."""
        return bool(self.facts[MODEL].weights or self.adapters or VAE in self.facts)

    @property
    def text_encoder(self) -> Component:
        """The component that reads the tokens of the tokenizer that apps get."""
        folder = str(self.architecture.tokenizer).replace("tokenizer", "text_encoder")
        return next(one for one in self.components if one.origin.folder == folder)

    @property
    def step(self) -> int:
        """What both sides of a latent must be multiples of, so that every UNet and ControlNet can halve them."""
        return max(
            architectures.halvings(component.config(self.configs(component.origin.source)))
            for component in self.components
        )

    def configs(self, source: str) -> Configs:
        """The config.json files that a component of this source depends on: its own, and what only the model has."""
        return {**self.facts[MODEL].configs, **self.facts[source].configs}


def parts_of(config: Config, facts: Mapping[str, Facts], names: Mapping[str, str]) -> Parts:
    """The architecture of the model, and the components that are to be made of all sources.

    `names` are the sources' ORG/NAME. Raises UnknownArchitecture, and ConfigError for a source or
    a setting that the architecture has no use for, or a ControlNet that does not fit: before any work.
    """
    model = facts[MODEL]
    architecture = architectures.detect(model.model_index, model.configs)
    chosen = architectures.components_of(
        architecture, model.model_index, switches=config.model_dump(), sources=tuple(facts)
    )
    check_sources(architecture, facts, names)
    if config.prompts and architecture.tokenizer is None:
        raise ConfigError(f"A {architecture.title} draws nothing by itself.", hint="Leave --prompt out.")
    if config.chunk_unet:
        check_chunks(architecture, config)
    parts = Parts(
        architecture=architecture,
        components=chosen,
        facts=facts,
        names=names,
        cut=config.chunk_unet,
        adapters=tuple(_adapters(config, facts)),
        weights_variant=config.weights_variant,
    )
    check_controlnets(parts)
    check_adapters(parts, config)
    check_vae(parts)
    return parts


def source_files(config: Config, parts: Parts, paths: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """By source, the files of `paths` that a plan reads: weights and tokenizer. BadWeights where some are missing."""
    listed = {name: tuple(found) for name, found in paths.items()}
    files: dict[str, set[str]] = {name: set() for name in listed}
    for component in parts.components:
        source = component.origin.source
        files[source] |= set(parts.weight_files(component, listed[source]).paths)
    for adapter in parts.adapters:
        files[adapter.source].add(parts.facts[adapter.source].weights)
    if bundles(config) or config.prompts:
        files[MODEL] |= set(tokenizer_files(parts, listed[MODEL]))
    for name, facts in parts.facts.items():
        path = licence_file(facts.card)
        files[name] |= {path} & set(listed[name]) if path else set()
    if config.weights_variant:
        check_variant(config.weights_variant, parts, listed)
    if config.prompts:  # the sources draw as well, so all that their pipelines read is needed
        for name, found in listed.items():
            folders = {path.partition("/")[0] for path in found if path.endswith(_DRAWING)}
            files[name] |= {path for path in found if path == MODEL_INDEX or _is_pipeline_file(path, folders)}
    return {name: tuple(sorted(found)) for name, found in files.items()}


def tokenizer_files(parts: Parts, listed: Iterable[str]) -> tuple[str, ...]:
    """The files of the model's tokenizer that a release is made from; none for a single file, which has CLIP's."""
    folder = parts.architecture.tokenizer
    if folder is None or parts.facts[MODEL].weights:
        return ()
    known = {f"{folder}/{name}" for name in TOKENIZER_FILES}
    return tuple(sorted(path for path in listed if path in known))


def notices(parts: Parts, paths: Mapping[str, Iterable[str]]) -> list[str]:
    """A sentence for each thing of the sources that is passed over."""
    said = []
    for component in parts.components:
        source = component.origin.source
        listed = tuple(paths[source])
        files = parts.weight_files(component, listed)
        others = () if files.part else passed_over(listed, folder=files.folder, chosen=files.paths)
        if others:
            said.append(f"{_some(files.paths)} is read; {_some(others)} of {parts.names[source]} is not.")
        configs = parts.facts[source].configs
        if unread := component.unread(configs.get(component.origin.folder, {})):
            said.append(f"Passed over in the {component.title}'s config.json, as diffusers does: {', '.join(unread)}.")
    return list(dict.fromkeys(said))


def split_scale(text: str) -> tuple[str, float]:
    """SOURCE@SCALE → both; the scale is 1 where none is given.

    >>> split_scale("latent-consistency/lcm-lora-sdv1-5@0.8")
    ('latent-consistency/lcm-lora-sdv1-5', 0.8)
    """
    source, at, scale = text.rpartition("@")
    try:
        return (source, float(scale)) if at and source else (text, 1.0)
    except ValueError:
        return text, 1.0


def bundles(config: Config) -> bool:
    """Whether compiled models are published, on their own or in an archive."""
    return "compiled" in config.formats or "zip" in config.formats


_DRAWING = ("config.json", "vocab.json")


def _is_pipeline_file(path: str, folders: set[str]) -> bool:
    folder, slash, name = path.partition("/")
    return bool(slash) and folder in folders and name.endswith((".json", ".txt")) and ".index." not in name


def _adapters(config: Config, facts: Mapping[str, Facts]) -> Iterator[Adapter]:
    """The LoRAs of a config, in their order. Raises BadWeights for a file that is none, ConfigError for a bad scale."""
    for number, text in enumerate(config.lora, 1):
        source = LORA if number == 1 else f"{LORA}/{number}"
        scale = split_scale(text)[1]
        if not math.isfinite(scale) or abs(scale) > _LARGEST_SCALE:
            raise ConfigError(f"{scale} is no scale for a LoRA.", hint="Scales are numbers such as 0.8; 1 if none.")
        deltas = read_lora(facts[source].tensors, name=facts[source].weights, metadata=facts[source].header)
        yield Adapter(source=source, scale=scale, folders=frozenset(deltas))


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:2]) + (f" and {len(paths) - 2} more" if len(paths) > 2 else "")
