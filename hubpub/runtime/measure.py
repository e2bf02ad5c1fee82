"""How far a measured output is from its reference, in decibels."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def psnr(reference: npt.ArrayLike, measured: npt.ArrayLike) -> float:
    """Peak signal-to-noise ratio of `measured` against `reference`, in dB; higher is closer.

    The formula of Apple's converter (`compute_psnr` of ml-stable-diffusion's torch2coreml,
    https://github.com/apple/ml-stable-diffusion):
    20·log10((max|measured| + 1e-5) / (sqrt(mean((reference - measured)²)) + 1e-10)).
    The peak is that of `measured`, as in Apple's function. Computed in fp64. Returns NaN, which
    is below every floor, if either array contains NaN or infinity.

    Raises ValueError for different shapes or empty arrays.
    """
    a = np.asarray(reference, dtype=np.float64)
    b = np.asarray(measured, dtype=np.float64)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"PSNR needs two arrays of one shape, not {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    error = math.sqrt(float(np.mean((a - b) ** 2)))
    return 20 * math.log10((float(np.abs(b).max()) + 1e-5) / (error + 1e-10))
