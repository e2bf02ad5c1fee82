"""Builder: writes an ML Program operation by operation; shapes and dtypes are inferred here.

A network is a function of a Scope: `at.conv("conv1", x, 320, kernel=3)` appends the operation
and its constants and gives back a Value. A Scope knows the path of the module that is being
written ("down_blocks.0.resnets.0"), from which weights take the name of their tensor and
operations take theirs. Weights are references (hubpub/graph.py); every other constant is a
literal, written once for all operations that need it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.values import encode, tensor_type, string_value, tensor_value
from hubpub.coreml.constants import Dense, Palette, Inline

BOOL, STRING, FP16, FP32, INT32 = schema.BOOL, schema.STRING, schema.FLOAT16, schema.FLOAT32, schema.INT32
_NAMES = {FP16: "fp16", FP32: "fp32", INT32: "int32", BOOL: "bool"}
_OPSETS = {"macOS13": ("CoreML6", 7), "macOS14": ("CoreML7", 8), "macOS15": ("CoreML8", 9)}
_ARRAYS = {FP16: schema.ArrayFeatureType.FLOAT16, FP32: schema.ArrayFeatureType.FLOAT32}


class Value(NamedTuple):
    """What an operation gives: its name in the program, and its type."""

    name: str
    dtype: int
    shape: tuple[int, ...]


class Program:
    """The program that is being written: operations in order, names once each, literals once each."""

    def __init__(self, target: str, floats: int = FP16) -> None:
        self.floats = floats  # what weights are held and computed in
        opset, version = _OPSETS[target]
        self.version = version
        self.model = schema.Model(specificationVersion=version)
        self.model.mlProgram.version = 1
        self.function = self.model.mlProgram.functions["main"]
        self.function.opset = opset
        self.block = self.function.block_specializations[opset]
        self.names: dict[str, int] = {}
        self.literals: dict[Any, Value] = {}
        self.types: dict[Any, Any] = {}
        self.tensors: set[str] = set()

    def input(self, name: str, shape: Sequence[int], dtype: int = FP16, description: str = "") -> Value:
        value = Value(self.unique(name), dtype, tuple(shape))
        self.function.inputs.add(name=name, type=self.type_of(dtype, value.shape))
        self._describe(self.model.description.input, value, description)
        return value

    def output(self, name: str, value: Value, description: str = "") -> None:
        """Declare an output; it is fp32, as apps expect it."""
        if value.dtype == FP32:
            result = self._renamed(value, name)
        else:
            result = self.op("cast", [(FP32, value.shape)], name, x=value, dtype=self.literal("fp32", STRING))[0]
        self.block.outputs.append(result.name)
        self._describe(self.model.description.output, result, description)

    def weight(self, tensor: str, shape: Sequence[int], transform: str = "") -> Value:
        """The source's tensor of that name, in fp16; each is used once."""
        if tensor in self.tensors:
            raise ValueError(f"{tensor} is used twice")
        self.tensors.add(tensor)
        value = Value(self.unique(_plain(tensor)), self.floats, tuple(shape))
        self._const(value).blobFileValue.fileName = "@source/"+(f"{transform}({tensor})" if transform else tensor)
        return value

    def literal(self, elements: Any, dtype: int, name: str = "") -> Value:
        """A constant of the program itself: a number, a text, or an array."""
        if isinstance(elements, np.ndarray):
            key: Any = (dtype, elements.shape, elements.tobytes())
        elif isinstance(elements, (list, tuple)):
            key = (dtype, tuple(elements))
        else:
            key = (dtype, elements, type(elements))
        found = self.literals.get(key)
        if found is None:
            if dtype == STRING:
                shape, flat = (), [elements]
            else:
                array = np.asarray(elements)
                shape, flat = array.shape, array.reshape(-1).tolist()
            found = Value(self.unique(name or _literal_name(elements, dtype)), dtype, shape)
            self._const(found).immediateValue.tensor.CopyFrom(encode(flat, dtype))
            self.literals[key] = found
        return found

    def op(self, kind: str, results: Sequence[tuple[int, tuple[int, ...]]], name: str, /, **inputs: Any) -> list[Value]:
        """Append an operation; its inputs are Values or lists of them."""
        operation = self.block.operations.add(type=kind)
        arguments = operation.inputs
        for key, given in inputs.items():
            bindings = arguments[key].arguments
            if type(given) is Value:
                bindings.add(name=given.name)
            else:
                for one in given:
                    bindings.add(name=one.name)
        name = self.unique(name)
        operation.attributes["name"].CopyFrom(_string(name))
        values = []
        for place, (dtype, shape) in enumerate(results):
            value = Value(name if len(results) == 1 else f"{name}_{place}", dtype, shape)
            operation.outputs.add(name=value.name, type=self.type_of(dtype, shape))
            values.append(value)
        return values

    def _renamed(self, value: Value, name: str) -> Value:
        """The result of the last operation, under another name."""
        operation = self.block.operations[-1]
        if operation.outputs[0].name != value.name:
            raise ValueError(f"{name} is not what the last operation gives")
        operation.outputs[0].name = self.unique(name)
        operation.attributes["name"].CopyFrom(_string(name))
        return value._replace(name=name)

    def type_of(self, dtype: int, shape: tuple[int, ...]) -> schema.ValueType:
        found = self.types.get((dtype, shape))
        if found is None:
            found = self.types[dtype, shape] = tensor_type(dtype, shape)
        return found

    def unique(self, name: str) -> str:
        count = self.names.get(name, 0)
        self.names[name] = count + 1
        return name if not count else self.unique(f"{name}_{count}")

    def _const(self, value: Value) -> schema.Value:
        operation = self.block.operations.add(type="const")
        operation.outputs.add(name=value.name, type=self.type_of(value.dtype, value.shape))
        operation.attributes["name"].CopyFrom(_string(value.name))
        content = operation.attributes["val"]
        content.type.CopyFrom(self.type_of(value.dtype, value.shape))
        return content

    def _describe(self, features: Any, value: Value, description: str) -> None:
        entry = features.add(name=value.name, shortDescription=description)
        entry.type.multiArrayType.shape.extend(value.shape)
        entry.type.multiArrayType.dataType = _ARRAYS[value.dtype]


