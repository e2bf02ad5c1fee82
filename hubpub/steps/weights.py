"""weights: a component's tensors → one weight file and its index, without torch.

Every tensor of the network is rounded to float16 (as Apple's converter does, whatever
dtype the source has) or palettized, once per width. Packages of every attention, size
and target are programs over this file. Which constants lie in the file, and the form of
their blobs, are coremltools' rules (named below), so that Core ML reads them as its own.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hubpub import architectures
from hubpub.checkpoints import Checkpoint, fit, open_checkpoint
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.constants import Literal, Tensor
from hubpub.coreml.program import SMALLEST_BLOB, constants_of
from hubpub.coreml.weight_file import BlobWriter
from hubpub.coreml.weight_index import WEIGHT_FILE, WeightIndex, literal_key, tensor_key
from hubpub.errors import BadWeights
from hubpub.networks import Size
from hubpub.networks.transforms import TRANSFORMS
from hubpub.steps.step import Step

# A palette is worth its place for tensors of rank 2 and more with more elements than this (Apple's converter).
LARGEST_UNPALETTIZED = 2048

_ANY_SIZE = Size(height=64, width=64, batch=1)  # tensors do not depend on the size
_DTYPES = {"fp16": schema.FLOAT16, "fp32": schema.FLOAT32}
_NUMPY = {"fp16": np.float16, "fp32": np.float32}
_THREADS = 2
_AHEAD = 3  # tensors in work or waiting to be written
_ELEMENTS_AHEAD = 40_000_000  # of all those together, if it is more than one: bounds the memory
_PIECE = 1 << 20  # elements in memory at once, of a tensor that is palettized
_EXACT_SNR = 200.0  # dB; stands for infinity, which JSON has not

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Weights(Step):
    """Write `out/weight.bin` and `out/weights.json`.

    inputs: `source` (the component's folder). Measurements: numbers of tensors, elements,
    blobs and bytes; of palettes the signal-to-noise in dB of each, the lowest, and the
    largest error; tensors of the source that were `ignored`. Raises BadWeights where
    tensors are missing, not known, of another shape, or not finite in float16.
    """

    VERSION: ClassVar[int] = 1

    family: str
    component: str
    config: Mapping[str, Any]  # the network's config as plain JSON
    bits: int  # 16, 8, 6, 4, 2, 1
    checkpoint: Mapping[str, Any]  # what open_checkpoint takes

    @property
    def label(self) -> str:
        return f"weights of {self.component}, {self.bits}-bit"

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        tensors, literals = network_constants(self.family, self.component, self.config)
        known = architectures.find(self.family, self.component)
        with open_checkpoint(self.checkpoint, inputs) as checkpoint:
            fitting = fit(
                checkpoint.tensors(),
                {tensor.name: tensor.shape for tensor in tensors},
                ignored=known.ignored,
                component=self.component,
                files=self.checkpoint["files"],
            )
            constants = [
                _Constant(tensor=tensor, held=fitting.names[tensor.name], bits=_bits_of(tensor, self.bits))
                for tensor in tensors
            ]
            report = _write(constants, literals, checkpoint, out, bits=self.bits)
        if fitting.ignored:
            report["ignored"] = list(fitting.ignored)
        return report


def network_constants(
    family: str, component: str, config: Mapping[str, Any]
) -> tuple[Sequence[Tensor], Sequence[Literal]]:
    """The tensors that a network takes from its source, and the arrays of its own, in the order of their use."""
    known = architectures.find(family, component)
    network = known.read_config(config)
    return constants_of(known.program(network, size=_ANY_SIZE, attention="original"), floats=network.floats)


@dataclass(frozen=True, kw_only=True)
class _Constant:
    """A tensor of the network, its name in the checkpoint, and the bits of its palette (0: none)."""

    tensor: Tensor
    held: str
    bits: int


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A tensor in the form in which it is stored: float16 values, or packed indices and a table."""

    values: Array
    lut: Array | None = None
    snr: float = 0.0  # dB, of a palette
    largest_error: float = 0.0


def _bits_of(tensor: Tensor, bits: int) -> int:
    large = len(tensor.shape) >= 2 and math.prod(tensor.shape) > LARGEST_UNPALETTIZED and tensor.dtype == "fp16"
    return bits if bits < 16 and large and not tensor.gathered else 0


# -- values ----------------------------------------------------------------------------------------------------


def _stored(constant: _Constant, checkpoint: Checkpoint) -> _Stored:
    """Read, round, palettize: all that one tensor needs, and nothing that another one does."""
    if constant.bits:
        return _palette(constant, checkpoint)
    return _Stored(values=_values(constant, checkpoint))


def _values(constant: _Constant, checkpoint: Checkpoint) -> Array:
    """The tensor's elements, C order, in its own dtype."""
    array: Array = checkpoint.float16(constant.held)
    if constant.tensor.transform:
        array = TRANSFORMS[constant.tensor.transform](array).astype(np.float16)
        if not np.isfinite(array).all():
            raise BadWeights(f"The tensor {constant.held} cannot be brought into the form that the network needs.")
    return np.ascontiguousarray(array, _NUMPY[constant.tensor.dtype])


def _palette(constant: _Constant, checkpoint: Checkpoint) -> _Stored:
    # Not at the top: numba takes half a second, which 16 bits have no use for.
    from hubpub.palettize.palette import fit, histogram, packed_indices

    bits, elements = constant.bits, math.prod(constant.tensor.shape)
    counts = np.zeros(65536, np.uint32)
    for piece in _pieces(constant, checkpoint):
        counts += histogram(piece)
    table = fit(counts, bits)
    packed = np.empty(-(-elements * bits // 8), np.uint8)
    place = 0
    for piece in _pieces(constant, checkpoint):  # all but the last fill whole bytes
        part = packed_indices(piece, table)
        packed[place : place + part.size] = part
        place += part.size
    exact = table.squared_error == 0.0
    return _Stored(
        values=packed,
        lut=table.lut,
        snr=_EXACT_SNR if exact else 10 * math.log10(table.squared_sum / table.squared_error),
        largest_error=table.largest_error,
    )


def _pieces(constant: _Constant, checkpoint: Checkpoint) -> Iterator[npt.NDArray[np.float16]]:
    """The tensor's elements, a few at a time."""
    if constant.tensor.transform:
        return iter([_values(constant, checkpoint).reshape(-1)])
    return checkpoint.pieces(constant.held, _PIECE)


def _in_order(constants: Sequence[_Constant], checkpoint: Checkpoint) -> Iterator[tuple[_Constant, _Stored]]:
    """Each tensor and its stored form, in order; a few are made ahead, so that making and writing overlap."""
    with ThreadPoolExecutor(_THREADS) as pool:
        pending: deque[tuple[_Constant, Future[_Stored]]] = deque()
        elements = 0
        for constant in constants:
            elements += math.prod(constant.tensor.shape)
            while pending and (len(pending) >= _AHEAD or elements > _ELEMENTS_AHEAD):
                first, future = pending.popleft()
                elements -= math.prod(first.tensor.shape)
                yield first, future.result()
            pending.append((constant, pool.submit(_stored, constant, checkpoint)))
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


# -- the file --------------------------------------------------------------------------------------------------


def _write(
    constants: Sequence[_Constant], literals: Sequence[Literal], checkpoint: Checkpoint, out: Path, *, bits: int
) -> dict[str, Any]:
    """Write the weight file and its index; returns the measurements."""
    entries: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    noise: list[tuple[str, float]] = []
    largest = 0.0
    digest = hashlib.sha256()
    with BlobWriter(out / WEIGHT_FILE) as writer:
        for constant, stored in _in_order(constants, checkpoint):
            tensor = constant.tensor
            entry: dict[str, Any] = {"shape": list(tensor.shape)}
            if constant.bits:
                entry |= _add_palette(writer, constant.bits, stored)
                noise.append((constant.held, round(stored.snr, 2)))
                largest = max(largest, stored.largest_error)
            elif stored.values.size < SMALLEST_BLOB:
                entry["values"] = stored.values.reshape(-1).tolist()
            else:
                entry["offset"] = writer.add(_DTYPES[tensor.dtype], stored.values)
            digest.update(hashlib.sha256(stored.values.data).digest())
            if stored.lut is not None:
                digest.update(stored.lut.tobytes())
            entries[tensor_key(tensor.name, tensor.transform)] = entry
            checkpoint.release(constant.held)
        for literal in literals:
            if literal.values.size >= SMALLEST_BLOB and literal.dtype in _DTYPES:
                key = literal_key(literal.values, literal.dtype)
                if key not in places:
                    places[key] = writer.add(_DTYPES[literal.dtype], np.ascontiguousarray(literal.values))
                    digest.update(key.encode())
        blobs = writer.count
    index = WeightIndex(bits=bits, sha256=digest.hexdigest(), tensors=entries, literals=places)
    index.save(out)
    report: dict[str, Any] = {
        "weights": {
            "tensors": len(constants),
            "elements": sum(math.prod(constant.tensor.shape) for constant in constants),
            "blobs": blobs,
            "bytes": (out / WEIGHT_FILE).stat().st_size,
        },
        "palettized": len(noise),
    }
    if noise:
        report |= {
            "lowest_snr": min(value for _, value in noise),
            "max_palette_error": float(f"{largest:.6g}"),
            "snr": [list(item) for item in noise],
        }
    return report


def _add_palette(writer: BlobWriter, bits: int, stored: _Stored) -> dict[str, Any]:
    """Write indices and table; the entry of the index. A table of 1 or 2 bits is too small for a blob."""
    assert stored.lut is not None
    entry: dict[str, Any] = {
        "bits": bits,
        "indices": writer.add(schema.UINT8, stored.values),
        "indices_bytes": stored.values.size,
    }
    small = stored.lut.size < SMALLEST_BLOB
    entry["lut"] = stored.lut.tolist() if small else writer.add(schema.FLOAT16, stored.lut)
    return entry
