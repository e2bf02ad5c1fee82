"""readback: what a package holds, compared with the source, without the code that wrote it.

Every constant that the graph takes from the source is found in the package by its name,
decoded, and compared: 16-bit ones must be bit-exact, palettized ones must stand for the
tensor as well as a palette of that width can. It is the gate where nothing can be run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints.weights import Weights, match_names, open_weights
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import read_model, weights_folder
from hubpub.coreml.values import decode
from hubpub.coreml.weight_file import BlobReader
from hubpub.errors import BadPackage, ParityTooLow
from hubpub.graph import TRANSFORMS, Graph, Reference, constants, main_block
from hubpub.palettize import kmeans
from hubpub.palettize.palette import unpack

KIND = "readback"
VERSION = 1

# Signal-to-noise in dB that the worst tensor must reach, by bits. An optimal palette of a Gaussian
# reaches 32 dB at 6 bits; a scrambled index stream about 0. Wide enough for any sane distribution.
LOWEST_SNR: Mapping[int, float] = {8: 30.0, 6: 20.0, 4: 8.0, 2: 1.0, 1: 0.0}

# Every float16 by its bits, widened: looking one up is cheaper than converting it.
_VALUES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
Float16s = npt.NDArray[np.float16]


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Compare `inputs["package"]` with the weights in `inputs["source"]` that `inputs["graph"]` names.

    params: `component`, `bits`, `weights` (file names in the source folder). Writes
    nothing but the measurements. Raises ParityTooLow naming the worst tensors.
    """
    graph = Graph.load(inputs["graph"])
    model = read_model(inputs["package"])
    produced = {operation.outputs[0].name: operation for operation in main_block(model).operations if operation.outputs}
    blobs = BlobReader(weights_folder(inputs["package"]) / "weight.bin")
    exact, noise = 0, {}
    with open_weights([inputs["source"] / name for name in params["weights"]]) as weights:
        for name, reference, expected in _expected(graph, weights):
            operation = produced.get(name) or produced.get(f"{name}_palettized")
            if operation is None:
                raise BadPackage(f"The package has no constant {name}.", hint="Run `hubpub cache verify`.")
            if operation.type == "const":
                _compare(operation, expected, reference, blobs)
                exact += 1
            else:
                noise[reference.tensor] = _signal_to_noise(operation, expected, blobs)
            blobs.relax()
            if not reference.transform:
                weights.release(reference.tensor)
    worst = sorted(noise.items(), key=lambda item: item[1])[:5]
    floor = LOWEST_SNR.get(params["bits"], math.inf)
    if worst and not worst[0][1] >= floor:
        listed = ", ".join(f"{tensor} {value:.1f} dB" for tensor, value in worst)
        raise ParityTooLow(
            f"The palettized {params['component']} is too far from its source: {listed} (floor {floor:g} dB).",
            hint="More bits help; so does looking at the tensors named.",
            measured=worst[0][1],
            floor=floor,
        )
    summary = f"{exact} tensors bit-exact"
    if noise:
        summary += f", {len(noise)} palettized at {worst[0][1]:.1f} dB or better"
    return {
        "summary": summary,
        "exact": exact,
        "palettized": len(noise),
        "lowest_snr": round(worst[0][1], 2) if worst else None,
        "worst": [[tensor, round(value, 2)] for tensor, value in worst],
    }


def _expected(graph: Graph, weights: Weights) -> Iterator[tuple[str, Reference, Float16s]]:
    """Name in the program, reference, and the values that belong there (float16)."""
    found = []
    for operation in constants(main_block(graph.model)):
        value = operation.attributes["val"]
        if value.WhichOneof("value") == "blobFileValue":
            found.append((operation.outputs[0].name, Reference.parse(value.blobFileValue.fileName)))
    names = match_names(weights.names(), [reference.tensor for _, reference in found])
    for name, reference in found:
        held = names[reference.tensor]
        if reference.transform:
            yield name, reference, TRANSFORMS[reference.transform](weights.float16(held)).astype(np.float16)
        else:
            yield name, Reference(tensor=held), weights.float16(held)


def _compare(operation: schema.Operation, expected: Float16s, reference: Reference, blobs: BlobReader) -> None:
    value = operation.attributes["val"]
    if value.WhichOneof("value") == "blobFileValue":
        held = blobs.array(value.blobFileValue.offset)
    else:
        tensor = value.immediateValue.tensor
        given = tensor.bytes.values if tensor.WhichOneof("value") == "bytes" else tensor.floats.values
        held = np.frombuffer(given, np.float16) if isinstance(given, bytes) else np.array(given, np.float32)
    if held.size != expected.size or not np.array_equal(held, expected.reshape(-1).astype(held.dtype)):
        raise ParityTooLow(
            f"The constant of {reference.tensor} is not the source's tensor.", hint="Run `hubpub cache verify`."
        )


@kmeans.jit
def _sums(
    words: npt.NDArray[np.uint16],
    values: npt.NDArray[np.float32],
    indices: npt.NDArray[np.uint8],
    lut: npt.NDArray[np.float32],
) -> tuple[float, float]:
    """Σ w² and Σ (w - lut[index])² in fp64; `words` are the weights' bits."""
    signal = error = 0.0
    for place in range(words.size):
        weight = float(values[words[place]])
        difference = weight - float(lut[indices[place]])
        signal += weight * weight
        error += difference * difference
    return signal, error


def _signal_to_noise(operation: schema.Operation, expected: Float16s, blobs: BlobReader) -> float:
    """10·log10(Σ w² / Σ (w - lut[index])²) in dB."""
    arguments = {**operation.attributes}
    for name, argument in operation.inputs.items():  # iOS 18 gives them as inputs
        arguments[name] = argument.arguments[0].value
    table = arguments["lut"]
    if table.WhichOneof("value") == "blobFileValue":
        lut = np.asarray(blobs.array(table.blobFileValue.offset), np.float32).reshape(-1)
    else:  # a table of 1 or 2 bits is too small for the weight file
        lut = np.asarray(decode(table.immediateValue.tensor, schema.FLOAT16), np.float32)
    bits = int(lut.size).bit_length() - 1
    packed = blobs.read(arguments["indices"].blobFileValue.offset)
    indices = unpack(packed, bits, expected.size)
    signal, error = _sums(expected.reshape(-1).view(np.uint16), _VALUES, indices, lut)
    if error == 0.0:
        return 200.0  # exact: as many decibels as JSON and readers bear
    return 10 * math.log10(signal / error) if signal > 0 and math.isfinite(error) else -math.inf
