"""Measures the error of a palettized tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints.jit import jit

# Every float16 as float32, by its bits: a lookup is faster than a conversion.
_VALUES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def signal_and_error(
    words: npt.NDArray[np.uint16], indices: npt.NDArray[np.uint8], lut: npt.NDArray[np.float32]
) -> tuple[float, float]:
    """Σ w² and Σ (w - lut[index])² in fp64; `words` are the float16 weights' bits, `indices` one byte for each."""
    signal, error = _sums(words, _VALUES, indices, lut)
    return float(signal), float(error)


@jit
def _sums(
    words: npt.NDArray[np.uint16],
    values: npt.NDArray[np.float32],
    indices: npt.NDArray[np.uint8],
    lut: npt.NDArray[np.float32],
) -> tuple[float, float]:
    signal = error = 0.0
    for place in range(words.size):
        weight = float(values[words[place]])
        difference = weight - float(lut[indices[place]])
        signal += weight * weight
        error += difference * difference
    return signal, error
