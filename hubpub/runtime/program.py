"""A program made ready to run: its operations bound to the op table, its values to their last use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadPackage, ModelError, UnsupportedOps
from hubpub.runtime import attention_tiles
from hubpub.runtime.constants import Blobs, Constant, constant, tensor_shape
from hubpub.runtime.ops import OPS
from hubpub.runtime.ops.table import OPSETS, Op

# A constant with more elements than this becomes a tensor only while an operation needs it.
_KEPT_ELEMENTS = 4096


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Where a program runs, and whether its fp16 values are fp16 there or fp32."""

    device: torch.device
    half: bool

    def storage(self, dtype: int) -> torch.dtype | None:
        """The torch dtype that holds a MIL data type; None where it is no tensor's."""
        if dtype == schema.FLOAT16 and self.half:
            return torch.float16
        return _STORAGE.get(dtype)


_STORAGE: Mapping[int, torch.dtype] = {
    schema.BOOL: torch.bool,
    schema.FLOAT16: torch.float32,
    schema.FLOAT32: torch.float32,
    schema.FLOAT64: torch.float64,
    schema.INT4: torch.int8,
    schema.INT8: torch.int8,
    schema.INT16: torch.int16,
    schema.INT32: torch.int32,
    schema.INT64: torch.int64,
    schema.UINT1: torch.uint8,
    schema.UINT2: torch.uint8,
    schema.UINT3: torch.uint8,
    schema.UINT4: torch.uint8,
    schema.UINT6: torch.uint8,
    schema.UINT8: torch.uint8,
    schema.UINT16: torch.int32,
    schema.UINT32: torch.int64,
    schema.UINT64: torch.int64,
}


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A value that an earlier operation, or the caller, provides."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Expression:
    """One output of a compressed constant, expanded anew at each use."""

    step: Step
    index: int


Binding = Ref | Constant | Expression | tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Output:
    """A result of an operation as the program declares it; -1 is an unknown size, None no tensor."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation: its function, the arguments known already, those to look up, and what to drop after."""

    type: str
    op: Op
    known: Mapping[str, Any]
    wanted: tuple[tuple[str, str, Binding], ...]  # (parameter, form, where it comes from)
    outputs: tuple[Output, ...]
    blocks: tuple[Block, ...] = ()
    release: list[str] = field(default_factory=list)
    parts: tuple[Step, ...] = ()  # of a chain: the operations that it stands for, and how they are cut
    plan: attention_tiles.Plan | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A sequence of operations with its inputs and outputs."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Binding, ...]


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input of a function: its dtype and shape in the program; `state` for a state."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int, ...]
    state: bool = False


@dataclass(frozen=True, kw_only=True)
class Program:
    """A function ready to run."""

    opset: int
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    block: Block


def bind(function: schema.Function, weights: Blobs, numerics: Numerics) -> Program:
    """Bind a function's operations to the op table.

    Raises UnsupportedOps, which lists every operation, argument and version that the table
    lacks, and BadPackage where the program contradicts itself.
    """
    if function.opset not in OPSETS:
        raise ModelError(
            f"The program is written for the opset {function.opset!r}, which the runtime does not know.",
            hint=f"It knows {', '.join(OPSETS)}.",
        )
    block = function.block_specializations.get(function.opset)
    if block is None:
        raise BadPackage(f"The program has no block for its opset {function.opset}.")
    binder = _Binder(weights=weights, numerics=numerics, opset=OPSETS[function.opset])
    inputs = tuple(binder.input(value) for value in function.inputs)
    bound = binder.block(block, {item.name: None for item in inputs})
    if binder.missing:
        ops = sorted(binder.missing)
        raise UnsupportedOps(
            f"The runtime lacks {len(ops)} of this model's operations: {', '.join(ops)}.",
            hint="Run the model on a Mac, or add them to hubpub/runtime/ops (one function and one row each).",
            ops=ops,
        )
    return Program(opset=binder.opset, inputs=inputs, outputs=tuple(block.outputs), block=bound)


_Scope = dict[str, Constant | Expression | None]


