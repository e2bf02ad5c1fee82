"""Shape, dtype and place of a tensor in a weight file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# dtype as safetensors spells it → how its bytes are viewed (bfloat16 has no numpy type)
DTYPES: Mapping[str, npt.DTypeLike] = {
    "F16": np.float16,
    "BF16": np.uint16,
    "F32": np.float32,
    "F64": np.float64,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "U16": np.uint16,
    "I32": np.int32,
    "U32": np.uint32,
    "I64": np.int64,
    "U64": np.uint64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Shape and dtype of a tensor; the dtype as safetensors spells it (F16, BF16, F32, I64, …)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of a mapped file: the bytes from `start` on, seen with `shape` and `strides`."""

    file: int  # which of the component's files
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    start: int  # byte offset of the first element
    strides: tuple[int, ...] | None  # in elements; None is C order
