"""Programs: a network, written as an ML Program for one target.

    model = write(lambda at: unet(at, config, size, "original"), target="macOS13", constants=index)

Operations stand in the order in which the network appends them; names are given once
each; every literal is written once for all operations that use it. Weights are asked of
`constants`; without any they are references, `@source/<tensor>` or
`@source/<transform>(<tensor>)`, which is what structure tests compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.constants import Array, Constants, Dense, Inline, Literal, Palette, Recorder, Tensor
from hubpub.coreml.package import WEIGHT_REFERENCE
from hubpub.coreml.values import encode, string_value, tensor_type, tensor_value
from hubpub.errors import BadPackage
from hubpub.networks.scope import Dtype, Scope, Value

# Raised whenever a change of the networks or of this package changes the bytes of programs (a test compares them).
PROGRAM_VERSION = 1

SOURCE_PREFIX = "@source/"
# Smaller arrays stay in the program (coremltools' rule).
SMALLEST_BLOB: Final = 10
INDEX_TYPES: Final = {1: schema.UINT1, 2: schema.UINT2, 4: schema.UINT4, 6: schema.UINT6, 8: schema.UINT8}

TYPES: Final[Mapping[Dtype, int]] = {
    "fp16": schema.FLOAT16,
    "fp32": schema.FLOAT32,
    "int32": schema.INT32,
    "bool": schema.BOOL,
    "string": schema.STRING,
}
_ARRAYS: Final = {"fp16": schema.ArrayFeatureType.FLOAT16, "fp32": schema.ArrayFeatureType.FLOAT32}
_NUMPY: Final = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
# Target → opset and specification version; iOS targets name the same as the macOS of their year.
_OPSETS: Final = {
    "macOS13": ("CoreML6", 7),
    "iOS16": ("CoreML6", 7),
    "macOS14": ("CoreML7", 8),
    "iOS17": ("CoreML7", 8),
    "macOS15": ("CoreML8", 9),
    "iOS18": ("CoreML8", 9),
}


def write(
    network: Callable[[Scope], None], *, target: str, floats: Dtype = "fp16", constants: Constants | None = None
) -> schema.Model:
    """The model of a network.

    `target` is macOS13 … macOS15 or iOS16 … iOS18; `floats` what weights are stored and
    computed in. Raises BadPackage where `constants` do not hold what the network asks for,
    or where a network uses a tensor twice.
    """
    from hubpub.coreml.scope import CoreMLScope

    program = Program(target, floats, constants)
    network(CoreMLScope(program))
    return program.model


def constants_of(
    network: Callable[[Scope], None], *, floats: Dtype = "fp16"
) -> tuple[tuple[Tensor, ...], tuple[Literal, ...]]:
    """The tensors that a network takes from its source, and its own arrays of 10 elements and more, in order of use.

    They are the same for every attention, size and target.
    """
    recorder = Recorder()
    model = write(network, target="macOS13", floats=floats, constants=recorder)
    gathered = {
        operation.inputs["x"].arguments[0].name
        for operation in main_block(model).operations
        if operation.type == "gather"
    }
    tensors = (replace(one, gathered=constant_name(one.name) in gathered) for one in recorder.tensors)
    return tuple(tensors), tuple(recorder.literals)


def main_block(model: schema.Model) -> schema.Block:
    """The block of `main` that its opset selects."""
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def constant_name(tensor: str) -> str:
    """The name of a tensor's constant; a palettized one ends in `_palettized` besides."""
    return tensor.replace(".", "_")


