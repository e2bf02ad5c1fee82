"""Component: all that hubpub knows of one network, as one value; and Architecture, a family of them.

The planner, the steps, the gate, the card and the layout ask the component. A table by
component name anywhere else is in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from hubpub.errors import ConfigError
from hubpub.networks import NetworkConfig, Scope, Size

Config = Mapping[str, Any]
Configs = Mapping[str, Config]  # folder of the source → its config.json

# iOS targets name the same operations, and so the same program, as the macOS of their year.
CANONICAL_TARGETS = {"iOS16": "macOS13", "iOS17": "macOS14", "iOS18": "macOS15"}

_MB = 1 << 20
LIBRARIES = 500 * _MB  # torch, diffusers and transformers, imported
_NO_SIZE = 64


# What a source is to a plan. Of ControlNets and LoRAs there may be several: controlnet, controlnet/2, controlnet/3 …
MODEL, REFINER, CONTROLNET, VAE, LORA = "model", "refiner", "controlnet", "vae", "lora"
VAE_FOLDER = "vae"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a component's config.json and weights are: a folder ("" is the top) in one of the plan's sources."""

    folder: str
    source: str = MODEL

    @property
    def role(self) -> str:
        """What that source is to the plan."""
        return self.source.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak bytes of a component's steps, as a function of its number of weights.

    The numbers are measured at SD 1.5 size (benchmarks/README.md); torch and its libraries take LIBRARIES.
    """

    weights: int = 350 * _MB  # a few pieces of tensors, whatever the component's size
    readback: int = 550 * _MB
    reference: float = 3.0  # bytes for each weight, of the source's own module
    measure: float = 1.2  # bytes for each weight, of the packages
    activations: int = 200 * _MB  # of either of the two, at the gate's small latent
    full: int = 1200 * _MB  # of either of the two, at the published size

    def of_reference(self, elements: int, *, full: bool) -> int:
        """Running the source's own module of so many weights."""
        return LIBRARIES + int(self.reference * elements) + (self.full if full else self.activations)

    def of_measure(self, elements: int, *, full: bool) -> int:
        """Running a package of so many weights."""
        return LIBRARIES + int(self.measure * elements) + (self.full if full else self.activations)


