"""Small ML Programs and packages, built by hand, and random ones for property tests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import MODEL, serialize, write_manifest
from hubpub.coreml.values import DTYPE_NAMES, FLOATS, SUB_BYTE, string_value, tensor_type, tensor_value
from hubpub.coreml.weight_file import BlobWriter

ARRAY = schema.ArrayFeatureType
OPSET_OF_SPEC = {6: "CoreML5", 7: "CoreML6", 8: "CoreML7", 9: "CoreML8"}


def operation(
    kind: str,
    outputs: Mapping[str, schema.ValueType],
    inputs: Mapping[str, str | schema.Value | Sequence[str]] | None = None,
    attributes: Mapping[str, schema.Value] | None = None,
    blocks: Sequence[schema.Block] = (),
) -> schema.Operation:
    """One operation; an input is a value's name, several names, or a value."""
    result = schema.Operation(type=kind, blocks=blocks)
    for name, value_type in outputs.items():
        result.outputs.add(name=name, type=value_type)
    for key, given in (inputs or {}).items():
        bound = result.inputs[key].arguments
        if isinstance(given, schema.Value):
            bound.add().value.CopyFrom(given)
        else:
            for name in [given] if isinstance(given, str) else given:
                bound.add().name = name
    for key, value in (attributes or {}).items():
        result.attributes[key].CopyFrom(value)
    return result


def const(name: str, value: schema.Value, *, named: bool = False) -> schema.Operation:
    """A constant, with its name as an attribute if `named`, as coremltools writes them."""
    attributes = {"val": value} | ({"name": string_value(name)} if named else {})
    return operation("const", {name: value.type}, attributes=attributes)


def blob_value(
    dtype: int, sizes: Sequence[int], offset: int, *, file: str = "@model_path/weights/weight.bin"
) -> schema.Value:
    """A value in a weight file."""
    value = schema.Value(type=tensor_type(dtype, sizes))
    value.blobFileValue.fileName = file
    value.blobFileValue.offset = offset
    return value


def block(operations: Iterable[schema.Operation], outputs: Sequence[str], **inputs: schema.ValueType) -> schema.Block:
    """A block; `inputs` are its parameters."""
    result = schema.Block(operations=operations, outputs=outputs)
    for name, value_type in inputs.items():
        result.inputs.add(name=name, type=value_type)
    return result


def feature(
    name: str,
    sizes: Sequence[int],
    *,
    dtype: int = ARRAY.FLOAT32,
    ranges: Sequence[tuple[int, int]] | None = None,
    text: str = "",
) -> schema.FeatureDescription:
    """An array input or output of a model's description."""
    result = schema.FeatureDescription(name=name, shortDescription=text)
    array = result.type.multiArrayType
    array.shape.extend(sizes)
    array.dataType = dtype
    if ranges is not None:
        for low, high in ranges:
            array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
    return result


def function(main: schema.Block, *, opset: str = "CoreML7", **inputs: schema.ValueType) -> schema.Function:
    """A function with one block."""
    result = schema.Function(opset=opset)
    for name, value_type in inputs.items():
        result.inputs.add(name=name, type=value_type)
    result.block_specializations[opset].CopyFrom(main)
    return result


def model(
    functions: Mapping[str, schema.Function],
    *,
    spec: int = 9,
    inputs: Sequence[schema.FeatureDescription] = (),
    outputs: Sequence[schema.FeatureDescription] = (),
) -> schema.Model:
    """A model around functions, described by `inputs` and `outputs`."""
    result = schema.Model(specificationVersion=spec)
    result.description.input.extend(inputs)
    result.description.output.extend(outputs)
    result.mlProgram.version = 1
    for name, one in functions.items():
        result.mlProgram.functions[name].CopyFrom(one)
    return result


