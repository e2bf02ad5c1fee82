"""The op table: every MIL op that the runtime supports, by name.

To add an op, write its function in the module of its kind and add a row to that module's OPS.
"""

from __future__ import annotations

from hubpub.runtime.ops import (
    activation,
    binary,
    constexpr,
    control,
    convolution,
    detection,
    gather,
    linear,
    normalization,
    pooling,
    quantization,
    random,
    recurrent,
    reduction,
    resizing,
    sampling,
    slicing,
    tensor,
    transformation,
    unary,
)
from hubpub.runtime.ops.table import Table

_MODULES = (
    activation,
    binary,
    constexpr,
    control,
    convolution,
    detection,
    gather,
    linear,
    normalization,
    pooling,
    quantization,
    random,
    recurrent,
    reduction,
    resizing,
    sampling,
    slicing,
    tensor,
    transformation,
    unary,
)

OPS: Table = {name: op for module in _MODULES for name, op in module.OPS.items()}
