"""verify: a component is run, and its numbers are compared with those of the source's own modules.

The step `reference` has run diffusers' and transformers' modules, in fp32, on realistic
inputs (runtime/samples.py says which, and why). The packages get the same inputs: the
16-bit package with all floats kept in fp32 shows whether the graph computes what the
source computes (floor_graph); the same package at fp16 shows what half precision costs
(floor_fp16); the palettized package at fp16 shows what is published (floor). Each is
measured as Apple's converter measures its own output, in dB of PSNR.

All outputs of the reference count, the worst decides; of the safety checker those are
its scores alone, because its picture and its verdict jump where a score crosses zero.

Memory: one run at a time; weights are expanded one layer at a time. Only when a floor is
missed are the runs repeated to see which layers lose most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from hubpub.errors import BadPackage, ParityTooLow
from hubpub.runtime.measure import psnr
from hubpub.runtime.model import Model, load
from hubpub.runtime.samples import SEED

KIND = "verify"
VERSION = 1

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Precision = Literal["fp16", "fp32"]

_SAMPLES = 256  # elements kept of each intermediate value
_WORST = 5


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Run `inputs["package"]` and `inputs["full"]` (the 16-bit package) on what `inputs["expected"]` was run on.

    params: `component`, `bits`, and floors in dB or None to measure only: `floor_graph`,
    `floor_fp16`, `floor`. Writes nothing but the measurements: `psnr`, `psnr_fp16` and
    `psnr_graph` in dB, each output's, and the inputs' seed. Raises ParityTooLow with the
    numbers and the layers that lose most, also where anything is NaN or infinite.
    """
    package, full = inputs["package"], inputs["full"]
    arrays, expected = read_reference(inputs["expected"] / "reference.npz")
    found = {
        "graph": _measure(full, arrays, expected, precision="fp32"),
        "fp16": _measure(full, arrays, expected, precision="fp16"),
    }
    same = int(params["bits"]) == 16
    found["package"] = found["fp16"] if same else _measure(package, arrays, expected, precision="fp16")
    floors = {"graph": params["floor_graph"], "fp16": params["floor_fp16"], "package": params["floor"]}
    for which, numbers in found.items():
        least, floor = lowest(numbers), floors[which]
        if math.isnan(least) or (floor is not None and least < floor):
            path = package if which == "package" else full
            raise _too_low(params, which, least, floor, path=path, full=full, arrays=arrays)
    values = {which: lowest(numbers) for which, numbers in found.items()}
    summary = f"{values['fp16']:.1f} dB at fp16, {values['graph']:.1f} dB in fp32"
    if not same:
        summary = f"{values['package']:.1f} dB at {params['bits']} bits, {summary}"
    return {
        "summary": summary,
        "psnr": _rounded(values["package"]),
        "psnr_fp16": _rounded(values["fp16"]),
        "psnr_graph": _rounded(values["graph"]),
        "outputs": {name: _rounded(value) for name, value in found["package"].items()},
        "floor": params["floor"],
        "floor_fp16": params["floor_fp16"],
        "floor_graph": params["floor_graph"],
        "seed": SEED,
    }


def read_reference(path: Path) -> tuple[Arrays, Arrays]:
    """What the step `reference` wrote: inputs and outputs, by name."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return tuple(  # type: ignore[return-value]  # of two
        {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
        for kind in ("input/", "output/")
    )


def _measure(
    package: Path, arrays: Mapping[str, Array], expected: Mapping[str, Array], *, precision: Precision
) -> dict[str, float]:
    """PSNR of every expected output of a package."""
    measured = answers(package, arrays, expected, precision=precision)
    return {name: psnr(values, measured[name]) for name, values in expected.items()}


def answers(package: Path, arrays: Mapping[str, Array], names: Iterable[str], *, precision: Precision) -> Arrays:
    """What a package gives for inputs: the outputs of these names. Raises BadPackage where one is missing."""
    with load(package, precision=precision) as model:
        measured = model.predict(arrays)
    missing = [name for name in names if name not in measured]
    if missing:
        raise BadPackage(f"{package.name} has no output {missing[0]}.", hint="It was not converted for these apps.")
    return {name: measured[name] for name in names}


def lowest(numbers: Mapping[str, float]) -> float:
    """The lowest of them; NaN where one is."""
    values = list(numbers.values())
    return math.nan if any(map(math.isnan, values)) else min(values)


def _rounded(value: float) -> float:
    return round(min(value, 200.0), 2)  # exact: as many decibels as JSON and readers bear


def _too_low(
    params: Mapping[str, Any],
    which: str,
    least: float,
    floor: float | None,
    *,
    path: Path,
    full: Path,
    arrays: Mapping[str, Array],
) -> ParityTooLow:
    kind = {"graph": "in fp32", "fp16": "at fp16", "package": f"with {params['bits']}-bit weights"}[which]
    layers, broken = _layers(path, full, arrays)
    lost = ", ".join(f"{name} ({kind} {before:.0f} → {after:.0f} dB)" for name, kind, before, after in layers)
    if math.isnan(least):
        first = f", first in {broken}" if broken else ""
        sentence = f"The {params['component']} {kind} gives NaN or infinity{first}."
    else:
        sentence = (
            f"The {params['component']} {kind} is {least:.1f} dB from the source's own; the floor is {floor:g} dB."
        )
    return ParityTooLow(
        f"{sentence} Most is lost in {lost}." if lost else sentence,
        hint="More bits help a palettized component; NaN or infinity means that fp16 is too narrow for this model. "
        "A floor can be lowered with --floor COMPONENT=DB.",
        measured=None if math.isnan(least) else least,
        floor=floor,
    )


def _layers(
    path: Path, full: Path, arrays: Mapping[str, Array]
) -> tuple[list[tuple[str, str, float, float]], str | None]:
    """(layer, operation, dB of its worst input, dB of its result) where most is lost; the first that is not finite."""
    with load(full, precision="fp32") as model:
        expected = _sampled(model, arrays)
    with load(path, precision="fp16") as model:
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