def tiny(
    *, spec: int = 7, operations: Sequence[schema.Operation] = (), values: Sequence[float] = (1.0, 2.0)
) -> schema.Model:
    """x + [values], with a few more operations in front if given; the smallest sound model."""
    kind = tensor_type(schema.FLOAT32, (len(values),))
    body = block(
        [
            *operations,
            const("w", tensor_value(values, schema.FLOAT32, (len(values),))),
            operation("add", {"y": kind}, {"x": "x", "y": "w"}),
        ],
        ["y"],
    )
    return model(
        {"main": function(body, opset=OPSET_OF_SPEC[spec], x=kind)},
        spec=spec,
        inputs=[feature("x", (len(values),))],
        outputs=[feature("y", (len(values),))],
    )


def weighted(*, spec: int = 7, rows: int = 8, dtype: int = schema.FLOAT16, offset: int = 64) -> schema.Model:
    """x + w with w in the weight file."""
    kind = tensor_type(dtype, (rows,))
    body = block(
        [const("w", blob_value(dtype, (rows,), offset)), operation("add", {"y": kind}, {"x": "x", "y": "w"})], ["y"]
    )
    return model(
        {"main": function(body, opset=OPSET_OF_SPEC[spec], x=kind)},
        spec=spec,
        inputs=[feature("x", (rows,), dtype=ARRAY.FLOAT16)],
        outputs=[feature("y", (rows,), dtype=ARRAY.FLOAT16)],
    )


def save_package(
    folder: Path,
    source: schema.Model | bytes,
    blobs: Sequence[tuple[int, Any]] = (),
    *,
    file: str = "weights/weight.bin",
) -> Path:
    """Write a .mlpackage; `blobs` are (MIL data type, array) in the order of the file."""
    data = source if isinstance(source, bytes) else serialize(source)
    path = folder / MODEL
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    if blobs:
        weights = path.parent / file
        weights.parent.mkdir(parents=True, exist_ok=True)
        with BlobWriter(weights) as writer:
            for dtype, array in blobs:
                writer.add(dtype, array)
    write_manifest(folder, weights=bool(blobs), identity=hashlib.sha256(data).hexdigest())
    return folder


def weighted_package(folder: Path, **options: Any) -> Path:
    """`weighted` as a package, with its weight file."""
    rows = options.get("rows", 8)
    return save_package(folder, weighted(**options), [(schema.FLOAT16, np.arange(rows, dtype=np.float16))])


# Random programs ---------------------------------------------------------------------------------------------------

