"""Reads and writes the two `coremldata.bin` files of a compiled bundle.

Little-endian, unaligned; a string is u64 length + bytes. The top-level archive:

    u32 502                            the number of `mlProgram` in the model's oneof
    u64 major, 0, 0; string "generic"  5 for specification versions 6 and 7, else the version itself
    u64 version, 0, 0; string ""       the specification version
    u64 length, ModelDescription       protobuf, fields in order of their number
    per function: u32 502, 12 zeros

The file in `analytics/` holds two named tables of strings. One entry is the SHA-256 of the
compiled model.mlmodel, which identifies the bundle's source.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadPackage

_ML_PROGRAM = 502
_GENERIC = "generic"
_FORMATS = {6: 5, 7: 5, 8: 8, 9: 9}
SPEC_VERSIONS = tuple(_FORMATS)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The contents of a top-level coremldata.bin."""

    spec_version: int
    description: schema.ModelDescription
    functions: int


def write_archive(description: schema.ModelDescription, *, spec_version: int, functions: int) -> bytes:
    """The bytes of a top-level coremldata.bin, with user metadata sorted by key (Apple's order is random)."""
    whole = schema.ModelDescription()
    whole.CopyFrom(description)
    whole.metadata.SetInParent()  # Apple's compiler writes it even if the source has none
    content = whole.SerializeToString(deterministic=True)
    record = struct.pack("<I12x", _ML_PROGRAM)
    return b"".join(
        (
            struct.pack("<I", _ML_PROGRAM),
            struct.pack("<3Q", _FORMATS[spec_version], 0, 0) + _string(_GENERIC),
            struct.pack("<3Q", spec_version, 0, 0) + _string(""),
            struct.pack("<Q", len(content)) + content,
            record * functions,
        )
    )


def read_archive(data: bytes, *, name: str) -> Archive:
    """The inverse of `write_archive`. Raises BadPackage for damaged bytes and for other kinds of model."""
    try:
        (kind,) = struct.unpack_from("<I", data)
        at = 4 + 24
        _, at = _read_string(data, at)
        (spec_version,) = struct.unpack_from("<Q", data, at)
        _, at = _read_string(data, at + 24)
        (size,) = struct.unpack_from("<Q", data, at)
        start, end = at + 8, at + 8 + size
    except (struct.error, UnicodeDecodeError) as error:
        raise _broken(data, name) from error
    if kind != _ML_PROGRAM:
        raise (
            _broken(data, name)
            if kind > 10_000
            else BadPackage(
                f"{name} is a compiled model of kind {kind}; hubpub reads ML Programs (kind {_ML_PROGRAM})."
            )
        )
    trailer = data[end:]
    if end > len(data) or len(trailer) % 16 or not trailer:
        raise _broken(data, name)
    description = schema.ModelDescription()
    try:
        description.ParseFromString(data[start:end])
    except DecodeError as error:
        raise _broken(data, name) from error
    return Archive(spec_version=spec_version, description=description, functions=len(trailer) // 16)


def model_hash(model: bytes) -> str:
    """The SHA-256 of a model.mlmodel in base 64, as in `analytics/coremldata.bin`."""
    return base64.b64encode(hashlib.sha256(model).digest()).decode()


def write_analytics(model: bytes) -> bytes:
    """analytics/coremldata.bin for the bytes of a model.mlmodel (243 bytes)."""
    return b"".join(
        (
            _section("NeuralNetworkModelDetails", {"containsCustomLayer": "0", "modelDimension": "0"}),
            _section("SpecificationDetails", {"modelHash": model_hash(model), "modelName": "model"}),
        )
    )


def read_analytics(data: bytes, *, name: str) -> dict[str, dict[str, str]]:
    """The tables of an analytics/coremldata.bin by name. Raises BadPackage for damaged bytes."""
    sections: dict[str, dict[str, str]] = {}
    at = 0
    try:
        while at < len(data):
            title, at = _read_string(data, at)
            (count,) = struct.unpack_from("<Q", data, at)
            at += 8
            table = sections.setdefault(title, {})
            for _ in range(min(count, len(data))):
                key, at = _read_string(data, at)
                table[key], at = _read_string(data, at)
    except (struct.error, UnicodeDecodeError) as error:
        raise _broken(data, name) from error
    return sections


def _section(title: str, table: Mapping[str, str]) -> bytes:
    pairs = b"".join(_string(key) + _string(table[key]) for key in sorted(table))
    return _string(title) + struct.pack("<Q", len(table)) + pairs


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _read_string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + size
    if end > len(data):
        raise struct.error("string reaches beyond the end")
    return data[at + 8 : end].decode(), end


def _broken(data: bytes, name: str) -> BadPackage:
    if data.startswith(b"version https://git-lfs"):
        return BadPackage(f"{name} is a git-LFS pointer.", hint="Run `git lfs pull`, or fetch it again.")
    return BadPackage(f"{name} is truncated or damaged ({len(data)} bytes).", hint="Fetch or compile the model again.")
