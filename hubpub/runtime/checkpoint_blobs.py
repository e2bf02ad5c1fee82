"""A checkpoint in place of a weight file: a program runs on the source's own tensors, and nothing is written.

blobs = CheckpointBlobs(checkpoint, names)
model = load_model(write(network, target="macOS13", constants=blobs), blobs, name="unet")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints import Checkpoint
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.constants import Dense, Inline
from hubpub.errors import BadPackage
from hubpub.networks.transforms import TRANSFORMS

Array = npt.NDArray[Any]

_STEP = 64  # offsets of a weight file are multiples of this


class CheckpointBlobs:
    """Answers a program's questions for places (coreml.constants.Constants) and the runtime's for what is there."""

    def __init__(self, checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
        """`names`: a network's name of each tensor → the checkpoint's."""
        self.path = Path("the source's weights")
        self._checkpoint = checkpoint
        self._names = names
        self._tensors: list[tuple[str, str, tuple[int, ...], str]] = []  # checkpoint's name, transform, shape

    # -- places ----------------------------------------------------------------------------------------------------

    def weight(self, tensor: str, transform: str, shape: tuple[int, ...], dtype: str) -> Dense:
        self._tensors.append((self._names[tensor], transform, shape, dtype))
        return Dense(offset=_STEP * (len(self._tensors) - 1))

    def literal(self, values: Array, dtype: str) -> Inline:
        return Inline(values=values)

    # -- what is there ---------------------------------------------------------------------------------------------

    def reader(self, file_name: str) -> CheckpointBlobs:
        return self

    def reading(self, size: int) -> None:
        """Pages of a mapped file are given back by the checkpoint itself."""

    def record(self, offset: int) -> tuple[int, int, int]:
        """MIL data type, number of bytes, offset."""
        _, _, shape, dtype = self._tensors[offset // _STEP]
        kind, width = (schema.FLOAT32, 4) if dtype == "fp32" else (schema.FLOAT16, 2)
        return kind, width * int(np.prod(shape)), offset

    def read(self, offset: int) -> memoryview:
        raise BadPackage("A checkpoint has no packed constants.")

    def array(self, offset: int, shape: tuple[int, ...] | None = None) -> Array:
        name, transform, own, dtype = self._tensors[offset // _STEP]
        values: Array = self._checkpoint.float16(name)
        if transform:
            values = TRANSFORMS[transform](values).astype(np.float16)
        return values.astype(np.float32 if dtype == "fp32" else np.float16, copy=False).reshape(shape or own)

    def close(self) -> None:
        """The checkpoint is the caller's."""
