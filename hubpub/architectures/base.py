"""The nouns of an architecture: Component and Architecture, and the knobs' values that they know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
Configs = Mapping[str, Config]  # folder of the source repo → its config.json


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network of an architecture: where it comes from, what it is called, what it depends on."""

    name: str  # unet, text_encoder, vae_decoder, vae_encoder, safety_checker
    coreml_name: str  # Unet, TextEncoder, VAEDecoder, VAEEncoder, SafetyChecker
    folder: str  # folder of the source repo that holds config.json and the weights
    hears: frozenset[str]  # the knobs that change its graph, of {"attention", "latent", "batch", "target"}
    palettizes: bool  # whether Apple's tools compress it at less than 16 bits
    normalise: Callable[[Configs], dict[str, Any]]  # configs → only what the network hears, defaults filled in
    optional: bool = False  # left out where model_index.json lists none
    sized_by: str = "latent"  # how its graph's params say the size: "latent" or "image" (in pixels)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model family: its components and the tokenizer files that travel with them."""

    name: str  # sd1
    title: str  # Stable Diffusion 1.x
    components: tuple[Component, ...]
    recognises: Callable[[Config, Configs], bool]
    resources: tuple[str, ...] = ("tokenizer/vocab.json", "tokenizer/merges.txt")  # paths in the source repo

    def matches(self, model_index: Config, configs: Configs) -> bool:
        """Whether a repo with this model_index.json and these config.json files is of this family."""
        return self.recognises(model_index, configs)

    def component(self, name: str) -> Component:
        """The component of that name; KeyError where the family has none."""
        return next(component for component in self.components if component.name == name)
