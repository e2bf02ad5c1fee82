"""Walks an ML Program once: checks its consistency, lists its weights, counts its operations and precisions.

The counts are those that Apple's compiler writes into `metadata.json`; the rules were derived
from its output.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.printer import OPSETS
from hubpub.coreml.values import DTYPE_NAMES, dimensions
from hubpub.errors import BadPackage, UnsupportedOps

PRECISIONS: Mapping[int, str] = {
    schema.FLOAT16: "Float16",
    schema.FLOAT32: "Float32",
    schema.FLOAT64: "Float64",
    schema.BFLOAT16: "BFloat16",
    schema.INT4: "Int4",
    schema.INT8: "Int8",
    schema.INT16: "Int16",
    schema.INT32: "Int32",
    schema.INT64: "Int64",
    schema.UINT1: "UInt1",
    schema.UINT2: "UInt2",
    schema.UINT3: "UInt3",
    schema.UINT4: "UInt4",
    schema.UINT6: "UInt6",
    schema.UINT8: "UInt8",
    schema.UINT16: "UInt16",
    schema.UINT32: "UInt32",
    schema.UINT64: "UInt64",
}
# Element types of inline values that were compared with Apple's output; others are reported as unverified.
_COMPARED_INLINE = frozenset(
    {schema.FLOAT16, schema.FLOAT32, schema.INT32, schema.INT8, schema.UINT32, schema.BOOL, schema.STRING}
)
_COMPARED_CONSTEXPR = frozenset({"constexpr_affine_dequantize", "constexpr_lut_to_dense", "constexpr_sparse_to_dense"})
# The operand of each compression operation that is the weight.
_DATA_OPERANDS = {
    "constexpr_affine_dequantize": "quantized_data",
    "constexpr_lut_to_dense": "indices",
    "constexpr_lut_to_sparse": "indices_nonzero_data",
    "constexpr_sparse_to_dense": "nonzero_data",
    "constexpr_sparse_blockwise_shift_scale": "nonzero_data",
    "constexpr_blockwise_shift_scale": "data",
}
_COMPARED_PALETTE_BITS = frozenset({2, 4, 6, 8})
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*")
# Reserved words of MIL text: Core ML cannot read a value with such a name.
_KEYWORDS = frozenset({"any", "bf16", "dict", "false", "func", "list", "program", "state", "true", "tuple", "tensor"})
RESERVED = _KEYWORDS | frozenset(DTYPE_NAMES.values())


@dataclass(frozen=True, kw_only=True)
class BlobUse:
    """A constant in a weight file."""

    file: str  # as the program writes it: @model_path/weights/weight.bin
    offset: int
    dtype: int
    sizes: tuple[int | None, ...]


@dataclass(kw_only=True)
class FunctionSurvey:
    """Counts and precisions of one function."""

    opset: str  # ios15 … ios18
    operations: Counter[str] = field(default_factory=Counter)  # operation type → count, without constants
    compute: set[str] = field(default_factory=set)  # numeric types of results and constants
    storage: set[str] = field(default_factory=set)  # how weights in files are stored


@dataclass(kw_only=True)
class Survey:
    """The contents of a program, and the forms in it that were never compared with Apple's output."""

    functions: dict[str, FunctionSurvey] = field(default_factory=dict)
    blobs: list[BlobUse] = field(default_factory=list)
    unverified: set[str] = field(default_factory=set)


def survey(program: schema.Program) -> Survey:
    """Walk the program. Raises BadPackage for an inconsistent program, UnsupportedOps for forms that are not known."""
    result = Survey()
    if not program.functions:
        raise BadPackage("The model's program has no function.")
    for name in sorted(program.functions):
        _check_name(name, "function")
        function = program.functions[name]
        if function.opset not in OPSETS or function.opset not in function.block_specializations:
            raise BadPackage(f"The function {name} has no block for its operation set {function.opset!r}.")
        counts = FunctionSurvey(opset=OPSETS[function.opset])
        result.functions[name] = counts
        if function.attributes:
            result.unverified.add("function attributes")
        visible: set[str] = set()
        _define(function.inputs, visible)
        _block(function.block_specializations[function.opset], visible, counts, result)
    if len(program.functions) > 1:
        result.unverified.add("several functions")
    return result


def precision(members: Iterable[str]) -> str:
    """One precision's name, or `Mixed (a, b)` sorted by name; empty for none."""
    names = sorted(members)
    return names[0] if len(names) == 1 else f"Mixed ({', '.join(names)})" if names else ""


def _block(block: schema.Block, visible: set[str], counts: FunctionSurvey, result: Survey) -> None:
    if block.attributes:
        raise UnsupportedOps(
            "The model has a block with attributes, whose spelling is not known.", ops=list(block.attributes)
        )
    for operation in block.operations:
        _operation(operation, visible, counts, result)
    for name in block.outputs:
        if name not in visible:
            raise BadPackage(f"The model's block returns {name[:80]!r}, which nothing in it computes.")


