"""Functions that numba compiles, with the machine code kept for the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile on first use, once per machine. No fastmath: it would let the machine choose the rounding."""
    try:
        return cast("Function", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder to keep the machine code in: compile once per process
        return cast("Function", numba.njit(nogil=True)(function))
