"""fill: graph + weights → .mlpackage; palettizes on the way, one tensor at a time, without torch.

Every constant of the graph that names a source tensor gets that tensor, rounded to
float16 (as Apple's converter does, whatever dtype the source has), or a palette of it;
every large literal moves into weight.bin. Where a constant lies (in the program or in
weight.bin), the order of the blobs, and the names and arguments of palettized constants
are coremltools' own, so that the same weights give the same weight.bin.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints.weights import Weights, fitting_names, open_weights, some
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import MODEL, WEIGHT_BIN, WEIGHT_REFERENCE, WEIGHTS, serialize, write_manifest
from hubpub.coreml.values import decode, dimensions, encode, string_value, tensor_type, tensor_value
from hubpub.coreml.weight_file import NUMPY_DTYPES, BlobWriter
from hubpub.errors import BadPackage, BadWeights
from hubpub.graph import TRANSFORMS, Graph, GraphInfo, Reference, constants, main_block

KIND = "fill"
VERSION = 2

PACKAGE = "model.mlpackage"
# A palette is worth its place for tensors of rank 2 and more with more elements than this (Apple's converter).
LARGEST_UNPALETTIZED = 2048
# Smaller constants stay in the program (coremltools' rule), and so do those of other types.
SMALLEST_BLOB = 10
_BLOB_TYPES = frozenset({schema.FLOAT16, schema.FLOAT32, schema.INT8, schema.UINT8})
_BLOB_TYPES_IOS18 = _BLOB_TYPES | {schema.INT16, schema.UINT16, schema.INT32, schema.UINT32}
_IOS18_SPECIFICATION = 9
_INDEX_TYPES = {1: schema.UINT1, 2: schema.UINT2, 4: schema.UINT4, 6: schema.UINT6, 8: schema.UINT8}

_THREADS = 2
_AHEAD = 3  # tensors in work or waiting to be written
_ELEMENTS_AHEAD = 40_000_000  # of all those together, if it is more than one: bounds the memory
_PIECE = 1 << 20  # elements in memory at once, of a tensor that is palettized
_EXACT_SNR = 200.0  # dB; stands for infinity, which JSON has not

Array = npt.NDArray[Any]


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write `out/model.mlpackage`.

    params: `component` (for messages), `bits` (16, 8, 6, 4, 2, 1), `palettizes` (if not,
    16 bits), `weights` (file names in the source folder), `metadata` (author, license,
    version, short_description, user_defined). inputs: `graph` (a graph's folder),
    `source` (the component's folder). Raises BadWeights where tensors are missing, not
    known, of another shape, or not finite in float16.
    """
    graph = Graph.load(inputs["graph"])
    bits = int(params["bits"]) if params["palettizes"] else 16
    package = out / PACKAGE
    (package / WEIGHTS).mkdir(parents=True)
    digest = hashlib.sha256()
    with open_weights([inputs["source"] / name for name in params["weights"]]) as weights:
        constants_ = _plan(graph, weights, bits=bits, component=params["component"])
        renamed = {constant.name: constant.palettized_name for constant in constants_ if constant.bits}
        report = _write(constants_, weights, package / WEIGHT_BIN, digest)
    _rename(main_block(graph.model), renamed)
    _describe(graph.model, params["metadata"])
    content = serialize(graph.model)
    (package / MODEL).write_bytes(content)
    digest.update(content)
    has_weights = report["weights"]["blobs"] > 0
    if not has_weights:
        (package / WEIGHT_BIN).unlink()
        (package / WEIGHTS).rmdir()
    write_manifest(package, weights=has_weights, identity=digest.hexdigest())
    return report


@dataclass(frozen=True, kw_only=True)
class _Constant:
    """A constant that changes: which operation it is, and what becomes of it."""

    operation: schema.Operation
    shape: tuple[int, ...]
    dtype: int  # MIL data type
    reference: Reference | None  # None: a literal
    held: str  # the reference's tensor, by the name that the source has for it
    bits: int  # of the palette; 0 for none
    ios18: bool

    @property
    def name(self) -> str:
        return self.operation.outputs[0].name

    @property
    def palettized_name(self) -> str:
        return f"{self.name}_palettized"