def _operation(operation: schema.Operation, visible: set[str], counts: FunctionSurvey, result: Survey) -> None:
    kind = operation.type
    _arguments(operation, visible, result)
    if kind == "const":
        _constant(operation, counts, result)
    else:
        _check_name(kind, "operation")
        counts.operations[kind] += 1
        for key, value in operation.attributes.items():
            _check_name(key, "attribute")
            _value(value, result)
        if kind.startswith("constexpr_"):
            _compressed(operation, counts, result)
        else:
            counts.compute.update(
                PRECISIONS[output.type.tensorType.dataType]
                for output in operation.outputs
                if output.type.tensorType.dataType in PRECISIONS
            )
    for block in operation.blocks:
        result.unverified.add("nested blocks")
        inner = set(visible)
        _define(block.inputs, inner)
        _block(block, inner, counts, result)
    if not operation.outputs:
        raise UnsupportedOps(f"The model has an operation {kind} without a result.", ops=[kind])
    _define(operation.outputs, visible)


def _arguments(operation: schema.Operation, visible: set[str], result: Survey) -> None:
    for key, argument in operation.inputs.items():
        _check_name(key, "argument")
        if not argument.arguments:
            raise BadPackage(f"The model has an operation {operation.type} whose argument {key} is empty.")
        for bound in argument.arguments:
            if bound.name:
                if bound.name not in visible:
                    raise BadPackage(
                        f"The model's operation {operation.type} uses {bound.name[:80]!r} before anything computes it.",
                        hint="The package is damaged, or its program is cyclic.",
                    )
            else:
                _value(bound.value, result)


def _constant(operation: schema.Operation, counts: FunctionSurvey, result: Survey) -> None:
    if "val" not in operation.attributes:
        raise BadPackage("The model has a constant without a value.")
    for key, value in operation.attributes.items():
        _value(value, result)
        if key == "val" and value.type.tensorType.dataType in PRECISIONS:
            name = PRECISIONS[value.type.tensorType.dataType]
            counts.compute.add(name)
            if value.WhichOneof("value") == "blobFileValue":
                counts.storage.add(name)


def _compressed(operation: schema.Operation, counts: FunctionSurvey, result: Survey) -> None:
    """Record the storage precision of a constexpr_* operation: that of its data, not of scales or palettes."""
    kind = operation.type
    if kind not in _COMPARED_CONSTEXPR or operation.inputs:
        result.unverified.add("the compression operations of iOS 18")
    data = _operand(operation, _DATA_OPERANDS.get(kind, "data"))
    if data is None or data.WhichOneof("value") != "blobFileValue":
        return
    if kind.startswith("constexpr_sparse"):
        counts.storage.add("Sparse")
    elif kind.startswith("constexpr_lut"):
        bits = _palette_bits(_operand(operation, "lut"))
        counts.storage.add(f"Palettized ({bits} bits)")
        if bits not in _COMPARED_PALETTE_BITS:
            result.unverified.add(f"the name of {bits}-bit palettes in metadata.json")
    elif data.type.tensorType.dataType in PRECISIONS:
        counts.storage.add(PRECISIONS[data.type.tensorType.dataType])


def _palette_bits(lut: schema.Value | None) -> int:
    """Bits per index of a palette: [colors] up to iOS 17, [..., colors, vector] from iOS 18."""
    sizes = dimensions(lut.type.tensorType) if lut is not None else ()
    colors = sizes[-2] if len(sizes) > 1 else sizes[0] if sizes else None
    if not colors:
        raise BadPackage("The model has a palettized weight without a palette.")
    return max(1, math.ceil(math.log2(colors)))


def _operand(operation: schema.Operation, key: str) -> schema.Value | None:
    """An operation's inline value: an attribute (up to iOS 17) or an argument (from iOS 18)."""
    if key in operation.attributes:
        return operation.attributes[key]
    if key in operation.inputs and len(operation.inputs[key].arguments) == 1:
        bound = operation.inputs[key].arguments[0]
        return None if bound.name else bound.value
    return None


def _value(value: schema.Value, result: Survey) -> None:
    kind = value.WhichOneof("value")
    if kind == "blobFileValue":
        tensor = value.type.tensorType
        if value.type.WhichOneof("type") != "tensorType" or tensor.dataType not in PRECISIONS:
            raise BadPackage("The model has a constant in a weight file that is not a numeric tensor.")
        blob = value.blobFileValue
        result.blobs.append(
            BlobUse(file=blob.fileName, offset=blob.offset, dtype=tensor.dataType, sizes=dimensions(tensor))
        )
    elif kind is None:
        raise BadPackage("The model has a constant without a value.")
    elif value.immediateValue.WhichOneof("value") != "tensor":
        result.unverified.add("values that are lists, tuples or dictionaries")
    elif value.type.tensorType.dataType not in _COMPARED_INLINE:
        name = DTYPE_NAMES.get(value.type.tensorType.dataType, str(value.type.tensorType.dataType))
        result.unverified.add(f"inline values of type {name}")


def _define(outputs: Iterable[schema.NamedValueType], visible: set[str]) -> None:
    for output in outputs:
        _check_name(output.name, "value")
        if output.name in visible:
            raise BadPackage(f"The model computes {output.name!r} twice.")
        visible.add(output.name)


def _check_name(name: str, kind: str) -> None:
    if _IDENTIFIER.fullmatch(name) is None or (kind == "value" and name in RESERVED):
        raise BadPackage(
            f"The model has the {kind} name {name[:80]!r}, which MIL text cannot hold.",
            hint="Convert it again with coremltools, which renames such values.",
        )
