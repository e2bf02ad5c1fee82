"""package: a program over a component's weight file → .mlpackage. Costs milliseconds; needs no torch.

The program is written by the component's network for one attention, size and target; its
constants take their places from the index beside the weight file, which is linked, not copied.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hubpub import architectures
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import MODEL, WEIGHT_BIN, serialize, write_manifest
from hubpub.coreml.program import INDEX_TYPES, PROGRAM_VERSION, main_block, write
from hubpub.coreml.weight_file import retype
from hubpub.coreml.weight_index import WEIGHT_FILE, WeightIndex
from hubpub.files.copies import place
from hubpub.networks import Size
from hubpub.steps.step import Step

PACKAGE = "model.mlpackage"
_IOS18_SPECIFICATION = 9


@dataclass(frozen=True, kw_only=True)
class Package(Step):
    """Write `out/model.mlpackage`.

    inputs: `weights` (what the step weights wrote). Measurements: numbers of operations and
    constants, bytes of the program. Raises BadPackage where the weight file does not hold
    what the program asks for.
    """

    VERSION: ClassVar[int] = PROGRAM_VERSION

    family: str
    component: str
    config: Mapping[str, Any]  # the network's config as plain JSON
    attention: str | None  # None where the component does not depend on it
    height: int  # of the latent; with width and batch the size that the program is written for
    width: int
    batch: int
    target: str
    metadata: Mapping[str, Any]  # author, license, version, short_description, user_defined

    @property
    def label(self) -> str:
        return f"package of {self.component}" + (f" {self.attention}" if self.attention else "")

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        size = Size(height=self.height, width=self.width, batch=self.batch)
        model = write_package(
            out / PACKAGE,
            weights=inputs["weights"],
            program=(self.family, self.component, self.config, self.attention, size),
            target=self.target,
            metadata=self.metadata,
        )
        kinds = Counter(operation.type for operation in main_block(model).operations)
        return {
            "operations": kinds.total(),
            "constants": kinds["const"],
            "bytes": (out / PACKAGE / MODEL).stat().st_size,
        }


Program = tuple[str, str, Mapping[str, Any], str | None, Size]  # family, component, config, attention, size


def write_package(
    package: Path, *, weights: Path, program: Program, target: str, metadata: Mapping[str, Any]
) -> schema.Model:
    """Write one package over the weight file in the folder `weights`, which must not be edited afterwards."""
    family, name, config, attention, size = program
    component = architectures.find(family, name)
    index, network = WeightIndex.load(weights), component.read_config(config)
    written = component.program(network, size=size, attention=attention)
    model = write(written, target=target, floats=network.floats, constants=index)
    _describe(model, metadata)
    (package / WEIGHT_BIN).parent.mkdir(parents=True)
    content = serialize(model)
    (package / MODEL).write_bytes(content)
    _place_weights(weights / WEIGHT_FILE, package / WEIGHT_BIN, model, index)
    identity = hashlib.sha256(content + index.sha256.encode()).hexdigest()
    write_manifest(package, weights=True, identity=identity)
    return model


def _place_weights(source: Path, target: Path, model: schema.Model, index: WeightIndex) -> None:
    """Link the weight file; where the target declares indices by their width (iOS 18), a copy with such records.

    The bytes of the data are the same in both forms; only the types in the records differ.
    """
    palettes = [entry for entry in index.tensors.values() if "bits" in entry]
    if model.specificationVersion < _IOS18_SPECIFICATION or not palettes:
        place(source, target, link=True)
        return
    place(source, target, link=False)
    target.chmod(0o644)
    with target.open("r+b") as file:
        for entry in palettes:
            elements = 1
            for side in entry["shape"]:
                elements *= side
            padding = entry["indices_bytes"] * 8 - elements * entry["bits"]
            retype(file, entry["indices"], INDEX_TYPES[entry["bits"]], padding=padding)


def _describe(model: schema.Model, metadata: Mapping[str, Any]) -> None:
    """The package's metadata: what the step was given, and nothing else."""
    model.description.metadata.Clear()
    target = model.description.metadata
    target.SetInParent()
    target.author = metadata.get("author") or ""
    target.license = metadata.get("license") or ""
    target.versionString = metadata.get("version") or ""
    target.shortDescription = metadata.get("short_description") or ""
    for key, text in sorted((metadata.get("user_defined") or {}).items()):
        target.userDefined[key] = text
