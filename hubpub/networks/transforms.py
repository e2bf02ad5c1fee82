"""What happens to a tensor on its way into a program, for the few constants that a network derives from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def _l2_normalize(rows: Array) -> Array:
    """(…, C) → each row divided by its Euclidean norm, in fp32 (torch.nn.functional.normalize's eps)."""
    wide = rows.astype(np.float32)
    unit: Array = wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
    return unit


def _negate(values: Array) -> Array:
    return -values.astype(np.float32)


TRANSFORMS: Mapping[str, Callable[[Array], Array]] = {"l2_normalize": _l2_normalize, "negate": _negate}
