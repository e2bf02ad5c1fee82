"""Component: all that hubpub knows of one network, as one value; and Architecture, a family of them.

The planner, the steps, the gate, the card and the layout ask the component. A table by
component name anywhere else is in the wrong place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from hubpub.networks import Scope, Size

Config = Mapping[str, Any]
Configs = Mapping[str, Config]  # folder of the source → its config.json

# iOS targets name the same operations, and so the same program, as the macOS of their year.
CANONICAL_TARGETS = {"iOS16": "macOS13", "iOS17": "macOS14", "iOS18": "macOS15"}

_MB = 1 << 20
LIBRARIES = 500 * _MB  # torch, diffusers and transformers, imported
_NO_SIZE = 64


class NetworkConfig(Protocol):
    """A frozen dataclass of plain values: what a network depends on, defaults filled in."""

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> NetworkConfig: ...


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a component's config.json and weights are: a folder in one of the plan's sources."""

    folder: str
    source: str = "model"


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
    resource: str  # "Unet": Apple's name of the compiled bundle
    origin: Origin
    knobs: frozenset[str]  # settings that change its program, of {"attention", "latent", "batch", "target"}
    palettizes: bool  # whether it is compressed at less than 16 bits, as Apple's tools do it
    config: Callable[[Configs], Any]  # config.json files → NetworkConfig; UnknownArchitecture for what it cannot honour
    config_type: type[Any]
    network: Callable[[Scope, Any, Size, str], None]  # writes the program: (scope, config, size, attention)
    reference: str  # "module:function" that gives the source's own module; imports torch, so it is named, not held
    checked: tuple[str, ...]  # outputs that the gate compares
    samples: Callable[[Any], dict[str, Any]] = lambda config: {}  # what the gate's inputs depend on, of the config
    ignored: tuple[str, ...] = ()  # tensors that the source may hold besides (regular expressions)
    optional: bool = False  # left out where model_index.json lists none
    share: float = 1.0  # of its weight files' elements: two components may lie in one file
    floors: Mapping[int, float] = field(default_factory=lambda: {16: 35.0, 8: 35.0, 6: 25.0, 4: 12.0})
    memory: Memory = field(default_factory=Memory)

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
    recognises: Callable[[Config, Configs], bool]
    resources: tuple[str, ...] = ("tokenizer/vocab.json", "tokenizer/merges.txt")  # paths in the source

    def component(self, name: str) -> Component:
        """The component of that name; KeyError where the family has none."""
        return {component.name: component for component in self.components}[name]
