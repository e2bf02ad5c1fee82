"""Binds a program to the op table: every operation gets its function, every value its last use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadPackage, ModelError, UnsupportedOps
from hubpub.runtime import attention_tiles
from hubpub.runtime.constants import Blobs, Constant, constant, tensor_shape
from hubpub.runtime.forms import convert, is_constant
from hubpub.runtime.ops import OPS
from hubpub.runtime.ops.table import OPSETS, Op
from hubpub.runtime.program import Binding, Block, Expression, Input, Numerics, Output, Program, Ref, Step, names, refs


def bind(function: schema.Function, weights: Blobs, numerics: Numerics) -> Program:
    """Bind a function's operations to the op table.

    Raises UnsupportedOps with a list of all operations, arguments and versions that the table
    lacks, ModelError for an unknown opset, and BadPackage for an inconsistent program.
    """
    if function.opset not in OPSETS:
        raise ModelError(
            f"The program uses the opset {function.opset!r}, which the runtime does not support.",
            hint=f"Supported opsets: {', '.join(OPSETS)}.",
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
            steps = _with_tiled_attention(steps, outputs)
        _set_releases(steps, outputs, own={value.name for value in block.inputs})
        return Block(inputs=tuple(value.name for value in block.inputs), steps=tuple(steps), outputs=outputs)

    def look_up(self, name: str, scope: _Scope) -> Binding:
        if name not in scope:
            raise BadPackage(f"The program uses a value {name!r} that no operation computes.")
        constant_value = scope[name]
        return Ref(name=name) if constant_value is None else constant_value

    def operation(self, operation: schema.Operation, scope: _Scope) -> Step | None:
        """The Step of an operation; None for constants, which are only added to the scope."""
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
            for block in operation.blocks:  # their operations may be missing too
                self.block(block, scope)
            return None
        outputs = tuple(self.output(value) for value in operation.outputs)
        constants: dict[str, Any] = self.injected(op, outputs)
        arguments = []
        for name, binding in self.arguments(operation, scope):
            if name in op.injected:
                continue
            if name not in op.parameters:
                self.missing.add(f"{operation.type} with {name}")
                continue
            form = op.parameters[name].form
            if is_constant(form, binding):
                constants[name] = convert(form, binding, self.numerics)
            else:
                arguments.append((name, form, binding))
        present = {*constants, *(name for name, _, _ in arguments)}
        absent = [name for name, parameter in op.parameters.items() if parameter.required and name not in present]
        if absent and not any(missing.startswith(operation.type) for missing in self.missing):
            raise BadPackage(f"An operation {operation.type} has no {', '.join(absent)}.")
        blocks = tuple(self.block(block, scope) for block in operation.blocks)
        return Step(
            type=operation.type,
            op=op,
            constants=constants,
            arguments=tuple(arguments),
            outputs=outputs,
            blocks=blocks,
        )

    def arguments(self, operation: schema.Operation, scope: _Scope) -> Iterable[tuple[str, Binding]]:
        """All inputs; constexpr operations up to iOS 17 have attributes instead of inputs."""
        for name, argument in operation.inputs.items():
            bindings = tuple(self.binding(binding, scope) for binding in argument.arguments)
            is_tuple = len(bindings) != 1 or OPS[operation.type].parameters.get(name, ("",))[0] in ("Tensors", "Values")
            yield name, bindings if is_tuple else bindings[0]
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
        fixed_rank = all(d.WhichOneof("dimension") == "constant" or not d.unknown.variadic for d in tensor.dimensions)
        return Output(
            name=value.name,
            dtype=self.numerics.storage(tensor.dataType),
            shape=tensor_shape(tensor) if fixed_rank else None,
        )

    def injected(self, op: Op, outputs: Sequence[Output]) -> dict[str, Any]:
        values = {
            "opset": self.opset,
            "device": self.numerics.device,
            "dtype": outputs[0].dtype if outputs else None,
        }
        return {name: value for name, value in values.items() if name in op.injected}


def _with_tiled_attention(steps: list[Step], outputs: Sequence[Binding]) -> list[Step]:
    """The steps with each large attention replaced by one tiled step, at the position of its last operation."""
    block_outputs = {name for binding in outputs for name in refs(binding)}
    replaced: set[int] = set()
    attentions: dict[int, Step] = {}
    for positions, plan in attention_tiles.find(steps, names, block_outputs):
        if replaced.intersection(positions) or attentions.keys() & set(positions):
            continue
        parts = tuple(steps[i] for i in positions)
        replaced.update(positions[:-1])
        attentions[positions[-1]] = _attention(parts, plan)
    return [attentions.get(i, step) for i, step in enumerate(steps) if i not in replaced]


def _attention(parts: tuple[Step, ...], plan: attention_tiles.Plan) -> Step:
    results = {output.name for part in parts for output in part.outputs}
    operands = dict.fromkeys(name for part in parts for name in names(part) if name not in results)
    last = parts[-1]
    return Step(
        type="+".join(part.type for part in parts),
        op=last.op,
        constants={},
        arguments=tuple((name, "Tensor", Ref(name=name)) for name in operands),
        outputs=last.outputs,
        parts=parts,
        plan=plan,
    )


def _set_releases(steps: Sequence[Step], outputs: Sequence[Binding], own: set[str]) -> None:
    """Enter into each step the values that no later step uses. `own`: the block's inputs."""
    block_outputs = {name for binding in outputs for name in refs(binding)}
    used_later: set[str] = set()
    local = {output.name for step in steps for output in step.outputs} | own
    for step in reversed(steps):
        used = set(names(step)) | {output.name for output in step.outputs}
        step.release.extend(sorted((used & local) - used_later - block_outputs))
        used_later |= used