class Program:
    """The program that is being written."""

    def __init__(self, target: str, floats: Dtype = "fp16", constants: Constants | None = None) -> None:
        self.floats = floats
        opset, self.version = _OPSETS[target]
        self.model = schema.Model(specificationVersion=self.version)
        self.model.mlProgram.version = 1
        self.function = self.model.mlProgram.functions["main"]
        self.function.opset = opset
        self.block = self.function.block_specializations[opset]
        self._constants = constants
        self._names: dict[str, int] = {}
        self._literals: dict[Any, Value] = {}
        self._types: dict[Any, schema.ValueType] = {}
        self._tensors: set[str] = set()

    # -- interface -------------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], dtype: Dtype) -> Value:
        value = Value(self._unique(name), dtype, tuple(shape))
        self.function.inputs.add(name=name, type=self._type(dtype, value.shape))
        self._describe(self.model.description.input, value)
        return value

    def output(self, name: str, value: Value) -> None:
        """Declare an output, in fp32: through a cast of that name, or as the last operation renamed."""
        if value.dtype == "fp32":
            result = self._renamed(value, name)
        else:
            text = self.literal("fp32", "string")
            [result] = self.op("cast", [("fp32", value.shape)], name, x=value, dtype=text)
        self.block.outputs.append(result.name)
        self._describe(self.model.description.output, result)

    def _describe(self, features: Any, value: Value) -> None:
        entry = features.add(name=value.name)
        entry.type.multiArrayType.shape.extend(value.shape)
        entry.type.multiArrayType.dataType = _ARRAYS[value.dtype]

    def _renamed(self, value: Value, name: str) -> Value:
        operation = self.block.operations[-1]
        if operation.outputs[0].name != value.name:
            raise BadPackage(f"{name} is not the result of the last operation.")
        operation.outputs[0].name = self._unique(name)
        _name(operation, name)
        return value._replace(name=name)

    # -- constants -------------------------------------------------------------------------------------------------

    def weight(self, tensor: str, shape: Sequence[int], transform: str = "") -> Value:
        """The source's tensor of that name, which a program may use once."""
        if tensor in self._tensors:
            raise BadPackage(f"The network uses the tensor {tensor} twice.")
        self._tensors.add(tensor)
        value = Value(self._unique(constant_name(tensor)), self.floats, tuple(shape))
        if self._constants is None:
            reference = f"{transform}({tensor})" if transform else tensor
            self._const(value).blobFileValue.fileName = f"{SOURCE_PREFIX}{reference}"
            return value
        placed = self._constants.weight(tensor, transform, value.shape, self.floats)
        return self._palette(value, placed) if isinstance(placed, Palette) else self._place(value, placed)

    def literal(self, elements: Any, dtype: Dtype, name: str = "") -> Value:
        """A constant of the program itself: a number, a text, a list of them, or an array."""
        key = _literal_key(elements, dtype)
        value = self._literals.get(key)
        if value is not None:
            return value
        name = self._unique(name or _literal_name(elements, dtype))
        if dtype == "string":
            value = Value(name, dtype, ())
            self._const(value).immediateValue.tensor.CopyFrom(encode([elements], schema.STRING))
        else:
            array: Array = np.asarray(elements, _NUMPY[dtype])
            value = Value(name, dtype, array.shape)
            placed: Dense | Inline = Inline(values=array)
            if self._constants is not None and array.size >= SMALLEST_BLOB and dtype in ("fp16", "fp32"):
                placed = self._constants.literal(array, dtype)
            self._place(value, placed)
        self._literals[key] = value
        return value

    def _place(self, value: Value, placed: Dense | Inline) -> Value:
        content = self._const(value)
        if isinstance(placed, Dense):
            content.blobFileValue.fileName = WEIGHT_REFERENCE
            content.blobFileValue.offset = placed.offset
        else:
            elements = placed.values.reshape(-1).tolist()
            content.immediateValue.tensor.CopyFrom(encode(elements, TYPES[value.dtype]))
        return value

    def _palette(self, value: Value, placed: Palette) -> Value:
        """`constexpr_lut_to_dense`, in the form of the target.

        Up to iOS 17 indices are bytes and arguments are attributes; from iOS 18 on indices have
        the tensor's shape and a type as wide as they are, the table has rank + 2, and both are inputs.
        """
        value = value._replace(name=f"{value.name}_palettized")
        operation = self.block.operations.add(type="constexpr_lut_to_dense")
        operation.outputs.add(name=value.name, type=self._type(value.dtype, value.shape))
        _name(operation, value.name)
        if self.version >= 9:
            indices, lut = (operation.inputs[name].arguments.add().value for name in ("indices", "lut"))
            indices.type.CopyFrom(tensor_type(INDEX_TYPES[placed.bits], value.shape))
            lut.type.CopyFrom(tensor_type(schema.FLOAT16, [1] * len(value.shape) + [1 << placed.bits, 1]))
        else:
            indices, lut = operation.attributes["indices"], operation.attributes["lut"]
            indices.type.CopyFrom(tensor_type(schema.UINT8, [placed.indices_bytes]))
            lut.type.CopyFrom(tensor_type(schema.FLOAT16, [1 << placed.bits]))
            shape = tensor_value(value.shape, schema.UINT32, [len(value.shape)])
            operation.attributes["shape"].CopyFrom(shape)
        indices.blobFileValue.fileName, indices.blobFileValue.offset = WEIGHT_REFERENCE, placed.indices
        if isinstance(placed.lut, int):
            lut.blobFileValue.fileName, lut.blobFileValue.offset = WEIGHT_REFERENCE, placed.lut
        else:
            lut.immediateValue.tensor.CopyFrom(encode(placed.lut.reshape(-1).tolist(), schema.FLOAT16))
        return value

    def _const(self, value: Value) -> schema.Value:
        operation = self.block.operations.add(type="const")
        operation.outputs.add(name=value.name, type=self._type(value.dtype, value.shape))
        _name(operation, value.name)
        content = operation.attributes["val"]
        content.type.CopyFrom(self._type(value.dtype, value.shape))
        return content

    # -- operations ------------------------------------------------------------------------------------------------

    def op(
        self,
        kind: str,
        results: Sequence[tuple[Dtype, tuple[int, ...]]],
        name: str,
        /,
        **inputs: Value | Iterable[Value],
    ) -> list[Value]:
        """Append an operation; positional-only, because arguments of MIL are called `kind`, `name` and `shape`, too."""
        operation = self.block.operations.add(type=kind)
        for key, argument in inputs.items():
            bindings = operation.inputs[key].arguments
            for value in [argument] if isinstance(argument, Value) else argument:
                bindings.add(name=value.name)
        name = self._unique(name)
        _name(operation, name)
        values = []
        for place, (dtype, shape) in enumerate(results):
            value = Value(name if len(results) == 1 else f"{name}_{place}", dtype, shape)
            operation.outputs.add(name=value.name, type=self._type(dtype, shape))
            values.append(value)
        return values

    def _type(self, dtype: Dtype, shape: tuple[int, ...]) -> schema.ValueType:
        if (dtype, shape) not in self._types:
            self._types[dtype, shape] = tensor_type(TYPES[dtype], shape)
        return self._types[dtype, shape]

    def _unique(self, name: str) -> str:
        """A name that no value of the program has; names must be identifiers."""
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return name if not count else self._unique(f"{name}_{count}")


