"""safetensors files: where each tensor lies.

Read here and not by the safetensors library: the format is a length, a JSON header and
plain arrays (https://github.com/huggingface/safetensors#format), and the library's numpy
reader copies every tensor and reports "error while deserializing" for a truncated file, a
git-LFS pointer and a web page alike.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from hubpub.checkpoints.tensors import DTYPES, Tensor
from hubpub.errors import BadWeights

Content = mmap.mmap | bytes

_MAX_HEADER = 100_000_000  # the limit of the safetensors library
_DAMAGED = "Fetch the source again; the file is incomplete or damaged."


def tensors(content: Content, path: Path, file: int, *, size: int | None = None) -> dict[str, Tensor]:
    """Name → where it lies, in the order of the data; every number is checked against the file's size.

    `size` is that of the file, where `content` is only its beginning (with the whole header).
    """
    size = len(content) if size is None else size
    header, data = _header(content, path, size)
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if isinstance(entry, dict) and isinstance(kind := entry.get("dtype"), str) and kind not in DTYPES:
            raise BadWeights(
                f"{path.name} stores {name} as {kind}, which hubpub does not read.",
                hint="Use a source with float16, bfloat16 or float32 weights.",
            )
        tensor = _entry(entry, data, file)
        if tensor is None:
            raise BadWeights(
                f"{path.name} describes the tensor {name} in a way that contradicts itself.", hint=_DAMAGED
            )
        found[name] = tensor
    ordered = dict(sorted(found.items(), key=lambda item: item[1].start))
    end = data
    for name, tensor in ordered.items():
        if tensor.start != end:
            raise BadWeights(f"{path.name} has tensors that overlap or leave gaps, at {name}.", hint=_DAMAGED)
        end += math.prod(tensor.shape) * np.dtype(DTYPES[tensor.dtype]).itemsize
    if end != size:
        what = f"is truncated: {size} of {end}" if end > size else f"has {size - end} surplus"
        raise BadWeights(f"{path.name} {what} bytes.", hint=_DAMAGED)
    return ordered


def header_end(start: bytes, path: Path) -> int:
    """Where the header ends and the data begin, from the file's first nine bytes or more. Raises BadWeights."""
    if len(start) < 8:
        raise BadWeights(f"{path.name} is truncated: {len(start)} bytes.", hint=_DAMAGED)
    (length,) = struct.unpack("<Q", start[:8])
    if length > _MAX_HEADER or start[8:9] != b"{":
        raise BadWeights(f"{path.name} is not a safetensors file.", hint=_DAMAGED)
    return int(8 + length)


def metadata(content: Content, path: Path) -> dict[str, str]:
    """The texts that a file says of itself (`modelspec.title`, `format` …); empty where it says nothing."""
    header, _ = _header(content, path, len(content))
    said = header.get("__metadata__")
    if not isinstance(said, dict):
        return {}
    return {key: value for key, value in said.items() if isinstance(value, str)}


def _header(content: Content, path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The header's JSON, and where the data begin."""
    data = header_end(content[:9], path)
    if data > size or data > len(content):
        raise BadWeights(f"{path.name} is truncated in its header.", hint=_DAMAGED)
    try:
        header: dict[str, Any] = json.loads(content[8:data], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path.name} has a header that is not valid: {error}.", hint=_DAMAGED) from error
    return header, data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _entry(entry: Any, data: int, file: int) -> Tensor | None:
    """One tensor of the header; None when it is malformed or its size does not follow from its shape."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if dtype in DTYPES:
            if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
                return None
            if end - start != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize or start < 0:
                return None
            return Tensor(file=file, dtype=dtype, shape=tuple(shape), start=data + start, strides=None)
        case _:
            return None
