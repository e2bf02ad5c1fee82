"""What a model family is made of, as data: which components, what they depend on, how to tell a family.

Nothing here imports torch. A new family is one file beside sd1.py and one row in ARCHITECTURES.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from hubpub.architectures.component import VAE, VAE_FOLDER, Architecture, Component, Config, Configs, Memory, Origin
from hubpub.architectures.configs import image_scale
from hubpub.architectures.controlnet import CONTROLNET
from hubpub.architectures.difference import pipeline_title
from hubpub.architectures.sd1 import SD1
from hubpub.architectures.sd2 import SD2
from hubpub.architectures.sdxl import SDXL, SDXL_REFINER
from hubpub.errors import ConfigError, UnknownArchitecture, UnknownVariant
from hubpub.networks import ControlNetConfig, Size, UNetConfig, residual_shapes

__all__ = [
    "ARCHITECTURES",
    "ATTENTIONS",
    "TARGETS",
    "Architecture",
    "Component",
    "Memory",
    "Origin",
    "check_components",
    "check_controlnet",
    "check_knobs",
    "components_of",
    "detect",
    "find",
    "gate_size",
    "image_scale",
    "published_size",
]

ARCHITECTURES: tuple[Architecture, ...] = (SD1, SD2, SDXL, SDXL_REFINER, CONTROLNET)
ATTENTIONS = ("original", "split_einsum", "split_einsum_v2")
TARGETS = ("macOS13", "macOS14", "macOS15", "iOS16", "iOS17", "iOS18")

_BATCHES = (1, 2)
_GATE_SIDE = 32


def detect(model_index: Config, configs: Configs) -> Architecture:
    """The family of a repo with this model_index.json and these config.json files (by folder).

    Raises UnknownArchitecture, which says what the source is, where that is known, and what is lacking.
    """
    pipeline = str(model_index.get("_class_name", ""))
    differences = []
    for architecture in ARCHITECTURES:
        if pipeline in architecture.pipelines:
            other = architecture.difference(model_index, configs)
            if other is None:
                return architecture
            differences.append(other)
    what, lacking = (differences[0], "") if differences else pipeline_title(pipeline)
    supported = ", ".join(architecture.title for architecture in ARCHITECTURES)
    raise UnknownArchitecture(
        f"The source is {what}, which is not supported yet.",
        hint=f"What is missing: {lacking}." if lacking else f"Supported: {supported}.",
    )


def components_of(
    architecture: Architecture, model_index: Config, *, switches: Mapping[str, Any], sources: Collection[str]
) -> tuple[Component, ...]:
    """The components that a release has.

    Optional ones only where model_index.json lists them; none that `switches` (settings) leave out; those of
    another source once for each of `sources` (their names in the plan) of that role.
    """
    chosen: list[Component] = []
    roles = {source.partition("/")[0] for source in sources}
    # A VAE of its own takes the place of the model's; LoRAs are merged into what there is.
    in_place = {VAE_FOLDER: VAE} if VAE in roles else {}
    for component in architecture.components:
        unlisted = component.optional and not _lists(model_index, component.origin.folder)
        switched_off = component.switch is not None and not switches.get(component.switch, True)
        if unlisted or switched_off or (component.beside and component.beside not in roles):
            continue
        role = in_place.get(component.origin.folder, component.origin.role)
        chosen += [component.of(source) for source in sources if source.partition("/")[0] == role]
    return tuple(chosen)


def find(family: str, component: str) -> Component:
    """The component of a family, by both names; KeyError where there is none."""
    return {architecture.name: architecture for architecture in ARCHITECTURES}[family].component(component)


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


def published_size(
    architecture: Architecture, configs: Configs, latent: tuple[int, int] | None, batch: int, *, step: int | None = None
) -> Size:
    """The size that a release is made for; `latent` is (height, width), None for what the model was trained on.

    `step` is what both sides must be multiples of, if not the model's own (a refiner may have more levels).
    Raises ConfigError for sides that the network's levels cannot halve, before any work.
    """
    sides = latent or architecture.latent(configs)
    if sides is None:
        raise ConfigError("The UNet's config gives no sample_size.", hint="Give --latent-height and --latent-width.")
    step = step or smallest_side(architecture, configs)
    if any(side <= 0 or side % step for side in sides):
        pixels = step * image_scale(configs)
        raise ConfigError(
            f"A latent of {sides[0]}×{sides[1]} cannot be processed: the UNet halves it {step.bit_length() - 1} times, "
            f"so both sides must be multiples of {step}.",
            hint=f"In pixels of the image, both sides must be multiples of {pixels}.",
        )
    return Size(height=sides[0], width=sides[1], batch=batch)


def gate_size(architecture: Architecture, configs: Configs, published: Size) -> Size:
    """The size at which the numeric gate runs: the published one, or 32×32 where that is smaller.

    1024 queries: enough for split_einsum_v2 to split them. One row: the rows of a batch do not meet.
    """
    if published.height * published.width <= _GATE_SIDE**2 or _GATE_SIDE % smallest_side(architecture, configs):
        return published
    return Size(height=_GATE_SIDE, width=_GATE_SIDE, batch=1)


def smallest_side(architecture: Architecture, configs: Configs) -> int:
    """Each level of the UNet but the last halves the latent, and the way up needs the halves to fit."""
    return halvings(architecture.component(architecture.main).config(configs))


def halvings(config: Any) -> int:
    """By how much the levels of a UNet or a ControlNet divide a side; 1 for other networks."""
    widths = config.block_out_channels if isinstance(config, UNetConfig) else (0,)
    return int(2 ** (len(widths) - 1))


def check_controlnet(unet: UNetConfig, controlnet: ControlNetConfig, *, name: str) -> None:
    """Raise ConfigError where a ControlNet's answers do not fit into a UNet, or it takes other inputs."""
    hint = "Choose a ControlNet that was trained for this model's family."
    for what, key in (
        ("input channels", "in_channels"),
        ("channels of text", "cross_attention_dim"),
        ("numbers of the picture's size", "time_ids"),
    ):
        its, own = getattr(controlnet, key), getattr(unet, key)
        if its != own:
            raise ConfigError(f"The ControlNet {name} does not fit: it takes {its} {what}, the UNet {own}.", hint=hint)
    size = Size(height=64, width=64, batch=1)
    its_shapes, shapes = residual_shapes(controlnet, size), residual_shapes(unet, size)
    if its_shapes != shapes:
        differing = next(
            (i for i, pair in enumerate(zip(its_shapes, shapes, strict=False)) if pair[0] != pair[1]), None
        )
        where = f"its answer {differing} has another shape" if differing is not None else "it has other levels"
        raise ConfigError(
            f"The ControlNet {name} does not fit: it gives {len(its_shapes)} answers, the UNet takes {len(shapes)}, "
            f"and {where}.",
            hint=hint,
        )


def _lists(model_index: Config, folder: str) -> bool:
    """Whether model_index.json names a class for that folder ([null, null] means that there is none)."""
    entry = model_index.get(folder)
    return isinstance(entry, list | tuple) and len(entry) == 2 and entry[1] is not None
