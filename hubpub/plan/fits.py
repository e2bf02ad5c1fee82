"""Whether the sources of a config fit together: checked before any work, each misfit with a sentence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hubpub import architectures
from hubpub.architectures import Architecture
from hubpub.architectures.component import CONTROLNET, LORA, MODEL, REFINER, VAE, VAE_FOLDER
from hubpub.checkpoints.lora import assign, read_lora
from hubpub.checkpoints.selection import variants_of
from hubpub.errors import ConfigError
from hubpub.plan.config import Config
from hubpub.sources.metadata import Facts
from hubpub.steps.weights import network_constants

if TYPE_CHECKING:
    from hubpub.plan.parts import Parts


def check_chunks(architecture: Architecture, config: Config) -> None:
    """There is a UNet to cut, and a reason to."""
    if not any(component.chunks for component in architecture.components):
        raise ConfigError(f"A {architecture.title} is not cut into chunks.", hint="Leave --chunk-unet out.")
    if config.bits <= architecture.whole_bits:
        raise ConfigError(
            f"At {config.bits} bits the UNet of {architecture.title} is small enough for every device: "
            "chunks would only load more slowly.",
            hint="Leave --chunk-unet out, or choose --bits 16.",
        )


def check_sources(architecture: Architecture, facts: Mapping[str, Facts], names: Mapping[str, str]) -> None:
    """Every other source is of a role that the architecture has, and of the family that this role takes."""
    roles = {component.origin.role for component in architecture.components}
    for source, its in facts.items():
        role = source.partition("/")[0]
        if role == MODEL:
            continue
        if role in (VAE, LORA):
            wanted = VAE_FOLDER if role == VAE else architecture.main
            if all(one.origin.folder != wanted for one in architecture.components):
                raise ConfigError(f"A {architecture.title} takes no {_ROLES[role]}.", hint=f"Leave --{role} out.")
            continue
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


_ROLES = {REFINER: "refiner", CONTROLNET: "ControlNet", VAE: "VAE", LORA: "LoRA"}


_FAMILIES = {REFINER: "sdxl_refiner", CONTROLNET: "controlnet"}


def check_controlnets(parts: Parts) -> None:
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


def check_adapters(parts: Parts, config: Config) -> None:
    """Every tensor of every LoRA has its place in the model."""
    for adapter in parts.adapters:
        facts = parts.facts[adapter.source]
        deltas = read_lora(facts.tensors, name=facts.weights, metadata=facts.header)
        own = {one.origin.folder: one for one in parts.components if one.origin.source == MODEL and not one.weights}
        for folder, modules in deltas.items():
            if folder not in own:
                raise ConfigError(
                    f"The LoRA {parts.names[adapter.source]} changes a {folder}, and {parts.architecture.title} "
                    "has none.",
                    hint="Choose a LoRA that was trained for this model's family.",
                )
            component = own[folder]
            network = component.meaning(component.read(parts.configs(MODEL), config.model_dump()))
            tensors, _ = network_constants(parts.architecture.name, component.name, network)
            shapes = {tensor.name: tensor.shape for tensor in tensors}
            assign(modules, shapes, component=folder, name=facts.weights, infos=facts.tensors)


def check_vae(parts: Parts) -> None:
    """A VAE of another source has latents of the model's kind."""
    if VAE not in parts.facts:
        return
    vae = parts.facts[VAE].configs["vae"]
    unet = parts.architecture.component(parts.architecture.main).config(parts.configs(MODEL))
    channels = vae.get("latent_channels", 4)
    if channels != unet.out_channels:
        raise ConfigError(
            f"The VAE {parts.names[VAE]} does not fit: its latents have {channels} channels, the UNet's "
            f"{unet.out_channels}.",
            hint="Choose a VAE of the model's family.",
        )


def check_variant(variant: str, parts: Parts, listed: Mapping[str, Iterable[str]]) -> None:
    """Some component has weight files of the variant."""
    known: set[str] = set()
    for component in parts.components:
        folder = parts.facts[component.origin.source].folders.get(component.origin.folder, component.origin.folder)
        known |= variants_of(listed[component.origin.source], folder=folder)
    if variant not in known:
        there = f"There are {', '.join(sorted(known))}." if known else "There are only plain files: leave it out."
        raise ConfigError(f"No component has weight files of the variant {variant}.", hint=there)