_TEXT = string_value("").type


def _name(operation: schema.Operation, name: str) -> None:
    """Set an operation's `name`; as `string_value` would, for the tens of thousands that a large UNet has."""
    value = operation.attributes["name"]
    value.type.CopyFrom(_TEXT)
    del value.immediateValue.tensor.strings.values[:]
    value.immediateValue.tensor.strings.values.append(name)


def number(value: float, dtype: Dtype) -> float:
    """A scalar as coremltools rounds it: what fp16 would round to zero becomes its smallest, 2⁻²⁴."""
    if dtype != "fp16":
        return float(value)
    rounded = float(np.float16(value))
    return rounded or (math.copysign(2.0**-24, value) if value else 0.0)


def _literal_key(elements: Any, dtype: Dtype) -> Any:
    if isinstance(elements, np.ndarray):
        return dtype, elements.shape, elements.tobytes()
    if isinstance(elements, list | tuple):
        return dtype, tuple(elements)
    return dtype, elements, type(elements)  # True == 1


def _literal_name(elements: Any, dtype: Dtype) -> str:
    """A readable identifier: int_1, ints_0_2_1, half_0_125, text_custom."""
    if isinstance(elements, str):
        text = elements.replace(",", "_").replace("->", "_")
    elif isinstance(elements, list | tuple):
        text = "_".join(str(int(one)) for one in elements) or "none"
    else:
        text = f"{elements:g}" if isinstance(elements, float) else str(elements)
    kind = {"string": "text", "int32": "int", "bool": "bool", "fp16": "half", "fp32": "float"}[dtype]
    plural = "s" if isinstance(elements, list | tuple) else ""
    return f"{kind}{plural}_{text}".replace("-", "m").replace(".", "_").replace("+", "")
