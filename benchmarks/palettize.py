"""Palettize one large tensor with hubpub and with coremltools, in CPU seconds: python benchmarks/palettize.py."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.palettize.palette import BITS, fit, histogram, packed_indices, palettize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=14_745_600, help="default: a 3×3 convolution 2560 → 640")
    parser.add_argument("--bits", type=int, choices=BITS, action="append", help="default: all widths")
    parser.add_argument("--coremltools", action="store_true", help="time coremltools too (minutes)")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    weight = (random.standard_normal(arguments.elements, np.float32) / np.float32(151.8)).astype(np.float16)
    palettize(weight[:5000], 6)  # compile
    for bits in arguments.bits or BITS:
        _pack(weight[:5000], bits)
        fast = best_of(partial(palettize, weight, bits))
        exact = best_of(partial(palettize, weight, bits, exact=True), times=2)
        packed = best_of(partial(_pack, weight, bits))
        ratio = palettize(weight, bits).squared_error / palettize(weight, bits, exact=True).squared_error
        line = f"{bits} bits: {fast:.3f} s, packed {packed:.3f} s, exact {exact:.3f} s, error {ratio:.6f} × optimum"
        if arguments.coremltools:
            from coremltools.optimize.coreml._quantization_passes import palettize_weights

            start = time.process_time()
            lut, indices = palettize_weights._get_lut_and_indices(weight.reshape(-1, 64), "KMEANS", bits, None)
            seconds = time.process_time() - start
            error = float(((lut[indices].astype(np.float64) - weight.astype(np.float64)) ** 2).sum())
            ratio = palettize(weight, bits).squared_error / error
            line += f"; coremltools {seconds:.1f} s ({seconds / fast:.0f} times), our error {ratio:.6f} × theirs"
        print(line, flush=True)


def _pack(weight: npt.NDArray[np.float16], bits: int) -> npt.NDArray[np.uint8]:
    """What a fill does: no indices, only packed ones."""
    return packed_indices(weight, fit(histogram(weight), bits))


def best_of(function: Callable[[], Any], *, times: int = 3) -> float:
    """CPU seconds of the quickest of a few calls."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
