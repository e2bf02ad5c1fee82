"""Constants of a program: literals, and blobs of the memory-mapped weight file (read without copying)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import MODEL_PATH
from hubpub.coreml.values import decode
from hubpub.coreml.weight_file import BLOB_DTYPES, NUMPY_DTYPES, BlobReader
from hubpub.errors import BadPackage

Array = npt.NDArray[Any]

# Sub-byte data types and their bits per element; elements are packed, least significant bits first.
SUB_BYTE = {dtype: bits for dtype, (_, bits) in BLOB_DTYPES.items() if bits < 8}
# After this many bytes read, the mapped pages are released.
_RELAX_AFTER = 64 << 20
_SIGNED_SUB_BYTE = frozenset({schema.INT4})


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant: its MIL data type, its shape, and a function that reads its elements.

    `read()` returns an array of `shape`; for a sub-byte dtype the packed bytes (flat); for a
    string a str (or an array of objects); for a list a list; for a dictionary a dict. The
    array of a blob (`mapped`) shares the memory of the mapped weight file.
    """

    dtype: int
    shape: tuple[int, ...]
    read: Callable[[], Any]
    mapped: bool = False

    @property
    def packed(self) -> bool:
        """Whether `read()` returns packed bytes."""
        return self.dtype in SUB_BYTE

    def elements(self) -> Any:
        """The elements; packed ones as one int8 or uint8 each."""
        raw = self.read()
        if not self.packed:
            return raw
        return unpack(raw, SUB_BYTE[self.dtype], self.shape, signed=self.dtype in _SIGNED_SUB_BYTE)


def unpack(raw: Array, bits: int, shape: tuple[int, ...], *, signed: bool = False) -> Array:
    """The elements of packed bytes (least significant bits first) as uint8, or int8 if `signed`, of `shape`."""
    count = math.prod(shape)
    if raw.size * 8 < count * bits:
        raise BadPackage(f"A packed constant holds {raw.size} bytes, too few for {count} elements of {bits} bits.")
    single = np.unpackbits(raw, count=count * bits, bitorder="little").reshape(count, bits)
    codes = np.packbits(single, axis=1, bitorder="little").reshape(shape)
    if not signed:
        return codes
    sign = np.uint8(1 << (bits - 1))
    return ((codes ^ sign) - sign).view(np.int8)


class Blobs(Protocol):
    """Where a program's blobs are read."""

    def reader(self, file_name: str) -> BlobSource:
        """The file that a constant names."""
        ...

    def reading(self, size: int) -> None:
        """Note that `size` bytes are about to be read."""
        ...

    def close(self) -> None: ...


class BlobSource(Protocol):
    """One file of blobs, by the offsets of their records (coreml.weight_file.BlobReader)."""

    path: Path

    def record(self, offset: int) -> tuple[int, int, int]: ...
    def read(self, offset: int) -> memoryview: ...
    def array(self, offset: int, shape: tuple[int, ...] | None = None) -> Array: ...


class Weights:
    """The weight files of a package, each mapped once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # the folder that `@model_path` names
        self._readers: dict[str, BlobReader] = {}
        self._read = 0

    def reader(self, file_name: str) -> BlobReader:
        """The reader of a file such as `@model_path/weights/weight.bin`; BadPackage if it is outside the package."""
        if file_name not in self._readers:
            relative = Path(file_name.removeprefix(MODEL_PATH))
            if not file_name.startswith(MODEL_PATH) or relative.is_absolute() or ".." in relative.parts:
                raise BadPackage(f"A constant refers to {file_name!r}, which is not inside the package.")
            self._readers[file_name] = BlobReader(self._folder / relative)
        return self._readers[file_name]

    def reading(self, size: int) -> None:
        """Count `size` bytes as read; releases mapped pages after every 64 MiB."""
        self._read += size
        if self._read > _RELAX_AFTER:
            self._read = size
            for reader in self._readers.values():
                reader.relax()

    def close(self) -> None:
        """Release all maps."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def constant(value: schema.Value, weights: Blobs) -> Constant:
    """The Constant of a program's value; raises BadPackage if its type and its data do not match."""
    match value.type.WhichOneof("type"):
        case "tensorType":
            dtype, shape = value.type.tensorType.dataType, tensor_shape(value.type.tensorType)
        case "listType":
            items = [constant(item, weights).read() for item in value.immediateValue.list.values]
            return Constant(dtype=schema.UNUSED_TYPE, shape=(len(items),), read=lambda: items)
        case "dictionaryType":
            pairs = {
                str(constant(pair.key, weights).read()): constant(pair.value, weights).read()
                for pair in value.immediateValue.dictionary.values
            }
            return Constant(dtype=schema.UNUSED_TYPE, shape=(len(pairs),), read=lambda: pairs)
        case other:
            raise BadPackage(f"A constant has the type {other}, which constants cannot have.")
    if value.WhichOneof("value") == "blobFileValue":
        return _blob(value.blobFileValue, dtype, shape, weights)
    literal = _literal(value.immediateValue.tensor, dtype, shape)
    return Constant(dtype=dtype, shape=shape, read=lambda: literal)


def tensor_shape(type_: schema.TensorType) -> tuple[int, ...]:
    """The shape of a tensor type; an unknown size is -1."""
    return tuple(int(d.constant.size) if d.WhichOneof("dimension") == "constant" else -1 for d in type_.dimensions)


def _blob(value: schema.Value.BlobFileValue, dtype: int, shape: tuple[int, ...], weights: Blobs) -> Constant:
    reader, offset = weights.reader(value.fileName), int(value.offset)
    stored, size, _ = reader.record(offset)
    if dtype in SUB_BYTE:
        needed = -(-math.prod(shape) * SUB_BYTE[dtype] // 8)
    elif dtype in NUMPY_DTYPES:
        needed = math.prod(shape) * np.dtype(NUMPY_DTYPES[dtype]).itemsize
    else:
        raise BadPackage(f"A constant has the data type {schema.DataType.Name(dtype)}, which blobs cannot have.")
    if stored != dtype or size != needed:
        raise BadPackage(
            f"A constant of {needed} bytes of {schema.DataType.Name(dtype)} points to a blob of {size} bytes "
            f"of {schema.DataType.Name(stored)} (offset {offset} of {reader.path})."
        )

    def read() -> Array:
        weights.reading(size)
        return np.frombuffer(reader.read(offset), np.uint8) if dtype in SUB_BYTE else reader.array(offset, shape)

    return Constant(dtype=dtype, shape=shape, read=read, mapped=True)


def _literal(tensor: schema.TensorValue, dtype: int, shape: tuple[int, ...]) -> Any:
    if dtype in SUB_BYTE:
        return np.frombuffer(tensor.bytes.values, np.uint8)
    if dtype == schema.STRING:
        words = list(decode(tensor, dtype))
        return words[0] if shape == () and words else np.array(words, dtype=object).reshape(shape)
    if dtype not in NUMPY_DTYPES:
        raise BadPackage(f"A constant has the data type {schema.DataType.Name(dtype)}, which literals cannot have.")
    kind, count = np.dtype(NUMPY_DTYPES[dtype]), math.prod(shape)
    if tensor.WhichOneof("value") == "bytes" and len(tensor.bytes.values) == count * kind.itemsize:
        flat = np.frombuffer(tensor.bytes.values, kind)
    else:
        flat = np.array(decode(tensor, dtype), kind)
    if flat.size == 1 and count > 1:
        flat = np.broadcast_to(flat, (count,))
    if flat.size != count:
        raise BadPackage(f"A constant of shape {shape} holds {flat.size} elements.")
    return flat.reshape(shape)
