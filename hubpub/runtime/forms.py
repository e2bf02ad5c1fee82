"""Converts constants to the forms that ops declare for their inputs; see hubpub.runtime.ops.table for the forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadPackage
from hubpub.runtime.constants import Constant
from hubpub.runtime.program import Binding, Numerics

# A constant with more elements than this becomes a tensor only while an operation needs it.
_KEPT_ELEMENTS = 4096


def is_constant(form: str, binding: Binding) -> bool:
    """Whether an argument is a constant that can be converted once, when the program is bound."""
    if isinstance(binding, tuple):
        return form not in ("Tensors", "Values") and all(is_constant(form, inner) for inner in binding)
    if not isinstance(binding, Constant):
        return False
    return form not in ("Array", "Packed", "Tensors", "Values") and (
        form != "Tensor" or (not binding.mapped and int(np.prod(binding.shape)) <= _KEPT_ELEMENTS)
    )


def convert(form: str, binding: Any, numerics: Numerics) -> Any:
    """A constant, or a tuple of constants, in the form that a parameter declares."""
    if isinstance(binding, tuple):
        parts = [inner.elements() for inner in binding]
        if form == "Any":
            return parts
        return python_value(form, np.concatenate([np.reshape(part, -1) for part in parts]) if parts else np.array([]))
    value = binding.elements()
    if form == "Tensor":
        return tensor(value, binding.dtype, numerics)
    return value if form == "Any" else python_value(form, value)


def tensor(value: Any, dtype: int, numerics: Numerics) -> torch.Tensor:
    """An array of MIL data type `dtype` as a tensor on the device; fp16 becomes fp32 unless `numerics.half`.

    Raises BadPackage for a value that is not an array of numbers.
    """
    storage = numerics.storage(dtype)
    if storage is None or not isinstance(value, np.ndarray):
        raise BadPackage(f"A constant of type {schema.DataType.Name(dtype)} is used where a tensor is needed.")
    if value.dtype in (np.uint16, np.uint32, np.uint64):  # torch has hardly any ops for these
        value = value.astype(np.int32 if value.dtype == np.uint16 else np.int64)
    return torch.tensor(value).to(numerics.device, storage)


def python_value(form: str, value: Any) -> Any:
    """A Python value (form int, float, bool, str) or tuple (Ints, Bools) from an array, tensor or Python value."""
    if form == "str":
        return str(value)
    flat = value.reshape(-1).tolist() if hasattr(value, "reshape") else value
    items = flat if isinstance(flat, list | tuple) else [flat]
    if form == "Ints":
        return tuple(int(item) for item in items)
    if form == "Bools":
        return tuple(bool(item) for item in items)
    if len(items) != 1:
        raise BadPackage(f"A value of {len(items)} elements is used where one is needed.")
    return {"int": int, "float": float, "bool": bool}[form](items[0])