class Scope:
    """A place in the program: the module with this path. All operations of networks are its methods."""

    __slots__ = ("path", "program")

    def __init__(self, program: Program, path: str = "") -> None:
        self.program = program
        self.path = path

    def __truediv__(self, path: str) -> Scope:
        return Scope(self.program, self._join(path))

    def _join(self, path: str) -> str:
        return f"{self.path}.{path}" if self.path and path else self.path or path

    def _op(self, kind: str, dtype: int, shape: tuple[int, ...], path: str = "", /, **inputs: Any) -> Value:
        """One operation with one result, named after the module, or after what it does in it."""
        name = _plain(self._join(path or kind))
        return self.program.op(kind, [(dtype, shape)], name, **inputs)[0]

    def _ints(self, *elements: int) -> Value:
        return self.program.literal(list(elements), INT32)

    def _int(self, element: int) -> Value:
        return self.program.literal(element, INT32)

    def _bool(self, element: bool) -> Value:
        return self.program.literal(element, BOOL)

    def _text(self, text: str) -> Value:
        return self.program.literal(text, STRING)

    def _number(self, number: float, dtype: int) -> Value:
        """A scalar; one that fp16 would round to zero becomes its smallest."""
        if dtype == FP16:
            rounded = float(np.float16(number))
            number = rounded or (math.copysign(2.0**-24, number) if number else 0.0)
        return self.program.literal(float(number), dtype)

    # -- weights --------------------------------------------------------------------------------------------------

    def weight(self, name: str, shape: Sequence[int], transform: str = "") -> Value:
        return self.program.weight(self._join(name), shape, transform)

    def array(self, name: str, values: np.ndarray, dtype: int | None = None) -> Value:
        return self.program.literal(values, self.program.floats if dtype is None else dtype, name=_plain(self._join(name)))

    # -- one by one -----------------------------------------------------------------------------------------------

    def cast(self, x: Value, dtype: int) -> Value:
        return self._op("cast", dtype, x.shape, x=x, dtype=self._text(_NAMES[dtype]))

    def _same(self, kind: str, x: Value, /, **inputs: Any) -> Value:
        return self._op(kind, x.dtype, x.shape, x=x, **inputs)

    def silu(self, x: Value) -> Value:
        return self._same("silu", x)

    def sigmoid(self, x: Value) -> Value:
        return self._same("sigmoid", x)

    def gelu(self, x: Value) -> Value:
        return self._same("gelu", x, mode=self._text("EXACT"))

    def sin(self, x: Value) -> Value:
        return self._same("sin", x)

    def cos(self, x: Value) -> Value:
        return self._same("cos", x)

    def sqrt(self, x: Value) -> Value:
        return self._same("sqrt", x)

    def square(self, x: Value) -> Value:
        return self._same("square", x)

    def softmax(self, x: Value, axis: int) -> Value:
        return self._same("softmax", x, axis=self._int(axis))

    # -- two by two -----------------------------------------------------------------------------------------------

    def _binary(self, kind: str, x: Value | float, y: Value | float, dtype: int | None = None) -> Value:
        if not isinstance(x, Value):
            x = self._number(x, y.dtype)  # type: ignore[union-attr]
        if not isinstance(y, Value):
            y = self._int(int(y)) if x.dtype == INT32 else self._number(y, x.dtype)
        if x.dtype != y.dtype:
            raise ValueError(f"{kind} of {_NAMES[x.dtype]} and {_NAMES[y.dtype]} in {self.path}")
        return self._op(kind, x.dtype if dtype is None else dtype, _broadcast(x.shape, y.shape), x=x, y=y)

    def add(self, x: Value | float, y: Value | float) -> Value:
        return self._binary("add", x, y)

    def sub(self, x: Value | float, y: Value | float) -> Value:
        return self._binary("sub", x, y)

    def mul(self, x: Value | float, y: Value | float) -> Value:
        return self._binary("mul", x, y)

    def real_div(self, x: Value | float, y: Value | float) -> Value:
        return self._binary("real_div", x, y)

    def maximum(self, x: Value | float, y: Value | float) -> Value:
        return self._binary("maximum", x, y)

    def greater(self, x: Value | float, y: Value | float) -> Value:
        return self._binary("greater", x, y, BOOL)

    def equal(self, x: Value | float, y: Value | float) -> Value:
        return self._binary("equal", x, y, BOOL)

    # -- shapes ---------------------------------------------------------------------------------------------------

    def reshape(self, x: Value, *shape: int) -> Value:
        if math.prod(shape) != math.prod(x.shape):
            raise ValueError(f"{x.shape} cannot become {shape} in {self.path}")
        return self._op("reshape", x.dtype, shape, x=x, shape=self._ints(*shape))

    def transpose(self, x: Value, *perm: int) -> Value:
        return self._op("transpose", x.dtype, tuple(x.shape[axis] for axis in perm), x=x, perm=self._ints(*perm))

    def expand_dims(self, x: Value, *axes: int) -> Value:
        shape = list(x.shape)
        for axis in axes:
            shape.insert(axis, 1)
        return self._op("expand_dims", x.dtype, tuple(shape), x=x, axes=self._ints(*axes))

    def squeeze(self, x: Value, axis: int) -> Value:
        return self._op("squeeze", x.dtype, x.shape[:axis] + x.shape[axis + 1 :], x=x, axes=self._ints(axis))

    def tile(self, x: Value, *reps: int) -> Value:
        shape = tuple(side * times for side, times in zip(x.shape, reps, strict=True))
        return self._op("tile", x.dtype, shape, x=x, reps=self._ints(*reps))

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        first = values[0]
        if any(_without(one.shape, axis) != _without(first.shape, axis) or one.dtype != first.dtype for one in values):
            raise ValueError(f"concat of {[one.shape for one in values]} in {self.path}")
        shape = first.shape[:axis] + (sum(one.shape[axis] for one in values),) + first.shape[axis + 1 :]
        return self._op(
            "concat", first.dtype, shape, values=values, axis=self._int(axis), interleave=self._bool(False)
        )

    def stack(self, values: Sequence[Value], axis: int) -> Value:
        first = values[0]
        shape = first.shape[:axis] + (len(values),) + first.shape[axis:]
        return self._op("stack", first.dtype, shape, values=values, axis=self._int(axis))

    def split(self, x: Value, parts: int, axis: int) -> list[Value]:
        size = x.shape[axis] // parts
        shape = x.shape[:axis] + (size,) + x.shape[axis + 1 :]
        return self.program.op(
            "split", [(x.dtype, shape)] * parts, _plain(self._join("split")),
            x=x, split_sizes=self._ints(*[size] * parts), axis=self._int(axis),
        )  # fmt: skip

    def part(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """x from `start` to before `stop` along an axis."""
        shape = x.shape[:axis] + (stop - start,) + x.shape[axis + 1 :]
        begin = self._ints(*[start if place == axis else 0 for place in range(len(shape))])
        end = self._ints(*[stop if place == axis else side for place, side in enumerate(x.shape)])
        return self._op("slice_by_index", x.dtype, shape, x=x, begin=begin, end=end)

    def select(self, x: Value, axis: int, index: int) -> Value:
        """x at one place of an axis, which goes."""
        places = range(len(x.shape))
        literal = self.program.literal
        return self._op(
            "slice_by_index",
            x.dtype,
            _without(x.shape, axis),
            x=x,
            begin=self._ints(*[index if place == axis else 0 for place in places]),
            end=self._ints(*[index + 1 if place == axis else x.shape[place] for place in places]),
            end_mask=literal([place != axis for place in places], BOOL),
            squeeze_mask=literal([place == axis for place in places], BOOL),
        )

    def pad(self, x: Value, *pad: int) -> Value:
        """Zeros before and after each axis."""
        shape = tuple(side + pad[2 * axis] + pad[2 * axis + 1] for axis, side in enumerate(x.shape))
        mode, zero = self._text("constant"), self._number(0.0, x.dtype)
        return self._op("pad", x.dtype, shape, x=x, pad=self._ints(*pad), mode=mode, constant_val=zero)

    def upsample(self, x: Value, factor: int = 2) -> Value:
        batch, channels, height, width = x.shape
        scale = self.program.literal(float(factor), FP32)
        shape = (batch, channels, factor * height, factor * width)
        return self._op(
            "upsample_nearest_neighbor", x.dtype, shape, x=x, scale_factor_height=scale, scale_factor_width=scale
        )

    # -- along axes -----------------------------------------------------------------------------------------------

    def reduce(self, kind: str, x: Value, *axes: int, keep: bool = True) -> Value:
        """reduce_mean, reduce_max, reduce_l2_norm."""
        shape = tuple(1 if axis in axes else side for axis, side in enumerate(x.shape) if keep or axis not in axes)
        return self._op(kind, x.dtype, shape, x=x, axes=self._ints(*axes), keep_dims=self._bool(keep))

    def argmax(self, x: Value, axis: int) -> Value:
        more = {"output_dtype": self._text("int32")} if self.program.version >= 8 else {}
        shape = _without(x.shape, axis)
        return self._op("reduce_argmax", INT32, shape, x=x, axis=self._int(axis), keep_dims=self._bool(False), **more)

    def gather(self, x: Value, indices: Value) -> Value:
        """Rows of x."""
        more = {"validate_indices": self._bool(False)} if self.program.version >= 8 else {}
        shape = indices.shape + x.shape[1:]
        zero = self._int(0)
        return self._op("gather", x.dtype, shape, x=x, indices=indices, axis=zero, batch_dims=zero, **more)

    def gather_nd(self, x: Value, indices: Value) -> Value:
        more = {"validate_indices": self._bool(False)} if self.program.version >= 8 else {}
        shape = indices.shape[:-1] + x.shape[indices.shape[-1] :]
        return self._op("gather_nd", x.dtype, shape, x=x, indices=indices, batch_dims=self._int(0), **more)

    def matmul(self, x: Value, y: Value, *, transpose_x: bool = False, transpose_y: bool = False) -> Value:
        rows, inner = x.shape[-2:][:: -1 if transpose_x else 1]
        other, columns = y.shape[-2:][:: -1 if transpose_y else 1]
        if inner != other:
            raise ValueError(f"matmul of {x.shape} and {y.shape} in {self.path}")
        shape = _broadcast(x.shape[:-2], y.shape[:-2]) + (rows, columns)
        flags = {"transpose_x": self._bool(transpose_x), "transpose_y": self._bool(transpose_y)}
        return self._op("matmul", x.dtype, shape, x=x, y=y, **flags)

    def einsum(self, equation: str, x: Value, y: Value) -> Value:
        given, result = equation.split("->")
        sizes: dict[str, int] = {}
        for letters, value in zip(given.split(","), (x, y), strict=True):
            for letter, side in zip(letters, value.shape, strict=True):
                if sizes.setdefault(letter, side) != side:
                    raise ValueError(f"einsum {equation} of {x.shape} and {y.shape} in {self.path}")
        shape = tuple(sizes[letter] for letter in result)
        return self._op("einsum", x.dtype, shape, values=[x, y], equation=self._text(equation))

    @property
    def fuses(self) -> bool:
        """Whether the target has attention as one operation, which scales the query itself."""
        return self.program.version >= 9

    def attend(self, query: Value, key: Value, value: Value, mask: Value | None = None) -> Value:
        """softmax(query · keyᵀ + mask) · value; the query is scaled, unless the target `fuses`."""
        if self.fuses:
            shape, more = query.shape[:-1] + value.shape[-1:], {"attn_mask": mask} if mask else {}
            kind = "scaled_dot_product_attention"
            return self._op(kind, query.dtype, shape, query=query, key=key, value=value, **more)
        scores = self.matmul(query, key, transpose_y=True)
        scores = self.add(scores, mask) if mask else scores
        return self.matmul(self.softmax(scores, -1), value)

    # -- layers with weights --------------------------------------------------------------------------------------

    def conv(
        self, path: str, x: Value, out: int, *, kernel: int = 1, stride: int = 1, pad: int | None = None,
        bias: bool = True,
    ) -> Value:  # fmt: skip
        """A square convolution; padded so that it keeps the size, unless `pad` says otherwise."""
        pad = kernel // 2 if pad is None else pad
        at = self / path
        batch, channels, *sides = x.shape
        weight = at.weight("weight", (out, channels, kernel, kernel))
        more = {"bias": at.weight("bias", (out,))} if bias else {}
        shape = (batch, out, *[(side + 2 * pad - kernel) // stride + 1 for side in sides])
        return self._op(
            "conv", x.dtype, shape, path, x=x, weight=weight, **more,
            pad_type=self._text("custom" if pad else "valid"), pad=self._ints(pad, pad, pad, pad),
            strides=self._ints(stride, stride), dilations=self._ints(1, 1), groups=self._int(1),
        )  # fmt: skip

    def linear(self, path: str, x: Value, out: int, *, bias: bool = True) -> Value:
        at = self / path
        weight = at.weight("weight", (out, x.shape[-1]))
        return self.linear_of(x, weight, at.weight("bias", (out,)) if bias else self.zeros(out), path)

    def linear_of(self, x: Value, weight: Value, bias: Value, path: str = "") -> Value:
        return self._op("linear", x.dtype, x.shape[:-1] + weight.shape[:1], path, x=x, weight=weight, bias=bias)

    def zeros(self, size: int) -> Value:
        return self.program.literal(np.zeros(size, np.float32), self.program.floats, name=f"zeros_{size}")

    def ones(self, size: int) -> Value:
        return self.program.literal(np.ones(size, np.float32), self.program.floats, name=f"ones_{size}")

    def layer_norm(self, path: str, x: Value, eps: float = 1e-5, axis: int = -1) -> Value:
        at, size = self / path, x.shape[axis]
        gamma, beta = at.weight("weight", (size,)), at.weight("bias", (size,))
        eps_ = self._number(eps, x.dtype)
        return self._op("layer_norm", x.dtype, x.shape, path, x=x, axes=self._ints(axis), gamma=gamma, beta=beta, epsilon=eps_)

    def group_norm(self, path: str, x: Value, groups: int, eps: float, *, flat: bool = False) -> Value:
        """As coremltools writes it: Core ML has no group norm. `flat`: the result is (B, C, H·W)."""
        at = self / path
        batch, channels, *sides = x.shape
        sides = [math.prod(sides)] if flat else sides
        axes = range(2, 3 + len(sides))
        grouped = at.reshape(x, batch, groups, channels // groups, *sides)
        centred = at.sub(grouped, at.reduce("reduce_mean", grouped, *axes))
        variance = at.reduce("reduce_mean", at.square(centred), *axes)
        normal = at.reshape(at.real_div(centred, at.sqrt(at.add(variance, eps))), batch, channels, *sides)
        if flat:
            scaled = at.mul(normal, at.weight("weight", (1, channels, 1)))
            return at.add(scaled, at.weight("bias", (1, channels, 1)))
        zero, one = self.zeros(channels), self.ones(channels)
        gamma, beta = at.weight("weight", (channels,)), at.weight("bias", (channels,))
        more = {"mean": zero, "variance": one, "epsilon": self._number(1e-5, x.dtype)}
        return self._op("batch_norm", x.dtype, x.shape, path, x=normal, gamma=gamma, beta=beta, **more)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _broadcast(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    return x if x == y or not y else np.broadcast_shapes(x, y)


def _plain(path: str) -> str:
    return path.replace(".", "_")


def _literal_name(elements: Any, dtype: int) -> str:
    if isinstance(elements, str):
        text = elements.replace(",", "_").replace("->", "_")
    elif isinstance(elements, (list, tuple)):
        text = "_".join(str(int(one)) for one in elements) or "none"
        kind = {INT32: "ints", BOOL: "bools"}[dtype]
        return f"{kind}_{text}".replace("-", "m")
    else:
        text = f"{elements:g}" if isinstance(elements, float) else str(elements)
    kind = {STRING: "text", INT32: "int", BOOL: "bool", FP16: "half", FP32: "float"}[dtype]
    return f"{kind}_{text}".replace("-", "m").replace(".", "_").replace("+", "")


_STRING_TYPE = tensor_type(STRING, [])


def _string(text: str) -> schema.Value:
    value = schema.Value(type=_STRING_TYPE)
    value.immediateValue.tensor.strings.values.append(text)
    return value
