"""What steps take from the sources: files, and how a component's tensors are found in them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hubpub.architectures import Component
from hubpub.architectures.component import MODEL, VAE
from hubpub.errors import SourceNotFound
from hubpub.plan.config import Config
from hubpub.plan.licences import licence_text
from hubpub.plan.parts import Parts, WeightFiles
from hubpub.sources.source import Snapshot
from hubpub.steps import FromSource, Input

_UNSAFE = ("safety_checker", "feature_extractor", "requires_safety_checker")  # what pictures are drawn without


class Inputs:
    """The inputs of a plan's steps, as its sources (with at least `source_files`) hold them."""

    def __init__(self, config: Config, parts: Parts, sources: Mapping[str, Snapshot]) -> None:
        self.config, self.parts, self.sources = config, parts, sources

    def described(self) -> tuple[dict[str, Any], dict[str, tuple[dict[str, Any], dict[str, Input]]]]:
        """The model as a diffusers folder would say it, and by folder the checkpoint of each of its components."""
        folders = {
            one.origin.folder: one
            for one in self.parts.components
            if one.origin.source in (MODEL, VAE) and not one.weights and one.origin.folder != "safety_checker"
        }
        checkpoints = {folder: self.checkpoint(one) for folder, one in folders.items()}
        components = {
            folder: {"config": dict(self.parts.facts[MODEL].configs[folder]), "checkpoint": description}
            for folder, (description, _) in checkpoints.items()
        }
        index = {key: value for key, value in self.parts.facts[MODEL].model_index.items() if key not in _UNSAFE}
        if named := self.parts.facts[MODEL].scheduler.get("_class_name"):  # a LoRA may have brought another one
            index["scheduler"] = ["diffusers", named]
        said = {
            "model_index": index,
            "scheduler": dict(self.parts.facts[MODEL].scheduler),
            "pads": dict(self.parts.facts[MODEL].pads),
            "components": components,
        }
        return said, checkpoints

    def metadata(self, component: Component) -> dict[str, Any]:
        """What packages say of where they come from: from their source, nothing that changes by itself."""
        source, facts = self.sources[component.origin.source].source, self.parts.facts[component.origin.source]
        where = f"huggingface.co/{source.location}" if source.kind == "hub" else source.name
        return {
            "author": facts.author or f"Please refer to the Model Card available at {where}",
            "license": licence_text(facts.card, asked=self.config.license),
            "version": source.name,
        }

    def checkpoint(self, component: Component) -> tuple[dict[str, Any], dict[str, Input]]:
        """What open_checkpoint takes for a component: a description, and the inputs that it names."""
        files = self.weight_files(component)
        description: dict[str, Any] = {"files": list(files.names), **files.part}
        inputs: dict[str, Input] = {"source": self.source(files.folder or ".", files.names, files.source)}
        for adapter in self.parts.adapters_of(component):
            folder, _, name = self.parts.facts[adapter.source].weights.rpartition("/")
            one = {"input": adapter.source, "file": name, "component": component.origin.folder, "scale": adapter.scale}
            description.setdefault("loras", []).append(one)
            inputs[adapter.source] = self.source(folder or ".", [name], adapter.source)
        return description, inputs

    def source(self, path: str, names: Iterable[str] = ("",), source: str = MODEL) -> FromSource:
        files = {}
        for name in names:
            file = self.sources[source].file(f"{path}/{name}".removeprefix("./") if name else path)
            if file is None:
                raise SourceNotFound(f"The source has no {path}.", hint="Apps need it; add it to the source repo.")
            files[name] = str(file.digest)
        return FromSource(source=source, path=path, files=files)

    def weight_files(self, component: Component) -> WeightFiles:
        """Where a component's weights are."""
        return self.parts.weight_files(component, [file.path for file in self.sources[component.origin.source].files])

    def elements(self, component: Component) -> int:
        """Parameters of a component, at most: its files hold two bytes for each, or four, which only they know."""
        files = self.weight_files(component)
        snapshot, facts = self.sources[files.source], self.parts.facts[files.source]
        if files.part:
            own = (info for name, info in facts.tensors.items() if name.startswith(files.part["prefix"]))
            return int(sum(math.prod(info.shape) for info in own) * component.share)
        total = sum(file.size // 2 for path in files.paths if (file := snapshot.file(path)))
        return int(total * component.share)