@dataclass(frozen=True, kw_only=True)
class _Blob:
    """One blob of weight.bin, ready to be written."""

    dtype: int
    data: Array
    digest: bytes
    padding: int = 0


@dataclass(frozen=True, kw_only=True)
class _Filled:
    """What a constant becomes: blobs (for a palette, indices and table), or values that stay in the program."""

    blobs: Sequence[_Blob]
    inline: Array | None = None  # of a palette, the table
    snr: float = 0.0  # dB, of a palette
    largest_error: float = 0.0


# -- what to do ------------------------------------------------------------------------------------------------


def _plan(graph: Graph, weights: Weights, *, bits: int, component: str) -> list[_Constant]:
    """All constants that change, in program order; raises BadWeights where source and graph do not fit."""
    block = main_block(graph.model)
    operations = list(constants(block))
    references = {}
    for operation in operations:
        value = operation.attributes["val"]
        if value.WhichOneof("value") == "blobFileValue":
            references[operation.outputs[0].name] = Reference.parse(value.blobFileValue.fileName)
    held = _match(references.values(), weights, graph.info)
    ios18 = graph.model.specificationVersion >= _IOS18_SPECIFICATION
    gathered = set(_consumed(block, "gather"))
    planned, wrong = [], []
    for operation in operations:
        name, tensor = operation.outputs[0].name, operation.attributes["val"].type.tensorType
        shape = _shape(tensor)
        reference = references.get(name)
        if reference is not None and _significant(weights.shape(held[reference.tensor])) != _significant(shape):
            wrong.append(f"{reference.tensor} {weights.shape(held[reference.tensor])} instead of {shape}")
        elif reference is not None and tensor.dataType not in (schema.FLOAT16, schema.FLOAT32):
            raise BadPackage(f"The graph wants {reference.tensor} as a type that weights do not have.")
        elif reference is not None or _belongs_in_file(tensor.dataType, shape, ios18=ios18):
            large = len(shape) >= 2 and math.prod(shape) > LARGEST_UNPALETTIZED and tensor.dataType == schema.FLOAT16
            planned.append(
                _Constant(
                    operation=operation,
                    shape=shape,
                    dtype=tensor.dataType,
                    reference=reference,
                    held=held[reference.tensor] if reference else "",
                    bits=bits if reference and large and bits < 16 and name not in gathered else 0,
                    ios18=ios18,
                )
            )
    if wrong:
        raise BadWeights(
            f"The source's {component} has tensors of another shape than its config says: {some(wrong)}.",
            hint="Its config.json and its weights are not of the same model.",
        )
    return planned


def _match(references: Iterable[Reference], weights: Weights, info: GraphInfo) -> dict[str, str]:
    """Tensor of the graph → its name in the source; raises BadWeights for missing and for unknown tensors."""
    wanted = [reference.tensor for reference in references]
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    if twice:
        raise BadPackage(f"The graph uses source tensors more than once: {some(twice)}.")
    return fitting_names(weights.names(), wanted, ignored=info.ignored, component=info.component)


