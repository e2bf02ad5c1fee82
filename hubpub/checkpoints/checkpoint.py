"""Checkpoint: names → tensors. Every source of weights is this, wherever its tensors come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints import ldm
from hubpub.checkpoints.tensors import TensorInfo
from hubpub.checkpoints.weights import open_weights

Float16s = npt.NDArray[np.float16]


class Checkpoint(Protocol):
    """Named tensors that are read when they are needed.

    Values are float16, rounded to the nearest; BadWeights, naming the tensor, where one
    is infinite, not a number, or too large for float16 (|w| > 65,504).
    """

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name → shape and dtype; reads no data."""
        ...

    def float16(self, name: str) -> Float16s:
        """The whole tensor, C order; mapped from the file where that holds it so."""
        ...

    def pieces(self, name: str, size: int) -> Iterator[Float16s]:
        """The elements of `float16(name)`, `size` at a time; memory: one piece."""
        ...

    def release(self, name: str) -> None:
        """Give the memory of a tensor back to the system."""
        ...

    def close(self) -> None:
        """Release all files."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_checkpoint(description: Mapping[str, Any], inputs: Mapping[str, Path]) -> Checkpoint:
    """The checkpoint of a description: plain data, part of the meaning of the step that reads it.

    `{"files": [names in the folder inputs["source"]]}`: weight files, all shards together. With `"component"` and
    `"prefix"` they are a single file of which the component's tensors lie below the prefix. With `"loras"`, a list of
    `{"input", "file", "component", "scale"}`, what each LoRA adds is added while tensors are read.
    """
    weights = open_weights([inputs["source"] / name for name in description["files"]])
    if "prefix" in description:
        own = ldm.component_tensors(weights.located, description["component"], description["prefix"])
        weights = weights.renamed(own)
    if not description.get("loras"):
        return weights
    from hubpub.checkpoints import lora

    shapes = {name: info.shape for name, info in weights.tensors().items()}
    merged = []
    for one in description["loras"]:
        file = open_weights([inputs[one["input"]] / one["file"]])
        infos = file.tensors()
        deltas = lora.read_lora(infos, name=one["file"], metadata=file.metadata())[one["component"]]
        named = lora.assign(deltas, shapes, component=one["component"], name=one["file"], infos=infos)
        merged.append((file, named, one["scale"]))
    return lora.Merged(weights, merged)