_NAMES = st.text("aZ_", min_size=1, max_size=2).flatmap(lambda first: st.text("b9@_", max_size=3).map(first.__add__))
_STRINGS = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters='"\\\x7f'), max_size=12)
_BITS = {schema.UINT1: 1, schema.UINT2: 2, schema.UINT3: 3, schema.UINT4: 4, schema.UINT6: 6}
_RANGES = {
    schema.INT4: (-8, 7),
    **{dtype: (0, (1 << bits) - 1) for dtype, bits in _BITS.items()},
    **{getattr(schema, f"INT{bits}"): (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (8, 16, 32, 64)},
    **{getattr(schema, f"UINT{bits}"): (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)},
}
_INLINE = sorted(set(DTYPE_NAMES) - {schema.BFLOAT16})


def elements(dtype: int) -> st.SearchStrategy[Any]:
    """Any element of a MIL data type; no NaN, which is not equal to itself."""
    if dtype == schema.STRING:
        return _STRINGS
    if dtype == schema.BOOL:
        return st.booleans()
    if dtype in FLOATS:
        width = {schema.FLOAT16: 16, schema.FLOAT32: 32, schema.FLOAT64: 64}[dtype]
        return st.floats(width=width, allow_nan=False)  # type: ignore[arg-type]
    low, high = _RANGES[dtype]
    return st.integers(low, high)


@st.composite
def tensors(draw: st.DrawFn) -> schema.Value:
    """Any inline tensor, also empty and scalar ones."""
    dtype = draw(st.sampled_from(_INLINE))
    sizes = draw(st.lists(st.integers(0, 3), max_size=3))
    count = int(np.prod(sizes, dtype=np.int64))
    if dtype in SUB_BYTE and not count:
        sizes, count = [1], 1  # the packed bytes of nothing are nothing
    return tensor_value(draw(st.lists(elements(dtype), min_size=count, max_size=count)), dtype, sizes)


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> schema.Value:
    """Any value: a tensor, a blob, or a list, tuple or dictionary of such."""
    kind = draw(st.sampled_from(["tensor", "blob", "list", "tuple", "dict"] if depth else ["tensor"]))
    if kind == "blob":
        dtype = draw(st.sampled_from(sorted(set(_INLINE) - {schema.STRING, schema.BOOL})))
        sizes = draw(st.lists(st.integers(0, 1 << 40), max_size=4))
        return blob_value(dtype, sizes, draw(st.integers(0, (1 << 59))), file="@model_path/weights/" + draw(_NAMES))
    if kind == "tensor":
        return draw(tensors())
    result = schema.Value()
    if kind == "tuple":
        members = draw(st.lists(values(depth=depth - 1).filter(_inline), max_size=3))
        result.type.tupleType.SetInParent()
        result.immediateValue.tuple.SetInParent()
        result.type.tupleType.types.extend(member.type for member in members)
        result.immediateValue.tuple.values.extend(members)
        return result
    members = [draw(values(depth=depth - 1).filter(_inline))] * draw(st.integers(1, 3))
    if kind == "list":
        result.type.listType.type.CopyFrom(members[0].type)
        result.type.listType.length.constant.size = len(members)
        result.immediateValue.list.values.extend(members)
        return result
    result.type.dictionaryType.keyType.CopyFrom(tensor_type(schema.STRING))
    result.type.dictionaryType.valueType.CopyFrom(members[0].type)
    for member in members:
        result.immediateValue.dictionary.values.add(key=string_value(draw(_STRINGS)), value=member)
    return result


def _inline(value: schema.Value) -> bool:
    return value.WhichOneof("value") == "immediateValue"


@st.composite
def types(draw: st.DrawFn) -> schema.ValueType:
    """Any type that a value of a program can have."""
    dtype = draw(st.sampled_from(sorted(DTYPE_NAMES)))
    sizes = draw(st.lists(st.none() | st.integers(0, 1 << 40), max_size=4))
    tensor = tensor_type(dtype, sizes)
    if draw(st.integers(0, 9)):
        return tensor
    result = schema.ValueType()
    result.listType.type.CopyFrom(tensor)
    result.listType.length.unknown.SetInParent()
    return result


@st.composite
def bodies(draw: st.DrawFn, depth: int = 2) -> schema.Block:
    """Any block; names need not make sense, only be names."""
    result = schema.Block(outputs=draw(st.lists(_NAMES, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        one = result.operations.add(type=draw(_NAMES))
        for name in draw(st.lists(_NAMES, min_size=1, max_size=2)):
            one.outputs.add(name=name, type=draw(types()))
        for key in draw(st.lists(_NAMES, max_size=3, unique=True)):
            for _ in range(draw(st.integers(1, 3))):
                bound = one.inputs[key].arguments.add()
                if draw(st.booleans()):
                    bound.name = draw(_NAMES)
                else:
                    bound.value.CopyFrom(draw(values()))
        for key in draw(st.lists(_NAMES, max_size=2, unique=True)):
            one.attributes[key].CopyFrom(draw(values()))
        for _ in range(draw(st.integers(0, 2)) if depth else 0):
            inner = one.blocks.add()
            inner.CopyFrom(draw(bodies(depth=depth - 1)))
            for name in draw(st.lists(_NAMES, max_size=2)):
                inner.inputs.add(name=name, type=draw(types()))
    return result


@st.composite
def programs(draw: st.DrawFn) -> schema.Program:
    """Any program that MIL text can hold, its functions' inputs in the order of their names."""
    result = schema.Program(version=1)
    for name in draw(st.lists(_NAMES, min_size=1, max_size=2, unique=True)):
        one = result.functions[name]
        one.opset = draw(st.sampled_from(["CoreML5", "CoreML6", "CoreML7", "CoreML8"]))
        for parameter in sorted(draw(st.lists(_NAMES, max_size=3, unique=True))):
            one.inputs.add(name=parameter, type=draw(types()))
        one.block_specializations[one.opset].CopyFrom(draw(bodies()))
    return result
