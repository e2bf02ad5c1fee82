"""Plan: the steps, and what each makes in the repo. The value that is printed, and the value that is executed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hubpub.architectures import Architecture, Component
from hubpub.networks import Size
from hubpub.plan.config import Config
from hubpub.plan.parts import Adapter, Drawing
from hubpub.plan.variant import Variant
from hubpub.sources.source import Snapshot
from hubpub.steps import FromSource, Input, Step


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file or folder of the release, and the step (or source file) that it comes from."""

    path_in_repo: str
    content: Input


@dataclass(frozen=True, kw_only=True)
class PlannedComponent:
    """One component in one variant: the keys of the steps that make and check it."""

    component: Component
    source: str  # ORG/NAME of the source that it comes from
    attention: str | None  # None where the component does not depend on it
    weights: str
    package: str
    readback: str | None  # of all packages over the same weights
    measure: str | None
    compile: str | None

    @property
    def name(self) -> str:
        """`unet/original`: the component, its source where there may be several, and the attention where it matters."""
        parts = [self.component.name]
        if self.component.is_controlnet:
            parts.append(self.source.replace("/", "_"))
        if self.attention:
            parts.append(self.attention)
        return "/".join(parts)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that will be done, in order."""

    config: Config
    architecture: Architecture
    sources: Mapping[str, Snapshot]  # by name; "model" is the one that was asked for
    variants: tuple[Variant, ...]
    destination: str
    steps: tuple[Step, ...]
    targets: tuple[Target, ...]
    components: tuple[PlannedComponent, ...]
    verify: str  # numeric, full, weights or off
    measured_at: Size | None  # the size at which packages are measured
    drawing: Drawing
    adapters: tuple[Adapter, ...] = ()  # LoRAs that are merged into the model
    notices: tuple[str, ...] = ()  # what of the sources is passed over or put right, a sentence each
    tokenizer: str | None = None  # key of the step that makes the tokenizer's files
    sample: str | None = None  # key of the step that draws pictures

    @property
    def input_channels(self) -> int | None:
        """Channels that the UNet takes: 4, 9 for inpainting, 8 for InstructPix2Pix; None for a ControlNet by itself."""
        unets = (self.step(one.package) for one in self.components if one.component.resource.startswith("Unet"))
        return next((unet.params["config"]["in_channels"] for unet in unets), None)

    @property
    def snapshot(self) -> Snapshot:
        """The source that was asked for."""
        return self.sources["model"]

    def step(self, key: str) -> Step:
        """The step of that key."""
        return {step.key: step for step in self.steps}[key]

    def source_files(self, steps: Iterable[Step]) -> dict[str, tuple[str, ...]]:
        """By source, the files that these steps, and the targets that are copied from a source, read."""
        inputs = [given for step in steps for given in step.inputs.values()]
        inputs += [target.content for target in self.targets]
        paths: dict[str, set[str]] = {name: set() for name in self.sources}
        for given in inputs:
            if isinstance(given, FromSource):
                paths[given.source] |= {
                    f"{given.path}/{name}".removeprefix("./") if name else given.path for name in given.files
                }
        return {name: tuple(sorted(found)) for name, found in paths.items()}

    def to_json(self) -> dict[str, Any]:
        """The plan for programs."""
        return {
            "destination": self.destination,
            "architecture": self.architecture.name,
            "settings": self.config.model_dump(mode="json"),
            "verify": self.verify,
            "steps": [
                {
                    "key": step.key,
                    "kind": step.kind(),
                    "label": step.label,
                    "inputs": sorted(step.requires()),
                    "bytes": step.size,
                    "memory": step.memory,
                    "needs": list(step.NEEDS),
                }
                for step in self.steps
            ],
            "notices": list(self.notices),
            "targets": [target.path_in_repo for target in self.targets],
        }
