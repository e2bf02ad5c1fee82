"""weight.bin: the file that holds an ML Program's large constants.

Layout (version 2 of the storage format, little-endian; source: Apple's MILBlob,
https://github.com/apple/coremltools/tree/main/mlmodel/src/MILBlob):

    0    u32 number of blobs, u32 version = 2, 56 zero bytes
    64n  record: u32 0xDEADBEEF, u32 dtype, u64 bytes, u64 offset of the data,
         u64 padding bits (sub-byte dtypes), 32 zero bytes
    64m  the data; zeros up to the next record, but none after the last blob

A program's `blobFileValue.offset` is the offset of the *record*.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadPackage

ALIGNMENT = 64
VERSION = 2
_SENTINEL = 0xDEADBEEF
_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")

# MIL data type → (number in the record, bits per element)
BLOB_DTYPES: dict[int, tuple[int, int]] = {
    schema.FLOAT16: (1, 16),
    schema.FLOAT32: (2, 32),
    schema.UINT8: (3, 8),
    schema.INT8: (4, 8),
    schema.BFLOAT16: (5, 16),
    schema.INT16: (6, 16),
    schema.UINT16: (7, 16),
    schema.INT4: (8, 4),
    schema.UINT1: (9, 1),
    schema.UINT2: (10, 2),
    schema.UINT4: (11, 4),
    schema.UINT3: (12, 3),
    schema.UINT6: (13, 6),
    schema.INT32: (14, 32),
    schema.UINT32: (15, 32),
}
_BY_NUMBER = {number: (dtype, bits) for dtype, (number, bits) in BLOB_DTYPES.items()}

NUMPY_DTYPES: dict[int, npt.DTypeLike] = {
    schema.BOOL: np.bool_,
    schema.FLOAT16: np.float16,
    schema.FLOAT32: np.float32,
    schema.FLOAT64: np.float64,
    schema.UINT8: np.uint8,
    schema.INT8: np.int8,
    schema.INT16: np.int16,
    schema.UINT16: np.uint16,
    schema.INT32: np.int32,
    schema.UINT32: np.uint32,
    schema.INT64: np.int64,
    schema.UINT64: np.uint64,
}


def aligned(offset: int) -> int:
    """The next multiple of 64 bytes at or after `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


class BlobWriter:
    """Writes a weight.bin sequentially, in constant memory."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._file.write(_HEADER.pack(0, VERSION))
        self._end = _HEADER.size
        self.count = 0

    def add(self, dtype: int, data: npt.ArrayLike | bytes | memoryview, *, padding: int = 0) -> int:
        """Append one blob of MIL data type `dtype`; returns the offset of its record.

        `data` is written in its memory layout (C order, little-endian). Sub-byte data must be
        packed, least significant bits first; `padding` is the number of unused bits in its
        last byte.
        """
        number, _ = BLOB_DTYPES[dtype]
        raw = memoryview(np.ascontiguousarray(data)).cast("B") if isinstance(data, np.ndarray) else memoryview(data)  # type: ignore[arg-type]
        offset = aligned(self._end)
        start = offset + _RECORD.size
        self._file.write(bytes(offset - self._end))
        self._file.write(_RECORD.pack(_SENTINEL, number, raw.nbytes, start, padding))
        self._file.write(raw)
        self._end = start + raw.nbytes
        self.count += 1
        return offset

    def close(self) -> None:
        """Write the number of blobs into the header and close the file."""
        if not self._file.closed:
            self._file.seek(0)
            self._file.write(_HEADER.pack(self.count, VERSION))
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def retype(file: BinaryIO, offset: int, dtype: int, *, padding: int) -> None:
    """Change the data type in the record at `offset` of an open file; the blob's bytes do not change."""
    file.seek(offset)
    sentinel, _, size, start, _ = _RECORD.unpack(file.read(_RECORD.size))
    file.seek(offset)
    file.write(_RECORD.pack(sentinel, BLOB_DTYPES[dtype][0], size, start, padding))


class BlobReader:
    """Reads blobs of a weight.bin through a memory map; checks every offset and size against the file's size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise BadPackage(f"The weight file {path} is missing.", hint="Fetch or build the package again.") from None
        except (OSError, ValueError) as error:
            raise BadPackage(f"The weight file {path} cannot be read: {error}.") from error
        if len(self._map) < _HEADER.size:
            raise BadPackage(f"The weight file {path} is truncated ({len(self._map)} bytes).")
        self.count, version = _HEADER.unpack_from(self._map)
        if version != VERSION:
            raise BadPackage(
                f"The weight file {path} has storage version {version}; Core ML reads version {VERSION}.",
                hint="It may be a git-LFS pointer or another kind of file.",
            )

    def record(self, offset: int) -> tuple[int, int, int]:
        """The record at `offset`: MIL data type, number of bytes, offset of the data."""
        if offset < 0 or offset % ALIGNMENT or offset + _RECORD.size > len(self._map):
            raise BadPackage(f"Blob offset {offset} lies outside {self.path} ({len(self._map)} bytes).")
        sentinel, number, size, start, _ = _RECORD.unpack_from(self._map, offset)
        if sentinel != _SENTINEL or number not in _BY_NUMBER:
            raise BadPackage(f"There is no blob at offset {offset} of {self.path}.")
        if start + size > len(self._map):
            raise BadPackage(
                f"The blob at offset {offset} reaches beyond the end of {self.path}: the file is truncated."
            )
        return _BY_NUMBER[number][0], size, start

    def read(self, offset: int) -> memoryview:
        """The bytes of the blob whose record is at `offset`, as a view of the map."""
        _, size, start = self.record(offset)
        return memoryview(self._map)[start : start + size]

    def array(self, offset: int, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.generic]:
        """The blob as a read-only array of `shape` (default: flat). Raises BadPackage for sub-byte types."""
        dtype, size, start = self.record(offset)
        if dtype not in NUMPY_DTYPES:
            raise BadPackage(f"The blob at offset {offset} of {self.path} has a sub-byte or unusual type.")
        kind = np.dtype(NUMPY_DTYPES[dtype])
        flat = np.frombuffer(self._map, kind, size // kind.itemsize, start)
        if shape is None:
            return flat
        if int(np.prod(shape)) != flat.size:
            raise BadPackage(f"The blob at offset {offset} of {self.path} holds {flat.size} elements, not {shape}.")
        return flat.reshape(shape)

    def relax(self) -> None:
        """Release the memory of mapped pages; arrays that share it read them again."""
        if hasattr(self._map, "madvise"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Release the map; arrays that share it keep it alive."""
        with contextlib.suppress(BufferError):  # an array shares the map, which is released with the last one
            self._map.close()
