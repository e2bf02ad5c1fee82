"""Scope: a place in the module tree where a network appends operations; the seam between networks and formats.

    hidden = at.conv("conv1", at.silu(at.group_norm("norm1", x, 32, 1e-5)), 320, kernel=3)

`at / "down_blocks.0"` is the scope of a module inside; weights take the names of their
tensors from the path, as diffusers and transformers name them. A network calls only what
stands here. Each format is a dialect: a subclass that turns the calls into its own
operations (Core ML: coreml/scope.py), infers shapes and chooses how a norm or an attention
is composed. Values are passed on and never looked into, but for their shape and dtype.

Shapes are channels first: images (B, C, H, W), sequences of a UNet (B, C, 1, S), of CLIP (B, S, C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Dtype = Literal["fp16", "fp32", "int32", "bool", "string"]
Array = npt.NDArray[Any]


class Value(NamedTuple):
    """What an operation gives: its name in the program, its dtype and its shape."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a program is written for: height and width in latent pixels, and rows of the UNet's inputs."""

    height: int
    width: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Base of the configs: frozen, of plain values and tuples, so that `asdict` is what a step's name depends on."""

    @property
    def floats(self) -> Dtype:
        """What weights are stored and computed in."""
        return "fp16"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `asdict` after JSON, which has lists for tuples; TypeError for keys that do not fit."""
        known = {item.name for item in fields(cls)}
        if values.keys() != known:
            raise TypeError(f"{cls.__name__} has the keys {sorted(known)}, not {sorted(values)}")
        return cls(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


class Scope(ABC):
    """A place in a program: the module with this path."""

    path: str
    floats: Dtype  # what weights are stored and computed in: "fp16", or "fp32" for a network that overflows fp16
    fuses: bool  # whether `attend` scales the query itself

    # -- the program -----------------------------------------------------------------------------------------------

    @abstractmethod
    def __truediv__(self, path: str) -> Scope:
        """The scope of a module inside this one."""

    @abstractmethod
    def input(self, name: str, shape: Sequence[int], dtype: Dtype | None = None) -> Value:
        """Declare an input of the program, by default in `floats`."""

    @abstractmethod
    def output(self, name: str, value: Value) -> None:
        """Declare an output; apps get it in fp32."""

    @abstractmethod
    def weight(self, name: str, shape: Sequence[int], *, transform: str = "") -> Value:
        """The source's tensor of this name below the path, each used once; `transform` is a key of TRANSFORMS."""

    @abstractmethod
    def array(self, name: str, values: Array, dtype: Dtype | None = None) -> Value:
        """A constant of the network's own."""

    @abstractmethod
    def integers(self, *values: int) -> Value:
        """A constant int32 vector."""

    # -- elements --------------------------------------------------------------------------------------------------

    @abstractmethod
    def cast(self, x: Value, dtype: Dtype) -> Value: ...

    @abstractmethod
    def unary(self, kind: Literal["silu", "sigmoid", "gelu", "sin", "cos"], x: Value) -> Value:
        """One of these functions of every element; gelu is the exact one."""

    @abstractmethod
    def binary(
        self,
        kind: Literal["add", "sub", "mul", "real_div", "maximum", "greater", "equal"],
        x: Value | float,
        y: Value | float,
    ) -> Value:
        """One of these of two values, broadcast, or of a value and a number; comparisons give bool."""

    def silu(self, x: Value) -> Value:
        return self.unary("silu", x)

    def sigmoid(self, x: Value) -> Value:
        return self.unary("sigmoid", x)

    def gelu(self, x: Value) -> Value:
        return self.unary("gelu", x)

    def add(self, x: Value | float, y: Value | float) -> Value:
        return self.binary("add", x, y)

    def sub(self, x: Value | float, y: Value | float) -> Value:
        return self.binary("sub", x, y)

    def mul(self, x: Value | float, y: Value | float) -> Value:
        return self.binary("mul", x, y)

    # -- shapes ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def reshape(self, x: Value, *shape: int) -> Value: ...

    @abstractmethod
    def transpose(self, x: Value, *axes: int) -> Value: ...

    @abstractmethod
    def expand_dims(self, x: Value, *axes: int) -> Value:
        """Axes of length 1 at these places of the result."""

    @abstractmethod
    def squeeze(self, x: Value, axis: int) -> Value: ...

    @abstractmethod
    def tile(self, x: Value, *repeats: int) -> Value: ...

    @abstractmethod
    def concat(self, values: Sequence[Value], axis: int) -> Value: ...

    @abstractmethod
    def stack(self, values: Sequence[Value], axis: int) -> Value: ...

    @abstractmethod
    def split(self, x: Value, parts: int, axis: int) -> list[Value]:
        """Equal parts along an axis."""

    @abstractmethod
    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """x from `start` to before `stop` along an axis."""

    @abstractmethod
    def select(self, x: Value, axis: int, index: int) -> Value:
        """x at one place of an axis, which goes."""

    @abstractmethod
    def pad(self, x: Value, *widths: int) -> Value:
        """Zeros before and after each axis, in order."""

    @abstractmethod
    def upsample(self, x: Value, factor: int = 2) -> Value:
        """Each pixel of (B, C, H, W) `factor` times along both sides."""

    # -- along axes ------------------------------------------------------------------------------------------------

    @abstractmethod
    def reduce(
        self, kind: Literal["reduce_mean", "reduce_max", "reduce_l2_norm"], x: Value, *axes: int, keep: bool = True
    ) -> Value: ...

    @abstractmethod
    def argmax(self, x: Value, axis: int) -> Value:
        """int32 places of the largest elements; the axis goes."""

    @abstractmethod
    def softmax(self, x: Value, axis: int) -> Value: ...

    @abstractmethod
    def gather(self, table: Value, indices: Value) -> Value:
        """Rows of a table (N, C) by int32 indices."""

    @abstractmethod
    def gather_nd(self, x: Value, indices: Value) -> Value:
        """Slices of x at places (…, K) of its first K axes."""

    @abstractmethod
    def matmul(self, x: Value, y: Value, *, transpose_x: bool = False, transpose_y: bool = False) -> Value: ...

    @abstractmethod
    def einsum(self, equation: str, x: Value, y: Value) -> Value: ...

    @abstractmethod
    def attend(self, query: Value, key: Value, value: Value, mask: Value | None = None) -> Value:
        """softmax(query · keyᵀ + mask) · value of (…, S, D); the query comes scaled, unless the scope `fuses`."""

    # -- layers ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def conv(
        self,
        path: str,
        x: Value,
        out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        pad: int | None = None,
        bias: bool = True,
    ) -> Value:
        """A square convolution; by default padded so that it keeps the size."""

    @abstractmethod
    def linear(self, path: str, x: Value, out: int, *, bias: bool = True) -> Value:
        """A linear layer over the last axis."""

    @abstractmethod
    def linear_of(self, x: Value, weight: Value, bias: Value) -> Value:
        """The same with a weight (out, in) and a bias (out,) of the caller's."""

    @abstractmethod
    def layer_norm(self, path: str, x: Value, eps: float = 1e-5, axis: int = -1) -> Value: ...

    @abstractmethod
    def group_norm(self, path: str, x: Value, groups: int, eps: float) -> Value:
        """Over groups of channels of (B, C, H, W)."""

    @abstractmethod
    def group_norm_rows(self, path: str, x: Value, groups: int, eps: float) -> Value:
        """The same of (B, C, H, W), with its pixels in one axis: (B, C, H·W)."""


def sinusoids(at: Scope, numbers: Value, channels: int, *, shift: float, cosine_first: bool) -> Value:
    """(N,) → (N, channels, 1, 1): diffusers' Timesteps. In fp32: angles reach 981 rad, where fp16 is off by 0.25."""
    half = channels // 2
    steps = np.exp(-np.log(10000.0) * np.arange(half) / (half - shift)).astype(np.float32)
    column = at.expand_dims(at.cast(numbers, "fp32"), 1)
    angles = at.mul(column, at.array("frequencies", steps, "fp32"))
    halves = [at.unary("sin", angles), at.unary("cos", angles)]
    row = at.concat(halves[::-1] if cosine_first else halves, 1)
    return at.cast(at.expand_dims(row, 2, 3), at.floats)