@dataclass(kw_only=True)
class _Binder:
    weights: Blobs
    numerics: Numerics
    opset: int
    missing: set[str] = field(default_factory=set)

    def input(self, value: schema.NamedValueType) -> Input:
        type_ = value.type
        state = type_.WhichOneof("type") == "stateType"
        tensor = (type_.stateType.wrappedType if state else type_).tensorType
        return Input(
            name=value.name,
            dtype=self.numerics.storage(tensor.dataType),
            shape=tensor_shape(tensor),
            state=state,
        )

    def block(self, block: schema.Block, outer: _Scope) -> Block:
        scope: _Scope = dict(outer) | {value.name: None for value in block.inputs}
        steps = []
        for operation in block.operations:
            step = self.operation(operation, scope)
            if step is not None:
                steps.append(step)
        outputs = tuple(self.look_up(name, scope) for name in block.outputs)
        if self.numerics.device.type == "cpu":
            steps = _chained(steps, outputs)
        _set_releases(steps, outputs, own={value.name for value in block.inputs})
        return Block(inputs=tuple(value.name for value in block.inputs), steps=tuple(steps), outputs=outputs)

    def look_up(self, name: str, scope: _Scope) -> Binding:
        if name not in scope:
            raise BadPackage(f"The program uses a value {name!r} that nothing provides.")
        found = scope[name]
        return Ref(name=name) if found is None else found

    def operation(self, operation: schema.Operation, scope: _Scope) -> Step | None:
        """The Step of an operation; None for constants, which only enter the scope."""
        if operation.type == "const":
            scope[operation.outputs[0].name] = constant(operation.attributes["val"], self.weights)
            return None
        step = self.step(operation, scope)
        lazy = operation.type.startswith("constexpr_")
        for index, output in enumerate(operation.outputs):
            scope[output.name] = Expression(step=step, index=index) if lazy and step is not None else None
        return None if lazy else step

    def step(self, operation: schema.Operation, scope: _Scope) -> Step | None:
        op = OPS.get(operation.type)
        if op is None or op.since > self.opset:
            later = "" if op is None else f" (of iOS {op.since}, in a program for iOS {self.opset})"
            self.missing.add(operation.type + later)
            for block in operation.blocks:  # what is inside may be missing too
                self.block(block, scope)
            return None
        outputs = tuple(self.output(value) for value in operation.outputs)
        known: dict[str, Any] = self.injected(op, outputs)
        wanted = []
        for name, binding in self.arguments(operation, scope):
            if name in op.injected:
                continue
            if name not in op.parameters:
                self.missing.add(f"{operation.type} with {name}")
                continue
            form = op.parameters[name].form
            if _is_known(form, binding):
                known[name] = convert(form, binding, self.numerics)
            else:
                wanted.append((name, form, binding))
        given = {*known, *(name for name, _, _ in wanted)}
        lacking = [name for name, parameter in op.parameters.items() if parameter.required and name not in given]
        if lacking and not any(missing.startswith(operation.type) for missing in self.missing):
            raise BadPackage(f"An operation {operation.type} has no {', '.join(lacking)}.")
        blocks = tuple(self.block(block, scope) for block in operation.blocks)
        return Step(type=operation.type, op=op, known=known, wanted=tuple(wanted), outputs=outputs, blocks=blocks)

    def arguments(self, operation: schema.Operation, scope: _Scope) -> Iterable[tuple[str, Binding]]:
        """All inputs, and for constexpr operations until iOS 17 the attributes that stand for them."""
        for name, argument in operation.inputs.items():
            bindings = tuple(self.binding(binding, scope) for binding in argument.arguments)
            several = len(bindings) != 1 or OPS[operation.type].parameters.get(name, ("",))[0] in ("Tensors", "Values")
            yield name, bindings if several else bindings[0]
        if operation.type.startswith("constexpr_"):
            for name, value in operation.attributes.items():
                if name != "name":
                    yield name, constant(value, self.weights)

    def binding(self, binding: schema.Argument.Binding, scope: _Scope) -> Binding:
        if binding.WhichOneof("binding") == "value":
            return constant(binding.value, self.weights)
        return self.look_up(binding.name, scope)

    def output(self, value: schema.NamedValueType) -> Output:
        kind = value.type.WhichOneof("type")
        if kind == "listType":
            return Output(
                name=value.name, dtype=self.numerics.storage(value.type.listType.type.tensorType.dataType), shape=None
            )
        if kind != "tensorType":
            return Output(name=value.name, dtype=None, shape=None)
        tensor = value.type.tensorType
        known = all(d.WhichOneof("dimension") == "constant" or not d.unknown.variadic for d in tensor.dimensions)
        return Output(
            name=value.name,
            dtype=self.numerics.storage(tensor.dataType),
            shape=tensor_shape(tensor) if known else None,
        )

    def injected(self, op: Op, outputs: Sequence[Output]) -> dict[str, Any]:
        values = {
            "opset": self.opset,
            "device": self.numerics.device,
            "dtype": outputs[0].dtype if outputs else None,
        }
        return {name: value for name, value in values.items() if name in op.injected}


