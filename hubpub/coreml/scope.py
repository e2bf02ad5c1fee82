"""The Core ML dialect of a Scope: operations of MIL, in the forms in which coremltools converts these networks.

Facts: the operation sets of coremltools (`mil/ops/defs/iOS15` … `iOS18`), and its programs
of diffusers' and transformers' modules. Shapes and dtypes are inferred here, because every
operation declares the type of its results; coremltools infers them again in tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hubpub.coreml.program import Program, constant_name, number
from hubpub.errors import BadPackage
from hubpub.networks.scope import Dtype, Scope, Value


class CoreMLScope(Scope):
    """A place in a Program."""

    __slots__ = ("_program", "path")

    def __init__(self, program: Program, path: str = "") -> None:
        self._program = program
        self.path = path

    def __truediv__(self, path: str) -> CoreMLScope:
        return CoreMLScope(self._program, self._join(path))

    @property
    def floats(self) -> Dtype:  # type: ignore[override]
        return self._program.floats

    @property
    def fuses(self) -> bool:  # type: ignore[override]
        """From macOS 15 on CLIP's and the VAE's attention is one operation, which scales the query."""
        return self._program.version >= 9

    def _join(self, path: str) -> str:
        return f"{self.path}.{path}" if self.path and path else self.path or path

    def _op(self, kind: str, dtype: Dtype, shape: tuple[int, ...], path: str = "", /, **inputs: Any) -> Value:
        """One operation with one result, named after the module, or after what it does in it."""
        [value] = self._program.op(kind, [(dtype, shape)], constant_name(self._join(path or kind)), **inputs)
        return value

    def _int(self, value: int) -> Value:
        return self._program.literal(value, "int32")

    def _bool(self, value: bool) -> Value:
        return self._program.literal(value, "bool")

    def _text(self, text: str) -> Value:
        return self._program.literal(text, "string")

    def _number(self, value: float, dtype: Dtype) -> Value:
        return self._program.literal(number(value, dtype), dtype)

    # -- the program -----------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], dtype: Dtype | None = None) -> Value:
        return self._program.input(name, shape, dtype or self.floats)

    def output(self, name: str, value: Value) -> None:
        self._program.output(name, value)

    def weight(self, name: str, shape: Sequence[int], *, transform: str = "") -> Value:
        return self._program.weight(self._join(name), shape, transform)

    def array(self, name: str, values: npt.NDArray[Any], dtype: Dtype | None = None) -> Value:
        return self._program.literal(values, dtype or self.floats, constant_name(self._join(name)))

    def integers(self, *values: int) -> Value:
        return self._program.literal(list(values), "int32")

    # -- elements --------------------------------------------------------------------------------------------------

    def cast(self, x: Value, dtype: Dtype) -> Value:
        return self._op("cast", dtype, x.shape, x=x, dtype=self._text(dtype))

    def unary(self, kind: Literal["silu", "sigmoid", "gelu", "sin", "cos"], x: Value) -> Value:
        more = {"mode": self._text("EXACT")} if kind == "gelu" else {}
        return self._op(kind, x.dtype, x.shape, x=x, **more)

    def binary(
        self,
        kind: Literal["add", "sub", "mul", "real_div", "maximum", "greater", "equal"],
        x: Value | float,
        y: Value | float,
    ) -> Value:
        if not isinstance(x, Value):
            assert isinstance(y, Value)
            x = self._number(x, y.dtype)
        if not isinstance(y, Value):
            y = self._int(int(y)) if x.dtype == "int32" else self._number(y, x.dtype)
        if x.dtype != y.dtype:
            raise BadPackage(f"{kind} of {x.dtype} and {y.dtype} in {self.path}.")
        dtype: Dtype = "bool" if kind in ("greater", "equal") else x.dtype
        return self._op(kind, dtype, _broadcast(x.shape, y.shape), x=x, y=y)

    # -- shapes ----------------------------------------------------------------------------------------------------

    def reshape(self, x: Value, *shape: int) -> Value:
        if math.prod(shape) != math.prod(x.shape):
            raise BadPackage(f"{x.shape} cannot become {shape} in {self.path}.")
        return self._op("reshape", x.dtype, shape, x=x, shape=self.integers(*shape))

    def transpose(self, x: Value, *axes: int) -> Value:
        return self._op("transpose", x.dtype, tuple(x.shape[axis] for axis in axes), x=x, perm=self.integers(*axes))

    def expand_dims(self, x: Value, *axes: int) -> Value:
        shape = list(x.shape)
        for axis in axes:
            shape.insert(axis, 1)
        return self._op("expand_dims", x.dtype, tuple(shape), x=x, axes=self.integers(*axes))

    def squeeze(self, x: Value, axis: int) -> Value:
        return self._op("squeeze", x.dtype, _without(x.shape, axis), x=x, axes=self.integers(axis))

    def tile(self, x: Value, *repeats: int) -> Value:
        shape = tuple(side * times for side, times in zip(x.shape, repeats, strict=True))
        return self._op("tile", x.dtype, shape, x=x, reps=self.integers(*repeats))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        first = values[0]
        if any(_without(one.shape, axis) != _without(first.shape, axis) or one.dtype != first.dtype for one in values):
            raise BadPackage(f"concat of {[one.shape for one in values]} in {self.path}.")
        shape = _with(first.shape, axis, sum(one.shape[axis] for one in values))
        place, interleave = self._int(axis), self._bool(False)
        return self._op("concat", first.dtype, shape, values=values, axis=place, interleave=interleave)

    def stack(self, values: Sequence[Value], axis: int) -> Value:
        first = values[0]
        shape = (*first.shape[:axis], len(values), *first.shape[axis:])
        return self._op("stack", first.dtype, shape, values=values, axis=self._int(axis))

    def split(self, x: Value, parts: int, axis: int) -> list[Value]:
        size = x.shape[axis] // parts
        shape = _with(x.shape, axis, size)
        name, sizes = constant_name(self._join("split")), self.integers(*[size] * parts)
        results = [(x.dtype, shape)] * parts
        return self._program.op("split", results, name, x=x, split_sizes=sizes, axis=self._int(axis))

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        begin = self.integers(*_with((0,) * len(x.shape), axis, start))
        end = self.integers(*_with(x.shape, axis, stop))
        return self._op("slice_by_index", x.dtype, _with(x.shape, axis, stop - start), x=x, begin=begin, end=end)

    def select(self, x: Value, axis: int, index: int) -> Value:
        places = range(len(x.shape))
        literal = self._program.literal
        return self._op(
            "slice_by_index",
            x.dtype,
            _without(x.shape, axis),
            x=x,
            begin=self.integers(*_with((0,) * len(x.shape), axis, index)),
            end=self.integers(*_with(x.shape, axis, index + 1)),
            end_mask=literal([place != axis for place in places], "bool"),
            squeeze_mask=literal([place == axis for place in places], "bool"),
        )

    def pad(self, x: Value, *widths: int) -> Value:
        shape = tuple(side + widths[2 * axis] + widths[2 * axis + 1] for axis, side in enumerate(x.shape))
        mode, zero = self._text("constant"), self._number(0.0, x.dtype)
        return self._op("pad", x.dtype, shape, x=x, pad=self.integers(*widths), mode=mode, constant_val=zero)

    def upsample(self, x: Value, factor: int = 2) -> Value:
        batch, channels, height, width = x.shape
        scale = self._program.literal(float(factor), "fp32")
        shape = (batch, channels, factor * height, factor * width)
        kind = "upsample_nearest_neighbor"
        return self._op(kind, x.dtype, shape, x=x, scale_factor_height=scale, scale_factor_width=scale)

    # -- along axes ------------------------------------------------------------------------------------------------

    def reduce(
        self, kind: Literal["reduce_mean", "reduce_max", "reduce_l2_norm"], x: Value, *axes: int, keep: bool = True
    ) -> Value:
        shape = tuple(1 if axis in axes else side for axis, side in enumerate(x.shape) if keep or axis not in axes)
        return self._op(kind, x.dtype, shape, x=x, axes=self.integers(*axes), keep_dims=self._bool(keep))

    def argmax(self, x: Value, axis: int) -> Value:
        more = {"output_dtype": self._text("int32")} if self._program.version >= 8 else {}
        shape, keep = _without(x.shape, axis), self._bool(False)
        return self._op("reduce_argmax", "int32", shape, x=x, axis=self._int(axis), keep_dims=keep, **more)

    def softmax(self, x: Value, axis: int) -> Value:
        return self._op("softmax", x.dtype, x.shape, x=x, axis=self._int(axis))

    def _validated(self) -> dict[str, Value]:
        """From macOS 14 on gathers say whether indices are checked; no network gives one that is out of range."""
        return {"validate_indices": self._bool(False)} if self._program.version >= 8 else {}

    def gather(self, table: Value, indices: Value) -> Value:
        shape = indices.shape + table.shape[1:]
        zero = self._int(0)
        inputs = {"x": table, "indices": indices, "axis": zero, "batch_dims": zero, **self._validated()}
        return self._op("gather", table.dtype, shape, **inputs)

    def gather_nd(self, x: Value, indices: Value) -> Value:
        shape = indices.shape[:-1] + x.shape[indices.shape[-1] :]
        inputs = {"x": x, "indices": indices, "batch_dims": self._int(0), **self._validated()}
        return self._op("gather_nd", x.dtype, shape, **inputs)

    def matmul(self, x: Value, y: Value, *, transpose_x: bool = False, transpose_y: bool = False) -> Value:
        rows, inner = x.shape[-2:][:: -1 if transpose_x else 1]
        other, columns = y.shape[-2:][:: -1 if transpose_y else 1]
        if inner != other:
            raise BadPackage(f"matmul of {x.shape} and {y.shape} in {self.path}.")
        shape = (*_broadcast(x.shape[:-2], y.shape[:-2]), rows, columns)
        flags = {"transpose_x": self._bool(transpose_x), "transpose_y": self._bool(transpose_y)}
        return self._op("matmul", x.dtype, shape, x=x, y=y, **flags)

    def einsum(self, equation: str, x: Value, y: Value) -> Value:
        operands, result = equation.split("->")
        sizes: dict[str, int] = {}
        for letters, value in zip(operands.split(","), (x, y), strict=True):
            for letter, side in zip(letters, value.shape, strict=True):
                if sizes.setdefault(letter, side) != side:
                    raise BadPackage(f"einsum {equation} of {x.shape} and {y.shape} in {self.path}.")
        shape = tuple(sizes[letter] for letter in result)
        return self._op("einsum", x.dtype, shape, values=[x, y], equation=self._text(equation))

    def attend(self, query: Value, key: Value, value: Value, mask: Value | None = None) -> Value:
        if self.fuses:
            shape, more = query.shape[:-1] + value.shape[-1:], {"attn_mask": mask} if mask else {}
            kind = "scaled_dot_product_attention"
            return self._op(kind, query.dtype, shape, query=query, key=key, value=value, **more)
        scores = self.matmul(query, key, transpose_y=True)
        scores = self.add(scores, mask) if mask else scores
        return self.matmul(self.softmax(scores, -1), value)

    # -- layers ----------------------------------------------------------------------------------------------------

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
        pad = kernel // 2 if pad is None else pad
        at = self / path
        batch, channels, *sides = x.shape
        weight = at.weight("weight", (out, channels, kernel, kernel))
        more = {"bias": at.weight("bias", (out,))} if bias else {}
        shape = (batch, out, *[(side + 2 * pad - kernel) // stride + 1 for side in sides])
        return self._op(
            "conv",
            x.dtype,
            shape,
            path,
            x=x,
            weight=weight,
            **more,
            pad_type=self._text("custom" if pad else "valid"),
            pad=self.integers(pad, pad, pad, pad),
            strides=self.integers(stride, stride),
            dilations=self.integers(1, 1),
            groups=self._int(1),
        )

    def linear(self, path: str, x: Value, out: int, *, bias: bool = True) -> Value:
        at = self / path
        weight = at.weight("weight", (out, x.shape[-1]))
        # coremltools gives a linear layer without bias a bias of zeros
        return self._linear(path, x, weight, at.weight("bias", (out,)) if bias else self._filled(0.0, out))

    def linear_of(self, x: Value, weight: Value, bias: Value) -> Value:
        return self._linear("", x, weight, bias)

    def _linear(self, path: str, x: Value, weight: Value, bias: Value) -> Value:
        return self._op("linear", x.dtype, x.shape[:-1] + weight.shape[:1], path, x=x, weight=weight, bias=bias)

    def _filled(self, value: float, size: int) -> Value:
        name = f"{'ones' if value else 'zeros'}_{size}"
        return self._program.literal(np.full(size, value, np.float32), self.floats, name)

    def layer_norm(self, path: str, x: Value, eps: float = 1e-5, axis: int = -1) -> Value:
        at, size = self / path, x.shape[axis]
        gamma, beta = at.weight("weight", (size,)), at.weight("bias", (size,))
        more = {"axes": self.integers(axis), "epsilon": self._number(eps, x.dtype)}
        return self._op("layer_norm", x.dtype, x.shape, path, x=x, gamma=gamma, beta=beta, **more)

    def group_norm(self, path: str, x: Value, groups: int, eps: float) -> Value:
        """Core ML has no group norm. coremltools scales and shifts by a batch norm: mean 0, variance 1, eps 1e-5."""
        at, channels = self / path, x.shape[1]
        normal = at._normalised(x, groups, eps, x.shape)
        more = {
            "mean": self._filled(0.0, channels),
            "variance": self._filled(1.0, channels),
            "gamma": at.weight("weight", (channels,)),
            "beta": at.weight("bias", (channels,)),
            "epsilon": self._number(1e-5, x.dtype),
        }
        return self._op("batch_norm", x.dtype, x.shape, path, x=normal, **more)

    def group_norm_rows(self, path: str, x: Value, groups: int, eps: float) -> Value:
        at, (batch, channels, *sides) = self / path, x.shape
        normal = at._normalised(x, groups, eps, (batch, channels, math.prod(sides)))
        scaled = at.mul(normal, at.weight("weight", (1, channels, 1)))
        return at.add(scaled, at.weight("bias", (1, channels, 1)))

    def _normalised(self, x: Value, groups: int, eps: float, shape: Iterable[int]) -> Value:
        """x - mean, over its deviation, by groups of channels; in `shape`."""
        batch, channels, *sides = shape
        axes = range(2, 3 + len(sides))
        grouped = self.reshape(x, batch, groups, channels // groups, *sides)
        centred = self.sub(grouped, self.reduce("reduce_mean", grouped, *axes))
        squares = self._op("square", x.dtype, centred.shape, x=centred)
        variance = self.add(self.reduce("reduce_mean", squares, *axes), eps)
        deviation = self._op("sqrt", x.dtype, variance.shape, x=variance)
        return self.reshape(self.binary("real_div", centred, deviation), batch, channels, *sides)


def _with(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _broadcast(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    return x if x == y or not y else np.broadcast_shapes(x, y)
