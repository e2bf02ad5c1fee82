"""Checkpoint: names → tensors. Every source of weights is this, wherever its tensors come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

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


def open_checkpoint(description: Mapping[str, Any], folder: Path) -> Checkpoint:
    """The checkpoint of a description: plain data, part of the meaning of the step that reads it.

    `{"files": [names in folder]}`: weight files of a component's folder, all shards together.
    """
    return open_weights([folder / name for name in description["files"]])
