"""Constants of a program: what it needs, and where a weight file has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor that a network takes from its source, in the shape in which the program declares it."""

    name: str
    transform: str  # a key of networks.transforms.TRANSFORMS, or ""
    shape: tuple[int, ...]
    dtype: str  # fp16 or fp32
    gathered: bool  # the table of a gather, which is never palettized


@dataclass(frozen=True, kw_only=True)
class Literal:
    """An array of a network's own."""

    values: Array
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A blob of the weight file, by the offset of its record."""

    offset: int


@dataclass(frozen=True, kw_only=True)
class Palette:
    """A palettized tensor: packed indices and a table, which stays in the program where it is too small for a blob."""

    bits: int
    indices: int  # offset
    indices_bytes: int
    lut: int | Array  # offset, or float16 values


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Values that stay in the program."""

    values: Array


class Constants(Protocol):
    """Where a program's constants are."""

    def weight(self, tensor: str, transform: str, shape: tuple[int, ...], dtype: str) -> Dense | Palette | Inline: ...

    def literal(self, values: Array, dtype: str) -> Dense | Inline: ...


class Recorder:
    """Keeps everything in the program, and remembers what was asked for, in order."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.literals: list[Literal] = []

    def weight(self, tensor: str, transform: str, shape: tuple[int, ...], dtype: str) -> Inline:
        self.tensors.append(Tensor(name=tensor, transform=transform, shape=shape, dtype=dtype, gathered=False))
        return Inline(values=np.zeros(0, np.float16))

    def literal(self, values: Array, dtype: str) -> Inline:
        self.literals.append(Literal(values=values, dtype=dtype))
        return Inline(values=values)
