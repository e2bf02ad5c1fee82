"""Converts elements of inline values between Python and protobuf.

The field of a TensorValue that holds the elements depends on the program that wrote it; their
meaning depends on the type alone. This module writes them like coremltools: fp16, 8-bit, uint32
and sub-byte types as little-endian bytes (sub-byte packed, least significant bits first), 16-bit
integers as `ints`, 64-bit integers as `longInts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.weight_file import BLOB_DTYPES, NUMPY_DTYPES
from hubpub.errors import BadPackage

# Larger constants are weights and belong in the weight file.
MAX_ELEMENTS = 1 << 22

DTYPE_NAMES: Mapping[int, str] = {
    schema.BOOL: "bool",
    schema.STRING: "string",
    schema.FLOAT16: "fp16",
    schema.FLOAT32: "fp32",
    schema.FLOAT64: "fp64",
    schema.BFLOAT16: "bf16",
    schema.INT4: "int4",
    schema.INT8: "int8",
    schema.INT16: "int16",
    schema.INT32: "int32",
    schema.INT64: "int64",
    schema.UINT1: "uint1",
    schema.UINT2: "uint2",
    schema.UINT3: "uint3",
    schema.UINT4: "uint4",
    schema.UINT6: "uint6",
    schema.UINT8: "uint8",
    schema.UINT16: "uint16",
    schema.UINT32: "uint32",
    schema.UINT64: "uint64",
}
DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
FLOATS = frozenset({schema.FLOAT16, schema.FLOAT32, schema.FLOAT64})
SUB_BYTE = frozenset(dtype for dtype, (_, bits) in BLOB_DTYPES.items() if bits < 8)
_IN_BYTES = frozenset({schema.FLOAT16, schema.INT8, schema.UINT8, schema.UINT32}) | SUB_BYTE
_FIELDS: Mapping[int, str] = {
    schema.BOOL: "bools",
    schema.STRING: "strings",
    schema.FLOAT32: "floats",
    schema.FLOAT64: "doubles",
    schema.INT16: "ints",
    schema.UINT16: "ints",
    schema.INT32: "ints",
    schema.INT64: "longInts",
    schema.UINT64: "longInts",
}


def dimensions(tensor: schema.TensorType) -> tuple[int | None, ...]:
    """The sizes of a tensor type; an unknown size is None. Raises BadPackage for a variable rank."""
    sizes: list[int | None] = []
    for dimension in tensor.dimensions:
        kind = dimension.WhichOneof("dimension")
        if kind == "constant":
            sizes.append(dimension.constant.size)
        elif kind == "unknown" and not dimension.unknown.variadic:
            sizes.append(None)
        else:
            raise BadPackage("The model has a tensor of variable rank.", hint="Convert it with fixed ranks.")
    if tensor.rank != len(sizes):
        raise BadPackage(f"The model declares a tensor of rank {tensor.rank} with {len(sizes)} dimensions.")
    return tuple(sizes)


def decode(tensor: schema.TensorValue, dtype: int) -> Sequence[Any]:
    """The elements of an inline tensor of MIL data type `dtype`, in row-major order, as Python values."""
    field = tensor.WhichOneof("value")
    if field is None:
        return ()
    if field == "bytes":
        return _from_bytes(tensor.bytes.values, dtype)
    values: Sequence[Any] = getattr(tensor, field).values
    if (field == "strings") != (dtype == schema.STRING):
        raise BadPackage(f"The model has a {DTYPE_NAMES.get(dtype, dtype)} constant whose elements are {field}.")
    if dtype == schema.FLOAT16:
        rounded: list[float] = _array(values, dtype).tolist()
        return rounded
    if dtype == schema.UINT32:
        return [value & 0xFFFFFFFF for value in values]
    if dtype == schema.UINT64:
        return [value & 0xFFFFFFFFFFFFFFFF for value in values]
    return values


def encode(elements: Sequence[Any], dtype: int) -> schema.TensorValue:
    """The inverse of `decode`, into the field that coremltools uses for `dtype`."""
    tensor = schema.TensorValue()
    if dtype in _IN_BYTES:
        tensor.bytes.values = _to_bytes(elements, dtype)
        tensor.bytes.SetInParent()
        return tensor
    if dtype == schema.UINT64:
        elements = [value - (1 << 64) if value >> 63 else value for value in elements]
    if dtype not in _FIELDS:
        raise BadPackage(
            f"The model has an inline constant of type {DTYPE_NAMES.get(dtype, dtype)}, which has no known form."
        )
    holder = getattr(tensor, _FIELDS[dtype])
    holder.SetInParent()
    try:
        holder.values.extend(elements)
    except (TypeError, ValueError) as error:
        raise BadPackage(f"The model has a {DTYPE_NAMES[dtype]} constant with an invalid element: {error}.") from error
    return tensor


def tensor_type(dtype: int, sizes: Sequence[int | None] = ()) -> schema.ValueType:
    """The type `tensor<dtype, sizes>`; a size of None is unknown."""
    result = schema.ValueType()
    tensor = result.tensorType
    tensor.dataType = dtype  # type: ignore[assignment]
    tensor.rank = len(sizes)
    for size in sizes:
        dimension = tensor.dimensions.add()
        if size is None:
            dimension.unknown.SetInParent()
        else:
            dimension.constant.size = size
            dimension.constant.SetInParent()
    return result


def tensor_value(elements: Sequence[Any], dtype: int, sizes: Sequence[int] = ()) -> schema.Value:
    """An inline value of type `tensor<dtype, sizes>`."""
    value = schema.Value()
    value.type.CopyFrom(tensor_type(dtype, sizes))
    value.immediateValue.tensor.CopyFrom(encode(elements, dtype))
    return value


def string_value(text: str) -> schema.Value:
    """A scalar string."""
    return tensor_value([text], schema.STRING)


def blob_bytes(dtype: int, sizes: Sequence[int | None]) -> int | None:
    """The size in bytes of a blob of that type; None if a size is unknown or weight files cannot hold the type."""
    if dtype not in BLOB_DTYPES or None in sizes:
        return None
    return -(-math.prod(size for size in sizes if size is not None) * BLOB_DTYPES[dtype][1] // 8)


def _from_bytes(raw: bytes, dtype: int) -> Sequence[Any]:
    if dtype in SUB_BYTE:
        return _unpack(raw, BLOB_DTYPES[dtype][1], signed=dtype == schema.INT4)
    if dtype not in NUMPY_DTYPES:
        raise BadPackage(f"The model has a {DTYPE_NAMES.get(dtype, dtype)} constant in bytes, which has no known form.")
    kind = np.dtype(NUMPY_DTYPES[dtype]).newbyteorder("<")
    if len(raw) % kind.itemsize:
        raise BadPackage(f"The model has a {DTYPE_NAMES[dtype]} constant of {len(raw)} bytes: it is truncated.")
    elements: list[Any] = np.frombuffer(raw, kind).tolist()
    return elements


def _to_bytes(elements: Sequence[Any], dtype: int) -> bytes:
    if dtype in SUB_BYTE:
        return _pack(elements, BLOB_DTYPES[dtype][1])
    return _array(elements, dtype).tobytes()


def _array(elements: Sequence[Any], dtype: int) -> npt.NDArray[Any]:
    try:
        with np.errstate(over="raise"):
            return np.asarray(elements, np.dtype(NUMPY_DTYPES[dtype]).newbyteorder("<"))
    except (OverflowError, ValueError, FloatingPointError) as error:
        name = DTYPE_NAMES[dtype]
        raise BadPackage(f"The model has a {name} constant with an element out of range: {error}.") from error


def _pack(elements: Sequence[int], bits: int) -> bytes:
    total = 0
    for index, element in enumerate(elements):
        total |= (element & ((1 << bits) - 1)) << (index * bits)
    return total.to_bytes(-(-len(elements) * bits // 8), "little")


def _unpack(raw: bytes, bits: int, *, signed: bool) -> list[int]:
    """All complete elements in `raw`; padding of the last byte may give more elements than were packed."""
    count = len(raw) * 8 // bits
    flags = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    values: list[int] = (flags.astype(np.int32) << np.arange(bits)).sum(axis=1).tolist()
    half = 1 << (bits - 1)
    return [value - 2 * half if signed and value >= half else value for value in values]
