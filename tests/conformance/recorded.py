"""The runs that docs/conformance.md records:  python -m tests.conformance.recorded --out FILE

coremltools has some 30,000 of these tests, and one takes half a second. So the ops of Stable
Diffusion's graphs are tested whole in the opsets that hubpub writes, and the rest by one test in so many.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Every op in the graphs that are shipped (hubpub/graphs), and the one that expands palettes.
STABLE_DIFFUSION = (
    "add", "batch_norm", "cast", "concat", "constexpr_lut_to_dense", "conv", "cos", "einsum", "expand_dims", "gather",
    "gather_nd", "gelu", "greater", "layer_norm", "linear", "matmul", "maximum", "mul", "pad", "real_div",
    "reduce_argmax", "reduce_l2_norm", "reduce_max", "reduce_mean", "reshape", "sigmoid", "silu", "sin",
    "slice_by_index", "softmax", "split", "sqrt", "square", "squeeze", "stack", "sub", "tile", "transpose",
    "upsample_nearest_neighbor",
)  # fmt: skip


class Run(NamedTuple):
    """Files of tests, one test in `every` of them, and whether those of Stable Diffusion's ops alone."""

    files: tuple[str, ...]
    every: int = 1
    stable_diffusion: bool = False


def _names(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/test_{name}" for name in names.split())


RUNS = (
    Run(
        (
            *_names("iOS14", "conv linear normalization elementwise_binary elementwise_unary reduction"),
            *_names("iOS14", "tensor_operation tensor_transformation image_resizing scatter_gather"),
            *_names("iOS15", "elementwise_unary image_resizing tensor_transformation"),
            *_names("iOS16", "constexpr_ops conv image_resizing tensor_operation tensor_transformation scatter_gather"),
        ),
        stable_diffusion=True,
    ),
    Run(
        (
            *_names("iOS17", "conv linear elementwise_unary normalization reduction tensor_operation"),
            *_names("iOS17", "tensor_transformation scatter_gather activation"),
        ),
        every=6,
        stable_diffusion=True,
    ),
    Run((*_names("iOS14", "activation"), *_names("coreml_dialect", "coreml_dialect"))),
    Run(
        (
            *_names("iOS14", "control_flow pool random scatter_gather image_resizing elementwise_binary"),
            *_names("iOS14", "elementwise_unary reduction tensor_operation tensor_transformation"),
            *_names("iOS15", "image_resizing"),
            *_names("iOS16", "image_resizing"),
        ),
        every=4,
    ),
    Run(_names("iOS18", "states tensor_transformation transformers"), every=3),
    Run(
        _names("iOS17", "image_resizing tensor_transformation scatter_gather elementwise_unary normalization conv"),
        every=12,
    ),
    Run((*_names("iOS18", "compression"), *_names("iOS17", "quantization")), every=30),
    Run(
        (*_names("iOS14", "recurrent"), *_names("iOS17", "recurrent"), *_names("iOS18", "recurrent")),
        every=60,
    ),
    Run(_names("torch", "examples custom_ops passes")),
    Run(_names("torch", "torch_ops"), every=300),
)


def table() -> list[str]:
    """The runs as Markdown."""
    lines = ["| files | tests |", "|---|---|"]
    for run in RUNS:
        which = "all" if run.every == 1 else f"one in {run.every}"
        files = ", ".join(f"`{name}`" for name in run.files)
        lines.append(f"| {files} | {which}{' of the ops of Stable Diffusion' if run.stable_diffusion else ''} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """The command: one process for each run, so that memory is given back; takes hours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(argv)
    for run in RUNS:
        command = [sys.executable, "-m", "tests.conformance.run", "--out", str(given.out), "--every", str(run.every)]
        command += ["--files", *run.files]
        if run.stable_diffusion:
            command += ["--ops", *STABLE_DIFFUSION]
        subprocess.run(command, check=False)  # its status says that a number was wrong, which the report explains


if __name__ == "__main__":
    main()