@dataclass(frozen=True, kw_only=True)
class Component:
    """One network of a family: where it comes from, what it is called, what it depends on, how it is checked."""

    name: str  # "unet": part of the package's name
    title: str  # "UNet": what people call it
    resource: str  # "Unet": Apple's name of the compiled bundle; {title} stands for the source's name
    origin: Origin
    knobs: frozenset[str]  # settings that change its program, of {"attention", "latent", "batch", "target"}
    palettizes: bool  # whether it is compressed at less than 16 bits, as Apple's tools do it
    config: Callable[[Configs], Any]  # config.json files → NetworkConfig; UnknownArchitecture for what it cannot honour
    config_type: type[NetworkConfig]
    network: Callable[[Scope, Any, Size, str], None]  # writes the program: (scope, config, size, attention)
    reference: str  # "module:function" that gives the source's own module; imports torch, so it is named, not held
    checked: tuple[str, ...]  # outputs that the gate compares; * stands for any characters
    samples: Callable[[Any], dict[str, Any]] = lambda config: {}  # what the gate's inputs depend on, of the config
    ignored: tuple[str, ...] = ()  # tensors that the source may hold besides (regular expressions)
    package: str = "Stable_Diffusion_version_{model}_{component}"  # Apple's name of the package, without its ending
    optional: bool = False  # left out where model_index.json lists none
    switch: str | None = None  # the setting that leaves it out
    beside: str | None = None  # made only where a source of this role is given
    weights: str | None = None  # the component whose tensors it uses, if not its own: they are written once
    chunks: tuple[Component, ...] = ()  # in place of it where UNets are cut in two
    chosen: tuple[str, ...] = ()  # settings that replace values of its config of the same name
    keys: frozenset[str] = frozenset()  # all that its library knows of config.json; empty where that is not checked
    share: float = 1.0  # of its weight files' elements: two components may lie in one file
    floors: Mapping[int, float] = field(default_factory=lambda: {16: 35.0, 8: 35.0, 6: 25.0, 4: 12.0})
    memory: Memory = field(default_factory=Memory)

    @property
    def is_controlnet(self) -> bool:
        """Whether it is a ControlNet, of which a release may have several."""
        return "{source}" in self.package

    def of(self, source: str) -> Component:
        """The same of another of the plan's sources: each ControlNet is the same component."""
        return replace(self, origin=replace(self.origin, source=source))

    def package_stem(self, *, model: str, source: str) -> str:
        """The package's name without ending, for the names (ORG/NAME) of the model and of the component's source."""
        model, source = model.replace("/", "_"), source.replace("/", "_")
        return self.package.format(model=model, source=source, component=self.name)

    def bundle(self, source: str) -> str:
        """The compiled bundle's path without ending: `controlnet/LllyasvielSdControlnetMlsd`."""
        return self.resource.format(title="".join(word.title() for word in re.split("[/_-]", source)))

    def read(self, configs: Configs, settings: Mapping[str, Any]) -> Any:
        """Its config, from the config.json files, with what the settings replace.

        Raises UnknownArchitecture for a value that the network cannot honour, and ConfigError
        for a setting of something that the network has not.
        """
        config = self.config(configs)
        for name in self.chosen:
            if settings.get(name) is not None:
                if getattr(config, name) is None:
                    raise ConfigError(
                        f"The {self.name} takes no {name.replace('_', ' ')}.",
                        hint=f"Leave --{name.replace('_', '-')} out.",
                    )
                config = replace(config, **{name: settings[name]})
        return config

    def unread(self, config: Config) -> list[str]:
        """Keys of a config.json that its library passes over: notes, and what training scripts write there."""
        return [key for key in sorted(config) if self.keys and key not in self.keys and not key.startswith("_")]

    def checks(self, outputs: Iterable[str]) -> list[str]:
        """Those of a program's outputs that the gate compares."""
        return [name for name in outputs if any(fnmatchcase(name, pattern) for pattern in self.checked)]

    def program(self, config: Any, *, size: Size, attention: str | None) -> Callable[[Scope], None]:
        """The network at one size, as a function of the scope alone."""
        return lambda at: self.network(at, config, size, attention or "original")

    def parameters(self, *, size: Size, attention: str, target: str) -> dict[str, Any]:
        """What a package of it depends on besides its config: a setting that changes nothing has one value for all."""
        latent = "latent" in self.knobs
        return {
            "attention": attention if "attention" in self.knobs else None,
            "height": size.height if latent else _NO_SIZE,
            "width": size.width if latent else _NO_SIZE,
            "batch": size.batch if "batch" in self.knobs else 1,
            "target": CANONICAL_TARGETS.get(target, target),
        }

    def meaning(self, config: Any) -> dict[str, Any]:
        """A config as plain JSON, for the names of steps."""
        return asdict(config)

    def read_config(self, given: Mapping[str, Any]) -> Any:
        """The inverse of `meaning`."""
        return self.config_type.from_json(given)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model family: its components and the tokenizer files that travel with them."""

    name: str  # sd1
    title: str  # Stable Diffusion 1.x
    components: tuple[Component, ...]
    pipelines: frozenset[str]  # classes that model_index.json may name
    difference: Callable[[Config, Configs], str | None]  # what a source of such a class has that the family has not
    latent: Callable[[Configs], tuple[int, int] | None]  # the size that it was trained for (height, width)
    main: str = "unet"  # the component whose levels decide which sizes can be processed
    tokenizer: str | None = "tokenizer"  # the folder of the source whose tokenizer apps get
    whole_bits: int = 0  # with so many bits or fewer its UNet is small enough for every device: no chunks
    devices: str = ""  # which devices can run it, where not all can; a sentence for the card
    swift: str | None = "StableDiffusionPipeline"  # the class of Apple's Swift package that loads it

    @property
    def all_components(self) -> tuple[Component, ...]:
        """The components and their chunks."""
        return tuple(part for component in self.components for part in (component, *component.chunks))

    def component(self, name: str) -> Component:
        """The component, or chunk, of that name; KeyError where the family has none."""
        return {component.name: component for component in self.all_components}[name]
