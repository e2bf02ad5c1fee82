"""Graph: an ML Program whose constants name source tensors instead of holding weights.

A graph depends on the architecture alone (component config, attention, sizes, batch,
target, graph version); filling it with a source's weights gives a package. On disk it
is a folder:

    graph.mlmodel   the serialized model (mil/schema.proto), maps sorted
    graph.json      GraphInfo: what it was built for, its proof and its provenance

In the program, a constant is either a literal (an immediate value, whatever its size)
or a reference: `blobFileValue.fileName = "@source/<tensor>"`, offset 0, where <tensor>
is the tensor's name in the component's weight files, as today's diffusers and
transformers write them. `@source/<transform>(<tensor>)` applies one of TRANSFORMS on
the way, for the few constants that a network derives from a tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import parse_model, serialize
from hubpub.errors import BadPackage

GRAPH_MODEL = "graph.mlmodel"
GRAPH_INFO = "graph.json"
SOURCE_PREFIX = "@source/"

# Raised whenever the networks or the export change what a graph computes or how it is written.
GRAPH_VERSION = 1

Array = npt.NDArray[Any]


def _l2_normalize(rows: Array) -> Array:
    """Each row divided by its Euclidean norm, in fp32 (torch.nn.functional.normalize's eps)."""
    wide = rows.astype(np.float32)
    unit: Array = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    return unit


def _negate(values: Array) -> Array:
    return -values.astype(np.float32)


TRANSFORMS: Mapping[str, Callable[[Array], Array]] = {"l2_normalize": _l2_normalize, "negate": _negate}

_REFERENCE = re.compile(r"@source/(?:(?P<transform>[a-z0-9_]+)\((?P<inner>[^()]+)\)|(?P<plain>[^()]+))")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A constant's source: a tensor's name, and the transform applied to it ("" for none)."""

    tensor: str
    transform: str = ""

    def __str__(self) -> str:
        return SOURCE_PREFIX + (f"{self.transform}({self.tensor})" if self.transform else self.tensor)

    @classmethod
    def parse(cls, file_name: str) -> Reference:
        """The inverse of str(); raises BadPackage for anything else."""
        match = _REFERENCE.fullmatch(file_name)
        if match is None or (match["transform"] and match["transform"] not in TRANSFORMS):
            raise BadPackage(f"The graph refers to {file_name!r}, which names no source tensor.")
        return cls(tensor=match["inner"] or match["plain"], transform=match["transform"] or "")


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """What a graph was built for, and what was proven of it."""

    component: str
    params: Mapping[str, Any]  # config, attention, latent, batch, target: what the graph's key is made of
    ignored: tuple[str, ...] = ()  # source tensors that the network does not use (regular expressions)
    proof: Mapping[str, Any] = field(default_factory=dict)  # named checks → what they found
    built_with: Mapping[str, str] = field(default_factory=dict)  # provenance: torch, coremltools, … versions
    graph_version: int = GRAPH_VERSION


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A weightless ML Program and its info."""

    model: schema.Model
    info: GraphInfo

    def save(self, folder: Path) -> None:
        """Write graph.mlmodel and graph.json into an existing folder; the same graph gives the same bytes."""
        (folder / GRAPH_MODEL).write_bytes(serialize(self.model))
        text = json.dumps(asdict(self.info), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / GRAPH_INFO).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Graph:
        """Read a graph folder; raises BadPackage when it is not whole."""
        try:
            data = (folder / GRAPH_MODEL).read_bytes()
            info = json.loads((folder / GRAPH_INFO).read_text(encoding="utf-8"))
            info["ignored"] = tuple(info["ignored"])
            return cls(model=parse_model(data, name=str(folder)), info=GraphInfo(**info))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadPackage(f"{folder} is not a graph: {error}") from error


def constants(block: schema.Block) -> Iterator[schema.Operation]:
    """All `const` operations of a block and of the blocks inside it, in program order."""
    for operation in block.operations:
        if operation.type == "const":
            yield operation
        for inner in operation.blocks:
            yield from constants(inner)


def main_block(model: schema.Model) -> schema.Block:
    """The block of `main` that its opset selects."""
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]
