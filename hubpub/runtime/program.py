"""A program ready to run: each operation with its function, its constants and the values that it uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hubpub.coreml import schema_pb2 as schema
from hubpub.runtime.attention_tiles import Plan
from hubpub.runtime.constants import Constant
from hubpub.runtime.ops.table import Op


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """The device that a program runs on, and whether fp16 values stay fp16 (`half`) or become fp32."""

    device: torch.device
    half: bool

    def storage(self, dtype: int) -> torch.dtype | None:
        """The torch dtype that holds a MIL data type; None for a type that tensors cannot have."""
        if dtype == schema.FLOAT16 and self.half:
            return torch.float16
        return _STORAGE.get(dtype)


_STORAGE: Mapping[int, torch.dtype] = {
    schema.BOOL: torch.bool,
    schema.FLOAT16: torch.float32,
    schema.FLOAT32: torch.float32,
    schema.FLOAT64: torch.float64,
    schema.INT4: torch.int8,
    schema.INT8: torch.int8,
    schema.INT16: torch.int16,
    schema.INT32: torch.int32,
    schema.INT64: torch.int64,
    schema.UINT1: torch.uint8,
    schema.UINT2: torch.uint8,
    schema.UINT3: torch.uint8,
    schema.UINT4: torch.uint8,
    schema.UINT6: torch.uint8,
    schema.UINT8: torch.uint8,
    schema.UINT16: torch.int32,
    schema.UINT32: torch.int64,
    schema.UINT64: torch.int64,
}


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A runtime value, by name: a result of an earlier operation or an input."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Expression:
    """One output of a constexpr operation (a compressed constant); it is uncompressed at each use."""

    step: Step
    index: int


Binding = Ref | Constant | Expression | tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Output:
    """A result of an operation as the program declares it: size -1 is unknown; dtype None is not a tensor."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation, or an attention whose operations (`parts`) are computed tile by tile (`plan`)."""

    type: str
    op: Op
    constants: Mapping[str, Any]  # parameter → value, converted already
    arguments: tuple[tuple[str, str, Binding], ...]  # (parameter, form, value to look up)
    outputs: tuple[Output, ...]
    blocks: tuple[Block, ...] = ()
    release: list[str] = field(default_factory=list)  # values that no later step uses
    parts: tuple[Step, ...] = ()
    plan: Plan | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A sequence of operations with its inputs and outputs."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Binding, ...]


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input of a function, with its dtype and shape in the program; `state`: it is a state."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    state: bool = False


@dataclass(frozen=True, kw_only=True)
class Program:
    """A function ready to run."""

    opset: int
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    block: Block


def names(step: Step) -> Iterable[str]:
    """Names of the runtime values that a step and its blocks use."""
    for _, _, binding in step.arguments:
        yield from refs(binding)
    for block in step.blocks:
        for inner in block.steps:
            yield from names(inner)
        for output in block.outputs:
            yield from refs(output)


def constant_shape(step: Step, parameter: str) -> tuple[int, ...]:
    """The shape of a constant argument, without reading the constant; () if the argument is not constant."""
    if isinstance(step.constants.get(parameter), torch.Tensor):
        return tuple(step.constants[parameter].shape)
    for name, _, binding in step.arguments:
        if name == parameter and isinstance(binding, Constant):
            return binding.shape
        if name == parameter and isinstance(binding, Expression):
            return binding.step.outputs[binding.index].shape or ()
    return ()


def refs(binding: Binding) -> Iterable[str]:
    """Names of the runtime values in a binding."""
    if isinstance(binding, Ref):
        yield binding.name
    elif isinstance(binding, tuple):
        for inner in binding:
            yield from refs(inner)
