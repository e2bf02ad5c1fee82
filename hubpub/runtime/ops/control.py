"""Control flow, lists and states.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). A list is a Python list of tensors. Every write
returns a new list, because a program assigns each value once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hubpub.runtime.ops.table import Ints, Table, Tensor, Values, keep

Block = Callable[..., tuple[Any, ...]]


@dataclass(kw_only=True)
class Cell:
    """The value of a state, kept between predictions."""

    value: Tensor


def cond(pred: bool, blocks: Sequence[Block]) -> tuple[Any, ...]:
    """The outputs of the first block if pred is true, else of the second. iOS 15.

    Reference: iOS15.control_flow.cond
    """
    return blocks[0]() if pred else blocks[1]()


def while_loop(loop_vars: Values, blocks: Sequence[Block]) -> tuple[Any, ...]:
    """Repeats the second block (body) while the first (condition) is true for the loop variables. iOS 15.

    Reference: iOS15.control_flow.while_loop
    """
    condition, body = blocks
    variables = loop_vars
    while bool(condition(*variables)[0]):
        variables = body(*variables)
    return variables


def make_list(
    elem_shape: Any,
    dtype: torch.dtype,
    device: torch.device,
    init_length: int = 1,
    dynamic_length: bool = True,
) -> list[Tensor | None]:
    """A list of init_length zeros of elem_shape, or of empty places if elem_shape contains names. iOS 15.

    Reference: iOS15.control_flow.make_list
    """
    sizes = [getattr(size, "item", lambda size=size: size)() for size in _flat(elem_shape)]
    if any(isinstance(size, str) for size in sizes):
        return [None] * init_length
    return [torch.zeros(sizes, dtype=dtype, device=device)] * init_length


def _flat(parts: Any) -> list[Any]:
    several = parts if isinstance(parts, list | tuple) else [parts]
    return [size for part in several for size in (part.reshape(-1) if hasattr(part, "reshape") else [part])]


def list_length(ls: Any) -> Tensor:
    """How many places the list has. iOS 15. Reference: iOS15.control_flow.list_length"""
    return torch.tensor(len(ls), dtype=torch.int32)


def list_write(ls: Any, index: int, value: Tensor) -> list[Any]:
    """The list with a value at index, longer if need be. iOS 15. Reference: iOS15.control_flow.list_write"""
    return _written(ls, {index: value})


def list_read(ls: Any, index: int) -> Tensor:
    """The value at index. iOS 15. Reference: iOS15.control_flow.list_read"""
    return _filled(ls)[index]


def list_gather(ls: Any, indices: Ints) -> Tensor:
    """The values at indices, as one tensor. iOS 15. Reference: iOS15.control_flow.list_gather"""
    filled = _filled(ls)
    return torch.stack([filled[i] for i in indices])


def list_scatter(ls: Any, indices: Ints, value: Tensor) -> list[Any]:
    """The list with the rows of value at indices, longer if need be. iOS 15.

    Reference: iOS15.control_flow.list_scatter
    """
    return _written(ls, dict(zip(indices, value, strict=True)))


def _written(ls: Sequence[Any], values: dict[int, Tensor]) -> list[Any]:
    length = max(len(ls), *(index + 1 for index in values))
    return [values.get(i, ls[i] if i < len(ls) else None) for i in range(length)]


def _filled(ls: Sequence[Any]) -> list[Tensor]:
    """The list's tensors; places never written hold zeros."""
    written = next((value for value in ls if value is not None), None)
    if written is None:
        raise ValueError("the list was read before anything was written to it")
    return [torch.zeros_like(written) if value is None else value for value in ls]


def read_state(input: Any) -> Tensor:
    """The state's value. iOS 18. Reference: iOS18.states.read_state"""
    cell: Cell = input
    return cell.value


def write_state(input: Any, data: Tensor) -> tuple[()]:
    """Sets the state to `data` (coreml_update_state is written as write_state and read_state). iOS 18.

    Reference: coreml_dialect.ops.coreml_update_state
    """
    cell: Cell = input
    cell.value = data
    return ()


OPS: Table = {
    "cond": keep(cond),
    "list_gather": keep(list_gather),
    "list_length": keep(list_length),
    "list_read": keep(list_read),
    "list_scatter": keep(list_scatter),
    "list_write": keep(list_write),
    "make_list": keep(make_list),
    "read_state": keep(read_state, since=18),
    "while_loop": keep(while_loop),
    "write_state": keep(write_state, since=18),
}
