"""Parts: which sources a config names, and which components of them a release is made of. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hubpub import architectures
from hubpub.architectures import Architecture, Component
from hubpub.architectures.component import CONTROLNET, MODEL, REFINER, Configs
from hubpub.checkpoints import choose
from hubpub.errors import ConfigError
from hubpub.plan.config import Config
from hubpub.sources.metadata import MODEL_INDEX, Facts

# What most models are drawn with (runtime.pictures says the same), and LCM's authors' number of steps.
_STEPS, _GUIDANCE, _DISTILLED_STEPS = 20, 7.5, 4


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """The settings that a model is drawn with; `guidance_embedding` is built into a UNet that was distilled for one."""

    steps: int
    guidance: float
    guidance_embedding: float | None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a release is made of: a family, and components of one or more sources."""

    architecture: Architecture
    components: tuple[Component, ...]
    facts: Mapping[str, Facts]  # by the source's name in the plan
    names: Mapping[str, str]  # by the same: ORG/NAME
    cut: bool  # whether UNets are cut into chunks

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
    _check_sources(architecture, facts, names)
    if config.prompts and not architecture.resources:
        raise ConfigError(f"A {architecture.title} draws nothing by itself.", hint="Leave --prompt out.")
    if config.chunk_unet:
        _check_chunks(architecture, config)
    parts = Parts(architecture=architecture, components=chosen, facts=facts, names=names, cut=config.chunk_unet)
    _check_controlnets(parts)
    return parts


def source_files(config: Config, parts: Parts, paths: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """By source, the files of `paths` that a plan reads: weights and tokenizer. BadWeights where some are missing."""
    listed = {name: tuple(found) for name, found in paths.items()}
    files: dict[str, set[str]] = {name: set() for name in listed}
    for component in parts.components:
        files[component.origin.source] |= set(choose(listed[component.origin.source], folder=component.origin.folder))
    if bundles(config):
        files[MODEL] |= set(parts.architecture.resources)
    if config.prompts:  # the sources draw as well, so all that their pipelines read is needed
        for name, found in listed.items():
            folders = {path.partition("/")[0] for path in found if path.endswith(_DRAWING)}
            files[name] |= {path for path in found if path == MODEL_INDEX or _is_pipeline_file(path, folders)}
    return {name: tuple(sorted(found)) for name, found in files.items()}


def bundles(config: Config) -> bool:
    """Whether compiled models are published, on their own or in an archive."""
    return "compiled" in config.formats or "zip" in config.formats


_DRAWING = ("config.json", "vocab.json")


def _is_pipeline_file(path: str, folders: set[str]) -> bool:
    folder, slash, name = path.partition("/")
    return bool(slash) and folder in folders and name.endswith((".json", ".txt")) and ".index." not in name


def _check_chunks(architecture: Architecture, config: Config) -> None:
    """There is a UNet to cut, and a reason to."""
    if not any(component.chunks for component in architecture.components):
        raise ConfigError(f"A {architecture.title} is not cut into chunks.", hint="Leave --chunk-unet out.")
    if config.bits <= architecture.whole_bits:
        raise ConfigError(
            f"At {config.bits} bits the UNet of {architecture.title} is small enough for every device: "
            "chunks would only load more slowly.",
            hint="Leave --chunk-unet out, or choose --bits 16.",
        )


def _check_sources(architecture: Architecture, facts: Mapping[str, Facts], names: Mapping[str, str]) -> None:
    """Every other source is of a role that the architecture has, and of the family that this role takes."""
    roles = {component.origin.role for component in architecture.components}
    for source, its in facts.items():
        if source == MODEL:
            continue
        role = source.partition("/")[0]
        if role not in roles:
            raise ConfigError(
                f"A {architecture.title} model has no {_ROLES[role]}.",
                hint=f"Leave --{role} out." if role == REFINER else f"Leave --{role} out, or name its base model.",
            )
        found = architectures.detect(its.model_index, its.configs)
        if found.name != _FAMILIES[role]:
            raise ConfigError(
                f"{names[source]} is no {_ROLES[role]}: it is {found.title}.",
                hint=f"--{role} takes a source that is one.",
            )


_ROLES = {REFINER: "refiner", CONTROLNET: "ControlNet"}
_FAMILIES = {REFINER: "sdxl_refiner", CONTROLNET: "controlnet"}


def _check_controlnets(parts: Parts) -> None:
    """Each ControlNet gives what the UNet takes, and no two have the same name in the release."""
    seen: dict[str, str] = {}
    names = parts.names
    for component in parts.components:
        source = component.origin.source
        if component.origin.role == CONTROLNET:
            architectures.check_controlnet(
                parts.architecture.component("unet").config(parts.configs(MODEL)),
                component.config(parts.configs(source)),
                name=names[source],
            )
            bundle = component.bundle(names[source])
            if bundle in seen:
                raise ConfigError(
                    f"{names[source]} and {seen[bundle]} would both be {bundle}.mlmodelc.", hint="Name each one once."
                )
            seen[bundle] = names[source]