def _significant(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without its ones, which move no element: a linear layer is a 1×1 convolution."""
    return tuple(size for size in shape if size != 1)


def _shape(tensor: schema.TensorType) -> tuple[int, ...]:
    sizes = dimensions(tensor)
    if None in sizes:
        raise BadPackage("The graph has a constant of unknown size.")
    return tuple(size for size in sizes if size is not None)


def _belongs_in_file(dtype: int, shape: Sequence[int], *, ios18: bool) -> bool:
    return math.prod(shape) >= SMALLEST_BLOB and dtype in (_BLOB_TYPES_IOS18 if ios18 else _BLOB_TYPES)


def _operations(block: schema.Block) -> Iterator[schema.Operation]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)


def _consumed(block: schema.Block, kind: str) -> Iterator[str]:
    """The names of all inputs of operations of a kind."""
    for operation in _operations(block):
        if operation.type == kind:
            for argument in operation.inputs.values():
                yield from (binding.name for binding in argument.arguments if binding.name)


# -- values ----------------------------------------------------------------------------------------------------


def _fill(constant: _Constant, weights: Weights) -> _Filled:
    """Read, round, palettize: all that one constant needs, and nothing that another one does."""
    if constant.bits:
        return _palette(constant, weights)
    array = _values(constant, weights)
    if not _belongs_in_file(constant.dtype, constant.shape, ios18=constant.ios18):
        return _Filled(blobs=(), inline=array)
    return _Filled(blobs=(_blob(constant.dtype, array),))


def _values(constant: _Constant, weights: Weights) -> Array:
    """The constant's elements, C order, in its own dtype."""
    dtype = np.dtype(NUMPY_DTYPES[constant.dtype])
    if constant.reference is None:
        return np.asarray(decode(constant.operation.attributes["val"].immediateValue.tensor, constant.dtype), dtype)
    array: Array = weights.float16(constant.held)
    if constant.reference.transform:
        array = TRANSFORMS[constant.reference.transform](array).astype(np.float16)
        if not np.isfinite(array).all():
            raise BadWeights(f"The tensor {constant.held} cannot be brought into the form that the network needs.")
    return np.ascontiguousarray(array, dtype)


def _palette(constant: _Constant, weights: Weights) -> _Filled:
    # Not at the top: numba takes half a second, which a 16-bit fill has no use for.
    from hubpub.palettize.palette import fit, histogram, packed_indices

    bits, elements = constant.bits, math.prod(constant.shape)
    counts = np.zeros(65536, np.uint32)
    for piece in _pieces(constant, weights):
        counts += histogram(piece)
    table = fit(counts, bits)
    packed = np.empty(-(-elements * bits // 8), np.uint8)
    at = 0
    for piece in _pieces(constant, weights):  # all but the last fill whole bytes
        part = packed_indices(piece, table)
        packed[at : at + part.size] = part
        at += part.size
    if constant.ios18:
        indices = _blob(_INDEX_TYPES[bits], packed, padding=packed.size * 8 - elements * bits)
    else:
        indices = _blob(schema.UINT8, packed)
    # A table of 1 or 2 bits has fewer entries than a blob: it stays in the program.
    small = table.lut.size < SMALLEST_BLOB
    exact = table.squared_error == 0.0
    return _Filled(
        blobs=(indices,) if small else (indices, _blob(schema.FLOAT16, table.lut)),
        inline=table.lut if small else None,
        snr=_EXACT_SNR if exact else 10 * math.log10(table.squared_sum / table.squared_error),
        largest_error=table.largest_error,
    )


def _pieces(constant: _Constant, weights: Weights) -> Iterator[npt.NDArray[np.float16]]:
    """The constant's elements, a few at a time."""
    if constant.reference and constant.reference.transform:
        return iter([_values(constant, weights).reshape(-1)])
    return weights.pieces(constant.held, _PIECE)


def _blob(dtype: int, data: Array, *, padding: int = 0) -> _Blob:
    return _Blob(dtype=dtype, data=data, digest=hashlib.sha256(data.data).digest(), padding=padding)


def _in_order(constants_: Sequence[_Constant], weights: Weights) -> Iterator[tuple[_Constant, _Filled]]:
    """Each constant and what it becomes, in order; a few are made ahead, so that making and writing overlap."""
    with ThreadPoolExecutor(_THREADS) as pool:
        pending: deque[tuple[_Constant, Future[_Filled]]] = deque()
        held = 0
        for constant in constants_:
            held += math.prod(constant.shape)
            while pending and (len(pending) >= _AHEAD or held > _ELEMENTS_AHEAD):
                first, future = pending.popleft()
                held -= math.prod(first.shape)
                yield first, future.result()
            pending.append((constant, pool.submit(_fill, constant, weights)))
        while pending:
            first, future = pending.popleft()
            yield first, future.result()


# -- the package -----------------------------------------------------------------------------------------------


def _write(constants_: Sequence[_Constant], weights: Weights, path: Path, digest: Any) -> dict[str, Any]:
    """Write weight.bin and turn each operation into what it becomes; `digest` takes in what was written."""
    snr: list[tuple[str, float]] = []
    largest = 0.0
    with BlobWriter(path) as writer:
        for constant, filled in _in_order(constants_, weights):
            offsets = [writer.add(blob.dtype, blob.data, padding=blob.padding) for blob in filled.blobs]
            for blob in filled.blobs:
                digest.update(blob.digest)
            if constant.bits:
                _to_palette(constant, filled, offsets)
                snr.append((constant.held, round(filled.snr, 2)))
                largest = max(largest, filled.largest_error)
            else:
                _set(constant.operation.attributes["val"], constant.dtype, filled.inline, offsets)
            if constant.held:
                weights.release(constant.held)
        blobs = writer.count
    references = [constant for constant in constants_ if constant.reference]
    report: dict[str, Any] = {
        "weights": {
            "tensors": len(references),
            "elements": sum(math.prod(constant.shape) for constant in references),
            "blobs": blobs,
            "bytes": path.stat().st_size,
        },
        "palettized": len(snr),
    }
    if snr:
        report |= {
            "lowest_snr": min(value for _, value in snr),
            "max_palette_error": float(f"{largest:.6g}"),
            "snr": [list(item) for item in snr],
        }
    return report


def _set(value: schema.Value, dtype: int, inline: Array | None, offsets: Sequence[int]) -> None:
    """Give `value` its elements: those of `inline`, or the first of the blobs."""
    if inline is not None:
        value.immediateValue.tensor.CopyFrom(encode(inline.reshape(-1).tolist(), dtype))
    else:
        value.blobFileValue.fileName = WEIGHT_REFERENCE
        value.blobFileValue.offset = offsets[0]


def _to_palette(constant: _Constant, filled: _Filled, offsets: Sequence[int]) -> None:
    """Turn a const into `constexpr_lut_to_dense`, in the form of its target."""
    operation, bits = constant.operation, constant.bits
    name = operation.attributes["name"].immediateValue.tensor.strings.values[0]
    operation.outputs[0].name = constant.palettized_name
    operation.type = "constexpr_lut_to_dense"
    operation.attributes["name"].CopyFrom(string_value(f"{name}_palettized"))
    del operation.attributes["val"]
    if constant.ios18:  # indices have the tensor's shape and a type as wide as they are; the table has rank + 2
        indices, lut = (operation.inputs[name].arguments.add().value for name in ("indices", "lut"))
        indices.type.CopyFrom(tensor_type(_INDEX_TYPES[bits], constant.shape))
        lut.type.CopyFrom(tensor_type(schema.FLOAT16, [1] * len(constant.shape) + [1 << bits, 1]))
    else:
        indices, lut = operation.attributes["indices"], operation.attributes["lut"]
        indices.type.CopyFrom(tensor_type(schema.UINT8, [filled.blobs[0].data.size]))
        lut.type.CopyFrom(tensor_type(schema.FLOAT16, [1 << bits]))
        shape = tensor_value(constant.shape, schema.UINT32, [len(constant.shape)])
        operation.attributes["shape"].CopyFrom(shape)
    _set(indices, schema.UINT8, None, offsets)
    _set(lut, schema.FLOAT16, filled.inline, offsets[1:])


def _rename(block: schema.Block, names: Mapping[str, str]) -> None:
    """Give the consumers of palettized constants their new names, in this block and those inside it."""
    for operation in _operations(block):
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.name in names:
                    binding.name = names[binding.name]
        for inner in operation.blocks:
            inner.outputs[:] = [names.get(name, name) for name in inner.outputs]
    block.outputs[:] = [names.get(name, name) for name in block.outputs]


def _describe(model: schema.Model, metadata: Mapping[str, Any]) -> None:
    """The package's metadata: what the step was given, and nothing else."""
    model.description.metadata.Clear()
    target = model.description.metadata
    target.SetInParent()
    target.author = metadata.get("author") or ""
    target.license = metadata.get("license") or ""
    target.versionString = metadata.get("version") or ""
    target.shortDescription = metadata.get("short_description") or ""
    for key, text in sorted((metadata.get("user_defined") or {}).items()):
        target.userDefined[key] = text
