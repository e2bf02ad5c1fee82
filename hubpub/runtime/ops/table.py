"""Rows of the op table: a function, its handling of half precision, and the first opset that has the op.

The function's signature declares the op's inputs: a parameter's name is the MIL name, its
annotation is the form of the argument, its default makes it optional.

    Tensor    a tensor on the model's device      Tensors  a tuple of tensors (concat's `values`)
    int float bool str                            a Python value
    Ints Bools                                    a tuple of Python values
    Array     a constant as a NumPy array (constexpr ops)
    Packed    a constant whose elements may be packed (constexpr ops)
    Any       any value (list, state, class labels)    Values  a tuple of values (loop variables)

Four parameter names are not inputs; the runtime supplies them: `opset` (15, 16, 17, 18, 26),
`dtype` (the torch dtype of the first output), `device`, and `blocks` (the op's blocks as
functions).

Half precision (`half`), in a program run at fp16:

    "keep"    moves elements, computes nothing: the dtype does not change
    "native"  uses torch's half kernel, which computes each value in fp32 and rounds it once
              (a test compares each kernel with "wide" over all 65,536 halves)
    "wide"    converts inputs to fp32 and rounds the result to fp16: half-precision storage
              with fp32 accumulation, as documented for the GPU and the Neural Engine
    "matrix"  "wide" on the CPU, where torch's half convolutions take minutes; on CUDA,
              torch's half kernels, which accumulate in fp32
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

# Opset of a program's function → the first iOS version that has it.
OPSETS: Mapping[str, int] = {"CoreML5": 15, "CoreML6": 16, "CoreML7": 17, "CoreML8": 18, "CoreML9": 26}

Tensor = torch.Tensor
Tensors = tuple[torch.Tensor, ...]
Values = tuple[Any, ...]
Ints = tuple[int, ...]
Bools = tuple[bool, ...]
Array = npt.NDArray[Any]
Half = Literal["keep", "native", "wide", "matrix"]

INJECTED = frozenset({"opset", "dtype", "device", "blocks"})


class Packed(NamedTuple):
    """A constant as it is stored: bytes (packed, least significant bits first) or whole elements."""

    raw: Array
    bits: int  # per element; 0 where `raw` holds whole elements of its own dtype
    shape: tuple[int, ...]
    signed: bool = False

    def elements(self) -> Array:
        """One array element per element."""
        from hubpub.runtime.constants import unpack

        return unpack(self.raw, self.bits, self.shape, signed=self.signed) if self.bits else self.raw


class Parameter(NamedTuple):
    """One input of an op: its form, and whether it is required."""

    form: str
    required: bool


@dataclass(frozen=True, kw_only=True)
class Op:
    """One row of the table."""

    run: Callable[..., Any]
    half: Half
    since: int
    parameters: Mapping[str, Parameter]
    injected: frozenset[str]


Table = Mapping[str, Op]


def keep(run: Callable[..., Any], *, since: int = 15) -> Op:
    """A row for a function that moves elements and computes nothing."""
    return _op(run, "keep", since)


def native(run: Callable[..., Any], *, since: int = 15) -> Op:
    """A row for a function that is one torch kernel, exact in half precision."""
    return _op(run, "native", since)


def wide(run: Callable[..., Any], *, since: int = 15) -> Op:
    """A row for a function that computes in fp32."""
    return _op(run, "wide", since)


def matrix(run: Callable[..., Any], *, since: int = 15) -> Op:
    """A row for a function that is mostly a matrix product."""
    return _op(run, "matrix", since)


def _op(run: Callable[..., Any], half: Half, since: int) -> Op:
    parameters, injected = {}, set()
    for name, parameter in inspect.signature(run).parameters.items():
        if name in INJECTED:
            injected.add(name)
            continue
        form = str(parameter.annotation).removesuffix(" | None")
        parameters[name] = Parameter(form, parameter.default is inspect.Parameter.empty)
    return Op(run=run, half=half, since=since, parameters=parameters, injected=frozenset(injected))


# Names of data types in string inputs of ops.
DTYPE_NAMES: Mapping[str, torch.dtype] = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,  # torch computes little in uint16; int32 holds its range
    "int32": torch.int32,
    "uint32": torch.int64,
    "int64": torch.int64,
    "bool": torch.bool,
}

HOST_FLOATS: Mapping[torch.dtype, npt.DTypeLike] = {torch.float16: np.float16, torch.float32: np.float32}
