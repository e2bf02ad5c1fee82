"""What a model family is made of, as data: which components, what they depend on, how to tell a family.

Nothing here imports torch. A new family is one file beside sd1.py and one row in ARCHITECTURES.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from hubpub.architectures import configs as parsed
from hubpub.architectures.component import Architecture, Component, Config, Configs, Memory, Origin
from hubpub.architectures.configs import default_latent, image_scale
from hubpub.architectures.difference import difference
from hubpub.architectures.sd1 import SD1
from hubpub.architectures.sd2 import SD2
from hubpub.errors import ConfigError, UnknownArchitecture, UnknownVariant
from hubpub.networks import Size

__all__ = [
    "ARCHITECTURES",
    "ATTENTIONS",
    "TARGETS",
    "Architecture",
    "Component",
    "Memory",
    "Origin",
    "check_components",
    "check_knobs",
    "component_of_output",
    "components_of",
    "default_latent",
    "detect",
    "find",
    "gate_size",
    "image_scale",
    "published_size",
]

ARCHITECTURES: tuple[Architecture, ...] = (SD1, SD2)
ATTENTIONS = ("original", "split_einsum", "split_einsum_v2")
TARGETS = ("macOS13", "macOS14", "macOS15", "iOS16", "iOS17", "iOS18")

_BATCHES = (1, 2)
_GATE_SIDE = 32


def detect(model_index: Config, configs: Configs) -> Architecture:
    """The first family that recognises a repo with this model_index.json and these config.json files (by folder).

    Raises UnknownArchitecture, which says what the source is, where that is known, and what is supported.
    """
    for architecture in ARCHITECTURES:
        if architecture.recognises(model_index, configs):
            return architecture
    what = difference(model_index, configs) or f"a {model_index['_class_name']} of no known family"
    supported = ", ".join(architecture.title for architecture in ARCHITECTURES)
    raise UnknownArchitecture(f"The source is {what}, which is not supported yet.", hint=f"Supported: {supported}.")


def components_of(architecture: Architecture, model_index: Config, *, safety_checker: bool) -> tuple[Component, ...]:
    """The components that a source of this family has; the safety checker only where it lists one and it is wanted."""
    return tuple(
        component
        for component in architecture.components
        if not component.optional
        or (_lists(model_index, component.origin.folder) and (safety_checker or component.name != "safety_checker"))
    )


def find(family: str, component: str) -> Component:
    """The component of a family, by both names; KeyError where there is none."""
    return {architecture.name: architecture for architecture in ARCHITECTURES}[family].component(component)


def component_of_output(output: str) -> Component | None:
    """The component whose packages have an output of that name: how a package of unknown origin is recognised."""
    components = (component for architecture in ARCHITECTURES for component in architecture.components)
    return next((component for component in components if component.checked[0] == output), None)


def check_components(names: Iterable[str]) -> None:
    """Raises ConfigError for a name that no component of any family has: a misspelt floor must not pass."""
    known = {component.name for architecture in ARCHITECTURES for component in architecture.components}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            guess = f"Did you mean {near[0]}? " if near else ""
            raise ConfigError(f"There is no component {name}.", hint=f"{guess}There are {', '.join(sorted(known))}.")


def check_knobs(*, attention: str, batch: int, target: str) -> None:
    """Raises UnknownVariant for a value of a knob that does not exist."""
    if attention not in ATTENTIONS:
        raise UnknownVariant(f"There is no attention {attention!r}.", hint=f"Choose from {', '.join(ATTENTIONS)}.")
    if target not in TARGETS:
        raise UnknownVariant(f"There is no deployment target {target!r}.", hint=f"Choose from {', '.join(TARGETS)}.")
    if batch not in _BATCHES:
        raise UnknownVariant(f"A UNet cannot be converted for batch {batch!r}.", hint="Choose 2 (guidance) or 1.")


def published_size(configs: Configs, latent: tuple[int, int] | None, batch: int) -> Size:
    """The size that a release is made for; `latent` is (height, width), None for what the UNet was trained on.

    Raises ConfigError for sides that the UNet's levels cannot halve, before any work.
    """
    sides = latent or default_latent(configs)
    if sides is None:
        raise ConfigError("The UNet's config gives no sample_size.", hint="Give --latent-height and --latent-width.")
    step = _smallest_side(configs)
    if any(side <= 0 or side % step for side in sides):
        pixels = step * image_scale(configs)
        raise ConfigError(
            f"A latent of {sides[0]}×{sides[1]} cannot be processed: the UNet halves it {step.bit_length() - 1} times, "
            f"so both sides must be multiples of {step}.",
            hint=f"In pixels of the image, both sides must be multiples of {pixels}.",
        )
    return Size(height=sides[0], width=sides[1], batch=batch)


def gate_size(configs: Configs, published: Size) -> Size:
    """The size at which the numeric gate runs: the published one, or 32×32 where that is smaller.

    1024 queries: enough for split_einsum_v2 to split them. One row: the rows of a batch do not meet.
    """
    if published.height * published.width <= _GATE_SIDE**2 or _GATE_SIDE % _smallest_side(configs):
        return published
    return Size(height=_GATE_SIDE, width=_GATE_SIDE, batch=1)


def _smallest_side(configs: Configs) -> int:
    """Each level of the UNet but the last halves the latent, and the way up needs the halves to fit."""
    return int(2 ** (len(parsed.unet(configs).block_out_channels) - 1))


def _lists(model_index: Config, folder: str) -> bool:
    """Whether model_index.json names a class for that folder ([null, null] means that there is none)."""
    entry = model_index.get(folder)
    return isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] is not None
