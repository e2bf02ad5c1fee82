"""verify: a component is run, and its numbers are compared with those of its own fp32 reference.

Three runs of two packages, on the same realistic inputs (runtime/samples.py says which, and
why): the 16-bit package with all floats kept in fp32 is the reference; the same package at
fp16 shows what half precision costs (floor_fp16); the palettized package at fp16 shows what
is published (floor). Each is measured as Apple's converter measures its own output, in dB
of PSNR, the reference first. The two packages are filled from one graph and one source, so
the reference is the source's network: that the graph itself computes what diffusers computes
is proven when it is made, not here.

All float outputs count, the worst decides; of the safety checker its scores count alone,
because its picture and its verdict jump where a score crosses zero.

Memory: one run at a time; weights are expanded one layer at a time. Only when a floor is
missed are the runs repeated to see which layers lose most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hubpub.errors import ParityTooLow
from hubpub.runtime.measure import psnr
from hubpub.runtime.model import Model, load
from hubpub.runtime.samples import SEED, realistic

KIND = "verify"
VERSION = 1

Array = npt.NDArray[Any]

_COMPARED = {"safety_checker": ("concept_scores",)}
_SAMPLES = 256  # elements kept of each intermediate value
_WORST = 5


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Run `inputs["package"]` and `inputs["reference"]` (the 16-bit package; the same where bits is 16).

    params: `component`, `bits`, `floor` (dB, or None to measure only), `floor_fp16`,
    `scheduler` (its config), and optionally `scaling_factor` of the VAE. Writes nothing but the
    measurements: `psnr` and `psnr_fp16` in dB, each output's, and the inputs' seed. Raises
    ParityTooLow with the numbers and the layers that lose most, also where anything is NaN
    or infinite.
    """
    package, reference = inputs["package"], inputs["reference"]
    with load(reference, precision="fp32") as model:
        arrays = realistic(model.inputs, params=_sample_params(model, params))
        expected = model.predict(arrays)
    compared = _COMPARED.get(params["component"]) or tuple(
        name for name, array in expected.items() if array.dtype.kind == "f"
    )
    found = {"fp16": _measure(reference, arrays, expected, compared)}
    same = package == reference or int(params["bits"]) == 16
    found["package"] = found["fp16"] if same else _measure(package, arrays, expected, compared)
    floors = {"fp16": params.get("floor_fp16"), "package": params.get("floor")}
    for which, path in (("fp16", reference), ("package", package)):
        lowest = _lowest(found[which])
        floor = floors[which]
        if math.isnan(lowest) or (floor is not None and lowest < floor):
            raise _too_low(params, which, lowest, floor, path=path, reference=reference, arrays=arrays)
    values = {which: _lowest(numbers) for which, numbers in found.items()}
    summary = f"{values['fp16']:.1f} dB at fp16"
    if not same:
        summary = f"{values['package']:.1f} dB at {params['bits']} bits, " + summary
    return {
        "summary": summary,
        "psnr": _rounded(values["package"]),
        "psnr_fp16": _rounded(values["fp16"]),
        "outputs": {name: _rounded(value) for name, value in found["package"].items()},
        "floor": params.get("floor"),
        "floor_fp16": params.get("floor_fp16"),
        "seed": SEED,
    }


def _measure(
    package: Path, arrays: Mapping[str, Array], expected: Mapping[str, Array], compared: tuple[str, ...]
) -> dict[str, float]:
    """PSNR of every compared output of a package at fp16."""
    with load(package, precision="fp16") as model:
        measured = model.predict(arrays)
    return {name: psnr(expected[name], measured[name]) for name in compared}


def _lowest(numbers: Mapping[str, float]) -> float:
    """The lowest of them; NaN where one is."""
    values = list(numbers.values())
    return math.nan if any(map(math.isnan, values)) else min(values)


def _rounded(value: float) -> float:
    return round(min(value, 200.0), 2)  # exact: as many decibels as JSON and readers bear


def _sample_params(model: Model, params: Mapping[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = {"timesteps": params.get("scheduler", {}).get("num_train_timesteps") or 1000}
    if params.get("scaling_factor"):
        chosen["scaling_factor"] = params["scaling_factor"]
    vocabulary = model.table_sizes("input_ids")
    if vocabulary:
        chosen["vocabulary"] = min(vocabulary)
    sample = next((item.shape for item in model.inputs if item.name == "sample"), None)
    if sample:
        chosen["size"] = (8 * sample[2], 8 * sample[3])
    return chosen


def _too_low(
    params: Mapping[str, Any],
    which: str,
    lowest: float,
    floor: float | None,
    *,
    path: Path,
    reference: Path,
    arrays: Mapping[str, Array],
) -> ParityTooLow:
    kind = "at fp16" if which == "fp16" else f"with {params['bits']}-bit weights"
    layers, broken = _layers(path, reference, arrays)
    lost = ", ".join(f"{name} ({kind} {before:.0f} → {after:.0f} dB)" for name, kind, before, after in layers)
    if math.isnan(lowest):
        first = f", first in {broken}" if broken else ""
        sentence = f"The {params['component']} {kind} gives NaN or infinity{first}."
    else:
        sentence = (
            f"The {params['component']} {kind} is {lowest:.1f} dB from its fp32 reference; the floor is {floor:g} dB."
        )
    return ParityTooLow(
        f"{sentence} Most is lost in {lost}." if lost else sentence,
        hint="More bits help a palettized component; NaN or infinity means that fp16 is too narrow for this model. "
        "A floor can be lowered with --floor COMPONENT=DB.",
        measured=None if math.isnan(lowest) else lowest,
        floor=floor,
    )


def _layers(
    path: Path, reference: Path, arrays: Mapping[str, Array]
) -> tuple[list[tuple[str, str, float, float]], str | None]:
    """(layer, operation, dB of its worst input, dB of its result) where most is lost; the first that is not finite."""
    with load(reference, precision="fp32") as model:
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
