"""Elementwise ops of two tensors, comparison, logic and select; shapes broadcast as in NumPy.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). Both inputs have the same dtype, and so has the result
(bool for comparisons). With integers, `floor_div` and `mod` round towards minus infinity;
`real_div` truncates, because its result is declared int32.
"""

from __future__ import annotations

import torch

from hubpub.runtime.ops.table import Table, Tensor, keep, native, wide


def add(x: Tensor, y: Tensor) -> Tensor:
    """X + y. iOS 15. Reference: iOS15.elementwise_binary.add"""
    return x + y


def equal(x: Tensor, y: Tensor) -> Tensor:
    """X = y. iOS 15. Reference: iOS15.elementwise_binary.equal"""
    return x == y


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """⌊x / y⌋. iOS 15. Reference: iOS15.elementwise_binary.floor_div"""
    return torch.div(x, y, rounding_mode="floor")


def greater(x: Tensor, y: Tensor) -> Tensor:
    """X > y. iOS 15. Reference: iOS15.elementwise_binary.greater"""
    return x > y


def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    """X ≥ y. iOS 15. Reference: iOS15.elementwise_binary.greater_equal"""
    return x >= y


def less(x: Tensor, y: Tensor) -> Tensor:
    """X < y. iOS 15. Reference: iOS15.elementwise_binary.less"""
    return x < y


def less_equal(x: Tensor, y: Tensor) -> Tensor:
    """X ≤ y. iOS 15. Reference: iOS15.elementwise_binary.less_equal"""
    return x <= y


def logical_and(x: Tensor, y: Tensor) -> Tensor:
    """Both true. iOS 15. Reference: iOS15.elementwise_binary.logical_and"""
    return torch.logical_and(x, y)


def logical_or(x: Tensor, y: Tensor) -> Tensor:
    """Either true. iOS 15. Reference: iOS15.elementwise_binary.logical_or"""
    return torch.logical_or(x, y)


def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    """Exactly one true. iOS 15. Reference: iOS15.elementwise_binary.logical_xor"""
    return torch.logical_xor(x, y)


def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger. iOS 15. Reference: iOS15.elementwise_binary.maximum"""
    return torch.maximum(x, y)


def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller. iOS 15. Reference: iOS15.elementwise_binary.minimum"""
    return torch.minimum(x, y)


def mod(x: Tensor, y: Tensor) -> Tensor:
    """x - y·⌊x / y⌋, with y's sign. iOS 15. Reference: iOS15.elementwise_binary.mod"""
    return torch.remainder(x, y)


def mul(x: Tensor, y: Tensor) -> Tensor:
    """x·y. iOS 15. Reference: iOS15.elementwise_binary.mul"""
    return x * y


def not_equal(x: Tensor, y: Tensor) -> Tensor:
    """X ≠ y. iOS 15. Reference: iOS15.elementwise_binary.not_equal"""
    return x != y


def pow_(x: Tensor, y: Tensor) -> Tensor:
    """xʸ; integers too. iOS 15. Reference: iOS15.elementwise_binary.pow"""
    if x.is_floating_point():
        return torch.pow(x, y)
    return torch.pow(x.double(), y.double())  # torch refuses negative integer exponents; doubles hold all of int32


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y; with integers the fraction is cut off. iOS 15. Reference: iOS15.elementwise_binary.real_div"""
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def sub(x: Tensor, y: Tensor) -> Tensor:
    """X - y. iOS 15. Reference: iOS15.elementwise_binary.sub"""
    return x - y


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A where cond is true, else b; all three broadcast. iOS 15. Reference: iOS15.control_flow.select"""
    return torch.where(cond.bool(), a, b)


OPS: Table = {
    "add": native(add),
    "equal": keep(equal),
    "floor_div": wide(floor_div),
    "greater": keep(greater),
    "greater_equal": keep(greater_equal),
    "less": keep(less),
    "less_equal": keep(less_equal),
    "logical_and": keep(logical_and),
    "logical_or": keep(logical_or),
    "logical_xor": keep(logical_xor),
    "maximum": native(maximum),
    "minimum": native(minimum),
    "mod": wide(mod),
    "mul": native(mul),
    "not_equal": keep(not_equal),
    "pow": wide(pow_),
    "real_div": native(real_div),
    "select": keep(select),
    "sub": native(sub),
}
