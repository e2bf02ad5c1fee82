"""readback: what packages hold, compared with the source, without the code that wrote it.

Every constant that the network takes from the source is found in the package by its name,
decoded, and compared: 16-bit ones must be bit-exact, palettized ones must stand for the
tensor as well as a palette of that width can. It is the gate where nothing can be run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints import match_names, open_checkpoint
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import read_model, weights_folder
from hubpub.coreml.program import constant_name, main_block
from hubpub.coreml.survey import survey
from hubpub.coreml.values import decode
from hubpub.coreml.weight_file import BlobReader
from hubpub.coreml.weights import weight_files
from hubpub.errors import BadPackage, ParityTooLow
from hubpub.networks.transforms import TRANSFORMS
from hubpub.steps.step import Step
from hubpub.steps.weights import network_constants

# Signal-to-noise in dB that the worst tensor must reach, by bits. An optimal palette of a Gaussian
# reaches 32 dB at 6 bits; a scrambled index stream about 0. Wide enough for any sane distribution.
LOWEST_SNR: Mapping[int, float] = {8: 30.0, 6: 20.0, 4: 8.0, 2: 1.0, 1: 0.0}

Float16s = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Readback(Step):
    """Compare the packages of a component with its source; writes nothing but the measurements.

    inputs: `source` (the component's folder), `package` (one of the packages), `packages/0`,
    … (the others over the same weight file). Every tensor is compared in `package`; in the
    others each constant must name the same place. Raises ParityTooLow naming the worst tensors.
    """

    VERSION: ClassVar[int] = 2

    family: str
    component: str
    config: Mapping[str, Any]  # the network's config as plain JSON
    bits: int
    checkpoint: Mapping[str, Any]  # what open_checkpoint takes

    @property
    def label(self) -> str:
        return f"check weights of {self.component}"

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        exact, noise = self._compare(inputs)
        first = _places(read_model(inputs["package"]))
        for name, package in inputs.items():
            if name.startswith("packages/"):
                _check_places(package, first)
        worst = sorted(noise.items(), key=lambda item: item[1])[:5]
        floor = LOWEST_SNR.get(self.bits, math.inf)
        if worst and not worst[0][1] >= floor:
            listed = ", ".join(f"{tensor} {value:.1f} dB" for tensor, value in worst)
            raise ParityTooLow(
                f"The palettized {self.component} is too far from its source: {listed} (floor {floor:g} dB).",
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

    def _compare(self, inputs: Mapping[str, Path]) -> tuple[int, dict[str, float]]:
        """How many tensors are bit-exact, and the signal-to-noise of each palettized one in dB."""
        package = inputs["package"]
        model = read_model(package)
        produced = {
            operation.outputs[0].name: operation for operation in main_block(model).operations if operation.outputs
        }
        blobs = BlobReader(weights_folder(package) / "weight.bin")
        exact, noise = 0, {}
        tensors, _ = network_constants(self.family, self.component, self.config)
        with open_checkpoint(self.checkpoint, inputs) as checkpoint:
            names = match_names(checkpoint.tensors(), [tensor.name for tensor in tensors])
            for tensor in tensors:
                name, held = constant_name(tensor.name), names[tensor.name]
                operation = produced.get(name) or produced.get(f"{name}_palettized")
                if operation is None:
                    raise BadPackage(f"The package has no constant {name}.", hint="Run `hubpub cache verify`.")
                expected = checkpoint.float16(held)
                if tensor.transform:
                    expected = TRANSFORMS[tensor.transform](expected).astype(np.float16)
                if operation.type == "const":
                    _compare_exactly(operation, expected, held, blobs)
                    exact += 1
                else:
                    noise[held] = _signal_to_noise(operation, expected, blobs)
                blobs.relax()
                checkpoint.release(held)
        return exact, noise


def _places(model: schema.Model) -> dict[str, list[tuple[str, int]]]:
    """Name of each constant with blobs → file and offset of each."""
    places: dict[str, list[tuple[str, int]]] = {}
    for operation in main_block(model).operations:
        values = [*operation.attributes.values()]
        values += [binding.value for given in operation.inputs.values() for binding in given.arguments]
        blobs = [value.blobFileValue for value in values if value.WhichOneof("value") == "blobFileValue"]
        if blobs:
            places[operation.outputs[0].name] = [(blob.fileName, blob.offset) for blob in blobs]
    return places


def _check_places(package: Path, places: Mapping[str, Any]) -> None:
    """Every blob is whole, of the type that the program declares, and the one that the first package names."""
    model = read_model(package)
    weight_files(survey(model.mlProgram).blobs, weights_folder(package).parent)
    for name, blobs in _places(model).items():
        if name in places and blobs != places[name]:
            raise BadPackage(f"The constant {name} of {package.name} is not where the other packages have it.")


def _compare_exactly(operation: schema.Operation, expected: Float16s, tensor: str, blobs: BlobReader) -> None:
    value = operation.attributes["val"]
    if value.WhichOneof("value") == "blobFileValue":
        held = blobs.array(value.blobFileValue.offset)
    else:
        immediate = value.immediateValue.tensor
        given = immediate.bytes.values if immediate.WhichOneof("value") == "bytes" else immediate.floats.values
        held = np.frombuffer(given, np.float16) if isinstance(given, bytes) else np.array(given, np.float32)
    if held.size != expected.size or not np.array_equal(held, expected.reshape(-1).astype(held.dtype)):
        raise ParityTooLow(f"The constant of {tensor} is not the source's tensor.", hint="Run `hubpub cache verify`.")


def _signal_to_noise(operation: schema.Operation, expected: Float16s, blobs: BlobReader) -> float:
    """10·log10(Σ w² / Σ (w - lut[index])²) in dB."""
    # Not at the top: they import numba, which takes half a second.
    from hubpub.palettize.noise import signal_and_error
    from hubpub.palettize.palette import unpack

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
    signal, error = signal_and_error(expected.reshape(-1).view(np.uint16), indices, lut)
    if error == 0.0:
        return 200.0  # exact: as many decibels as JSON and readers bear
    return 10 * math.log10(signal / error) if signal > 0 and math.isfinite(error) else -math.inf