def _chained(steps: list[Step], outputs: Sequence[Binding]) -> list[Step]:
    """The steps with each attention as one; it stands where its last part stood."""
    kept = {name for binding in outputs for name in _refs(binding)}
    gone: set[int] = set()
    joined: dict[int, Step] = {}
    for positions, plan in attention_tiles.find(steps, names, kept):
        if gone.intersection(positions) or joined.keys() & set(positions):
            continue
        parts = tuple(steps[i] for i in positions)
        gone.update(positions[:-1])
        joined[positions[-1]] = _chain(parts, plan)
    return [joined.get(i, step) for i, step in enumerate(steps) if i not in gone]


def _chain(parts: tuple[Step, ...], plan: attention_tiles.Plan) -> Step:
    made = {output.name for part in parts for output in part.outputs}
    used = dict.fromkeys(name for part in parts for name in names(part) if name not in made)
    last = parts[-1]
    return Step(
        type="+".join(part.type for part in parts),
        op=last.op,
        known={},
        wanted=tuple((name, "Tensor", Ref(name=name)) for name in used),
        outputs=last.outputs,
        parts=parts,
        plan=plan,
    )


def _set_releases(steps: Sequence[Step], outputs: Sequence[Binding], own: set[str]) -> None:
    """Tell each step which values nobody needs after it."""
    kept = {name for binding in outputs for name in _refs(binding)}
    seen: set[str] = set()
    made = {output.name for step in steps for output in step.outputs} | own
    for step in reversed(steps):
        used = set(names(step)) | {output.name for output in step.outputs}
        step.release.extend(sorted((used & made) - seen - kept))
        seen |= used


def names(step: Step) -> Iterable[str]:
    """The runtime values that a step and the blocks inside it use."""
    for _, _, binding in step.wanted:
        yield from _refs(binding)
    for block in step.blocks:
        for inner in block.steps:
            yield from names(inner)
        for output in block.outputs:
            yield from _refs(output)


def constant_shape(step: Step, parameter: str) -> tuple[int, ...]:
    """The shape of an argument that is a constant, without reading it; () where it is none."""
    if isinstance(step.known.get(parameter), torch.Tensor):
        return tuple(step.known[parameter].shape)
    for name, _, binding in step.wanted:
        if name == parameter and isinstance(binding, Constant):
            return binding.shape
        if name == parameter and isinstance(binding, Expression):
            return binding.step.outputs[binding.index].shape or ()
    return ()


def _refs(binding: Binding) -> Iterable[str]:
    if isinstance(binding, Ref):
        yield binding.name
    elif isinstance(binding, tuple):
        for inner in binding:
            yield from _refs(inner)


def _is_known(form: str, binding: Binding) -> bool:
    """Whether an argument can be converted once and kept."""
    if isinstance(binding, tuple):
        return form not in ("Tensors", "Values") and all(_is_known(form, inner) for inner in binding)
    if not isinstance(binding, Constant):
        return False
    return form not in ("Array", "Packed", "Tensors", "Values") and (
        form != "Tensor" or (not binding.mapped and int(np.prod(binding.shape)) <= _KEPT_ELEMENTS)
    )


def convert(form: str, binding: Any, numerics: Numerics) -> Any:
    """A constant, or a tuple of them, in the form that a parameter asks for (see ops.table)."""
    if isinstance(binding, tuple):
        parts = [inner.elements() for inner in binding]
        if form == "Any":
            return parts
        return shape_python(form, np.concatenate([np.reshape(part, -1) for part in parts]) if parts else np.array([]))
    value = binding.elements()
    if form == "Tensor":
        return tensor(value, binding.dtype, numerics)
    return value if form == "Any" else shape_python(form, value)


def tensor(value: Any, dtype: int, numerics: Numerics) -> torch.Tensor:
    """An array as a tensor on the device; floats in the precision of the run."""
    storage = numerics.storage(dtype)
    if storage is None or not isinstance(value, np.ndarray):
        raise BadPackage(f"A constant of type {schema.DataType.Name(dtype)} is used where a tensor is needed.")
    if value.dtype in (np.uint16, np.uint32, np.uint64):  # torch has hardly any ops for these
        value = value.astype(np.int32 if value.dtype == np.uint16 else np.int64)
    return torch.tensor(value).to(numerics.device, storage)


def shape_python(form: str, value: Any) -> Any:
    """A Python value, or tuple of them, from an array, a tensor or a Python value."""
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
