"""measure: a component's packages are run, and their numbers compared with those of the source's own module.

The step `reference` has run the source's module in fp32 on realistic inputs. The same
inputs go to the program at 16 bits with all floats kept in fp32, which shows whether it
computes what the source computes (floor_program); and to the published width at
fp16, which is what apps get (floor). Each is measured as Apple's converter measures its own output,
in dB of PSNR, and the worst output decides.

The programs are written for a small latent over the very weight files that are published,
and the published program must be the small one but for sizes (coreml/structure.py). At the
published size itself (`--verify full`) they are one and the same.

Memory: one run at a time; weights are expanded one layer at a time. Only when a floor is
missed are the runs repeated to see which layers lose most.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from hubpub import architectures
from hubpub.checkpoints import match_names, open_checkpoint
from hubpub.coreml.program import constants_of, write
from hubpub.errors import BadPackage, ParityTooLow
from hubpub.networks import Size
from hubpub.steps.package import write_package
from hubpub.steps.reference import FILE, read_reference
from hubpub.steps.step import Step

if TYPE_CHECKING:
    import torch

    from hubpub.runtime.model import Model

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Precision = Literal["fp16", "fp32"]
Opened = Callable[[str, Precision], "Model"]  # opens a piece at a precision

_SAMPLES = 256  # elements kept of each intermediate value
_WORST = 5


@dataclass(frozen=True, kw_only=True)
class Measure(Step):
    """Compare one variant of a component with the source; writes nothing but the measurements.

    inputs: `package/0` (the published one), `weights/0` (what the step weights wrote), and the
    same numbered on for each chunk; `source` (the component's folder, for its tensors at 16 bits),
    `expected` (what the step reference wrote). Chunks are run one after the other.
    Measurements: `psnr` (of the published width) and `psnr_program` (of the 16-bit program in
    fp32) in dB, each output's, the size in latent pixels, the inputs' seed. Raises
    ParityTooLow with the numbers and the layers that lose most, also where anything is NaN
    or infinite, and BadPackage where the published program is not the measured one but for sizes.
    """

    VERSION: ClassVar[int] = 4
    NEEDS: ClassVar[tuple[str, ...]] = ("torch",)

    family: str
    component: str
    pieces: Sequence[str]  # the component itself, or its chunks in order
    config: Mapping[str, Any]  # the network's config as plain JSON
    checkpoint: Mapping[str, Any]  # what open_checkpoint takes
    attention: str | None
    height: int  # of the latent at which it is measured
    width: int
    batch: int
    target: str
    bits: int
    floor: float | None  # dB of the published width; None: measure only
    floor_program: float

    @property
    def label(self) -> str:
        return f"verify {self.component}" + (f" {self.attention}" if self.attention else "")

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        from hubpub.runtime.checkpoint_blobs import CheckpointBlobs
        from hubpub.runtime.model import load, load_model

        size = Size(height=self.height, width=self.width, batch=self.batch)
        arrays, expected = read_reference(inputs["expected"] / FILE)
        with (
            tempfile.TemporaryDirectory(dir=out.parent) as folder,  # beside the weights, so that they can be linked
            open_checkpoint(self.checkpoint, inputs) as checkpoint,
        ):
            smalls = {piece: Path(folder) / f"{piece}.mlpackage" for piece in self.pieces}
            for number, (piece, small) in enumerate(smalls.items()):
                program = (self.family, piece, self.config, self.attention, size)
                weights = inputs[f"weights/{number}"]
                write_package(small, weights=weights, program=program, target=self.target, metadata={})
                self._check_structure(inputs[f"package/{number}"], small)

            def package(piece: str, precision: Precision) -> Model:
                return load(smalls[piece], precision=precision)

            def full(piece: str, precision: Precision) -> Model:
                """The program at 16 bits: of the published weights, or on the source's own tensors."""
                if self.bits == 16:
                    return package(piece, precision)
                known = architectures.find(self.family, piece)
                config = known.read_config(self.config)
                network = known.program(config, size=size, attention=self.attention)
                tensors, _ = constants_of(network, floats=config.floats)
                names = match_names(checkpoint.tensors(), [tensor.name for tensor in tensors])
                blobs = CheckpointBlobs(checkpoint, names)
                model = write(network, target=self.target, floats=config.floats, constants=blobs)
                return load_model(model, blobs, name=piece, precision=precision)

            return self.compare(package, full, arrays, expected)

    def compare(
        self, package: Opened, full: Opened, arrays: Mapping[str, Array], expected: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Run `full` (16 bits) in fp32 and `package` at fp16 on `arrays`, against the `expected` outputs."""
        from hubpub.runtime.samples import SEED

        numbers = {
            "program": self._measure(full, arrays, expected, precision="fp32"),
            "package": self._measure(package, arrays, expected, precision="fp16"),
        }
        floors = {"program": self.floor_program, "package": self.floor}
        for which, outputs in numbers.items():
            least, floor = lowest(outputs), floors[which]
            if math.isnan(least) or (floor is not None and least < floor):
                measured = package if which == "package" else full
                raise self._too_low(which, least, floor, measured=measured, full=full, arrays=arrays)
        values = {which: _rounded(lowest(outputs)) for which, outputs in numbers.items()}
        return {
            "summary": f"{values['package']:.1f} dB at {self.bits} bits, {values['program']:.1f} dB in fp32",
            "psnr": values["package"],
            "psnr_program": values["program"],
            "outputs": {name: _rounded(value) for name, value in numbers["package"].items()},
            "floor": self.floor,
            "floor_program": self.floor_program,
            "latent": [self.height, self.width],
            "seed": SEED,
        }

    def _check_structure(self, published: Path, small: Path) -> None:
        """The published program is the small one but for sizes; and coremltools infers the types that it declares."""
        from hubpub.coreml.package import read_model
        from hubpub.coreml.structure import differences

        model = read_model(published)
        wrong = differences(model, read_model(small))
        if not wrong and find_spec("coremltools"):
            from hubpub.coreml.reading import independent_types

            wrong = independent_types(model)
        if wrong:
            raise BadPackage(
                f"The published program of {self.component} is not the one that was measured: {wrong[0]}.",
                hint="This is a fault of hubpub; please report it.",
            )

    def _too_low(
        self,
        which: str,
        least: float,
        floor: float | None,
        *,
        measured: Opened,
        full: Opened,
        arrays: Mapping[str, Array],
    ) -> ParityTooLow:
        kind = {"program": "in fp32", "package": f"with {self.bits}-bit weights"}[which]
        layers, broken = self._layers(measured, full, arrays)
        lost = ", ".join(f"{name} ({kind} {before:.0f} → {after:.0f} dB)" for name, kind, before, after in layers)
        if math.isnan(least):
            first = f", first in {broken}" if broken else ""
            sentence = f"The {self.component} {kind} gives NaN or infinity{first}."
        else:
            sentence = (
                f"The {self.component} {kind} is {least:.1f} dB from the source's own; the floor is {floor:g} dB."
            )
        return ParityTooLow(
            f"{sentence} Most is lost in {lost}." if lost else sentence,
            hint="More bits help a palettized component; NaN or infinity means that fp16 is too narrow for this "
            "model. A floor can be lowered with --floor COMPONENT=DB.",
            measured=None if math.isnan(least) else least,
            floor=floor,
        )

    def _measure(
        self, opened: Opened, arrays: Mapping[str, Array], expected: Mapping[str, Array], *, precision: Precision
    ) -> dict[str, float]:
        """PSNR of every expected output; each chunk takes what those before it gave, too."""
        from hubpub.runtime.measure import psnr

        values = dict(arrays)
        for piece in self.pieces:
            with opened(piece, precision) as model:
                values |= model.predict({name: values[name] for name in model.inputs})
        return {name: psnr(array, values[name]) for name, array in expected.items()}

    def _layers(
        self, opened: Opened, full: Opened, arrays: Mapping[str, Array]
    ) -> tuple[list[tuple[str, str, float, float]], str | None]:
        """What `_losses` says of each piece, with the inputs that the source's weights in fp32 give to it."""
        values, broken = dict(arrays), None
        losses: list[tuple[str, str, float, float]] = []
        for piece in self.pieces:
            with full(piece, "fp32") as model:
                own = {name: values[name] for name in model.inputs}
                values |= model.predict(own)
            its_losses, its_broken = _losses(partial(opened, piece), partial(full, piece), own)
            losses, broken = losses + its_losses, broken or its_broken
        return sorted(losses, key=lambda loss: loss[3] - loss[2])[:_WORST], broken


def answers(
    packages: Sequence[Path], arrays: Mapping[str, Array], names: Iterable[str], *, precision: Precision
) -> Arrays:
    """What a package, or one chunk after the other, gives for inputs: the outputs of these names.

    Raises BadPackage where one is missing.
    """
    from hubpub.runtime.model import load

    values = dict(arrays)
    for package in packages:
        with load(package, precision=precision) as model:
            values |= model.predict({name: values[name] for name in model.inputs})
    missing = [name for name in names if name not in values]
    if missing:
        raise BadPackage(
            f"{packages[-1].name} has no output {missing[0]}.", hint="It was not converted for these apps."
        )
    return {name: values[name] for name in names}


def lowest(numbers: Mapping[str, float]) -> float:
    """The lowest of them; NaN where one is."""
    values = list(numbers.values())
    return math.nan if any(map(math.isnan, values)) else min(values)


def _rounded(value: float) -> float:
    return round(min(value, 200.0), 2)  # exact: as many decibels as JSON and readers bear


def _losses(
    opened: Callable[[Precision], Model], full: Callable[[Precision], Model], arrays: Mapping[str, Array]
) -> tuple[list[tuple[str, str, float, float]], str | None]:
    """(layer, operation, dB of its worst input, dB of its result) where most is lost; the first that is not finite."""
    from hubpub.runtime.measure import psnr

    with full("fp32") as model:
        expected = _sampled(model, arrays)
    with opened("fp16") as model:
        measured = _sampled(model, arrays)
        operations = model.operations()
    finite = {name: bool(np.isfinite(values).all()) for name, values in measured.items()}
    broken = next((name for name, good in finite.items() if not good and np.isfinite(expected[name]).all()), None)
    levels = {
        name: psnr(expected[name], values)
        for name, values in measured.items()
        if name in expected and expected[name].shape == values.shape and values.size
    }
    losses = []
    for name, kind, used in operations:
        before = min((levels[one] for one in used if one in levels and not math.isnan(levels[one])), default=100.0)
        after = levels.get(name, math.nan)
        if not math.isnan(after):
            losses.append((name, kind, min(before, 100.0), after))
    losses.sort(key=lambda loss: loss[3] - loss[2])
    return [loss for loss in losses[:_WORST] if loss[2] - loss[3] > 1], broken


def _sampled(model: Model, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """A few elements of every float value that the model makes on the way."""
    kept: dict[str, Array] = {}

    def watch(name: str, value: torch.Tensor) -> None:
        if value.is_floating_point():
            flat = value.reshape(-1)
            step = max(1, flat.numel() // _SAMPLES)
            kept[name] = flat[::step][:_SAMPLES].float().numpy().copy()

    model.predict(arrays, watch=watch)
    return kept
