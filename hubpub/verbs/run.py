"""run: a package on arrays, without Core ML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hubpub import runtime
from hubpub.errors import BadInput
from hubpub.files.disk import writing


def run(package: Path, inputs: Sequence[str], *, out: Path | None, device: str, precision: str) -> dict[str, Any]:
    """Run `package` on .npy files (`FILE`, or `NAME=FILE`), and write OUTPUT.npy files into `out`.

    Without inputs nothing is run: the answer lists what the package takes and gives.
    """
    model = runtime.load(package, device=device, precision=precision)
    features: dict[str, Any] = {
        kind: [
            {"name": given.name, "dtype": str(given.dtype), "shape": list(given.shape)}
            for given in getattr(model, kind)
        ]
        for kind in ("inputs", "outputs")
    }
    if not inputs:
        return features
    results = model.predict(dict(_read(text, list(model.inputs)) for text in inputs))
    for feature in features["outputs"]:
        array = results[feature["name"]]
        feature["range"] = f"{array.min():.4g} … {array.max():.4g}"
        if out is not None:
            path = out / f"{feature['name']}.npy"
            with writing(path):
                out.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
            feature["path"] = str(path)
    return features


def _read(text: str, names: Sequence[str]) -> tuple[str, np.ndarray[Any, Any]]:
    name, equals, path = text.partition("=")
    if not equals:
        if len(names) != 1:
            raise BadInput(f"The model has several inputs: {', '.join(names)}.", hint="Write --input NAME=FILE.npy.")
        name, path = names[0], text
    try:
        return name, np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not an .npy file that can be read: {error}.") from error
