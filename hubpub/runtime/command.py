"""What `hubpub run` does: arrays in from .npy files, arrays out to .npy files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.errors import BadInput
from hubpub.runtime.features import Feature
from hubpub.runtime.model import load


def parse_inputs(words: Sequence[str], features: Sequence[Feature]) -> dict[str, Path]:
    """`name=file.npy` words, or a bare `file.npy` for a model with one input, as name → file."""
    chosen: dict[str, Path] = {}
    for word in words:
        name, separator, file = word.partition("=")
        if not separator:
            if len(features) != 1:
                names = ", ".join(item.name for item in features)
                raise BadInput(
                    f"{word} does not say which input it is for.", hint=f"Write NAME={word}; names: {names}."
                )
            name, file = features[0].name, word
        if name in chosen:
            raise BadInput(f"The input {name} is given twice.")
        chosen[name] = Path(file)
    return chosen


def run_package(
    package: Path,
    words: Sequence[str],
    *,
    out: Path | None = None,
    device: str = "cpu",
    precision: str = "fp16",
    function: str | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Run a package once on .npy files (see parse_inputs); with `out`, write each output to out/<name>.npy."""
    with load(package, device=device, precision=precision, function=function) as model:
        arrays = {name: _read(file, name) for name, file in parse_inputs(words, model.inputs).items()}
        results = model.predict(arrays)
    if out is not None:
        write_outputs(results, out)
    return results


def write_outputs(results: Mapping[str, npt.NDArray[Any]], out: Path) -> list[Path]:
    """Write each output as <name>.npy; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, array in results.items():
        file = out / f"{name}.npy"
        np.save(file, array, allow_pickle=False)
        files.append(file)
    return files


def _read(file: Path, name: str) -> npt.NDArray[Any]:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"The file {file} for input {name} is not a readable .npy file: {error}.") from error
    if not isinstance(array, np.ndarray):
        raise BadInput(f"The file {file} for input {name} holds several arrays; give a .npy file.")
    return array
