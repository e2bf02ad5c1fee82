"""Compile small models with hubpub and with Xcode, and compare bundles and predictions exactly.

    python tests/macos/compare_compilers.py [--keep FOLDER] [MODEL ...]

Needs a Mac with Xcode, macOS 15 or newer, and coremltools; `.github/workflows/macos.yml`
runs it. Status 1 where a form that counts as verified differs, or any prediction does.
Forms that hubpub marks as unverified may differ: they are shown, so that they can be learned.

Not run so far: this file has been read and linted on Linux, where the comparing of
bundles is tested against recorded pairs, but no Mac has executed it yet.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import coremltools as ct
import numpy as np

from hubpub.coreml.bundle import Bundle, read_bundle
from hubpub.coreml.compiler import compile_bundle
from hubpub.files.processes import find_coremlcompiler
from tests.support.bundle_diff import differences
from tests.support.coreml_models import MODELS, save

NAMES = (*MODELS, "functions_ios18")
_DTYPES = {"Float16": np.float16, "Float32": np.float32, "Int32": np.int32}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare all models, or those named; the number of those that fail, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--keep", type=Path, help="leave packages and bundles in this folder")
    options = parser.parse_args(arguments)
    print(f"Xcode's compiler: {find_coremlcompiler()}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = [compare(name, folder) for name in options.models or NAMES]
    return int(not all(results))


def compare(name: str, folder: Path) -> bool:
    """Compile one model both ways, print what differs, and say whether that is all right."""
    package = save(name, folder)
    ours = compile_bundle(package, folder / "hubpub" / f"{name}.mlmodelc", stem=name, compiler="portable")
    theirs = compile_bundle(package, folder / "xcode" / f"{name}.mlmodelc", stem=name, compiler="apple")
    found = differences(ours.bundle, theirs.bundle)
    same = predictions_agree(ours.bundle, theirs.bundle)
    marked = f" (unverified: {', '.join(ours.unverified)})" if ours.unverified else ""
    print(
        f"{name}: {len(found)} differences, predictions {'equal' if same else 'DIFFER'}{marked}, Xcode {theirs.version}"
    )
    for line in found:
        print(f"  {line}")
    return same and (not found or bool(ours.unverified))


def predictions_agree(ours: Path, theirs: Path) -> bool:
    """Whether both bundles load and give the same bits for the same inputs, on the CPU."""
    inputs = random_inputs(read_bundle(ours))
    answers = [predict(bundle, inputs) for bundle in (ours, theirs)]
    return answers[0].keys() == answers[1].keys() and all(
        np.array_equal(answers[0][name], answers[1][name], equal_nan=True) for name in answers[0]
    )


def predict(bundle: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a compiled model."""
    model = ct.models.CompiledMLModel(str(bundle), ct.ComputeUnit.CPU_ONLY)
    outputs: dict[str, Any] = model.predict(inputs)
    return outputs


def random_inputs(bundle: Bundle) -> dict[str, Any]:
    """Standard normal numbers of each input's type and shape; always the same ones."""
    random = np.random.default_rng(1)
    return {one.name: random.standard_normal(one.shape).astype(_DTYPES[one.dtype]) for one in bundle.inputs}


if __name__ == "__main__":
    sys.exit(main())
