"""Runs a program's operations in order and drops each value after its last use."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import HubpubError, ModelError
from hubpub.runtime.constants import SUB_BYTE, Constant
from hubpub.runtime.forms import python_value, tensor
from hubpub.runtime.ops.table import HOST_FLOATS, Packed
from hubpub.runtime.program import Binding, Block, Expression, Numerics, Output, Ref, Step

Env = dict[str, Any]
Slices = Mapping[int, slice]
Watch = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """Executes blocks. `watch(name, tensor)` is called with every tensor that an operation computes."""

    numerics: Numerics
    watch: Watch | None = None

    def run(self, block: Block, env: Env) -> tuple[Any, ...]:
        """The outputs of a block, computed from the values in `env` (name → value); removes values from `env`."""
        for step in block.steps:
            if step.plan is not None and self.watch is None:
                env[step.outputs[0].name] = self.guarded(step, partial(self.run_tiled, step, env))
            else:
                for part in step.parts or (step,):
                    self.advance(part, env)
                for part in step.parts[:-1]:
                    env.pop(part.outputs[0].name)
            for name in step.release:
                env.pop(name, None)
        return tuple(self.fetch("Any", binding, env, widen=False) for binding in block.outputs)

    def advance(self, step: Step, env: Env) -> None:
        """Run one operation and store its results in `env`."""
        results = self.guarded(step, partial(self.execute, step, env))
        for output, value in zip(step.outputs, results, strict=True):
            env[output.name] = _checked(value, output)
            if self.watch is not None and isinstance(value, torch.Tensor):
                self.watch(output.name, value)

    def guarded(self, step: Step, run: Callable[[], Any]) -> Any:
        """The result of `run()`; converts errors of torch and of op functions to ModelError."""
        try:
            return run()
        except HubpubError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError, NotImplementedError) as error:
            name = step.outputs[0].name if step.outputs else "?"
            raise ModelError(f"The operation {step.type} that computes {name!r} failed: {error}") from error

    def execute(self, step: Step, env: Env, tile: Mapping[str, Slices] | None = None) -> tuple[Any, ...]:
        """One operation's results in the dtypes that the program declares.

        `tile` maps parameters to the slices of their operands that the operation is to use (default: all).
        """
        widen = self.numerics.half and (
            step.op.half == "wide" or (step.op.half == "matrix" and self.numerics.device.type == "cpu")
        )
        arguments = {name: _widened(value) if widen else value for name, value in step.constants.items()}
        for name, form, binding in step.arguments:
            arguments[name] = self.fetch(form, binding, env, widen=widen, tile=tile, parameter=name)
        if "blocks" in step.op.injected:
            arguments["blocks"] = [self.callable(block, env) for block in step.blocks]
        results = step.op.run(**arguments)
        results = results if isinstance(results, tuple) else (results,)
        if len(results) < len(step.outputs):
            raise ValueError(f"it returned {len(results)} results; the program declares {len(step.outputs)}")
        return tuple(
            value.to(output.dtype) if isinstance(value, torch.Tensor) and output.dtype is not None else value
            for value, output in zip(results[: len(step.outputs)], step.outputs, strict=True)
        )

    def run_tiled(self, step: Step, env: Env) -> torch.Tensor:
        """The result of an attention step, computed tile by tile (see attention_tiles)."""
        plan, output = step.plan, step.outputs[0]
        assert plan is not None
        assert output.shape is not None
        result = torch.empty(output.shape, dtype=output.dtype, device=self.numerics.device)
        ranges = [range(0, size, length) for _, size, length in plan.axes]
        for starts in itertools.product(*ranges):
            ranges_of_tile = {
                axis: slice(start, min(start + length, size))
                for (axis, size, length), start in zip(plan.axes, starts, strict=True)
            }
            values = dict(env)
            for part, operands in zip(step.parts, plan.operands, strict=True):
                tile = {
                    name: {own: ranges_of_tile[axis] for axis, own in axes.pairs} for name, axes in operands.items()
                }
                values[part.outputs[0].name] = self.execute(part, values, tile)[0]
            target = {own: ranges_of_tile[axis] for axis, own in plan.result.pairs}
            _tile_view(result, target).copy_(values[output.name])
        return result

    def callable(self, block: Block, env: Env) -> Callable[..., tuple[Any, ...]]:
        """A block as a function of its inputs; it can read the values of `env` and does not change them."""

        def call(*values: Any) -> tuple[Any, ...]:
            return self.run(block, env | dict(zip(block.inputs, values, strict=True)))

        return call

    def fetch(
        self,
        form: str,
        binding: Binding,
        env: Env,
        *,
        widen: bool,
        tile: Mapping[str, Slices] | None = None,
        parameter: str = "",
    ) -> Any:
        """An argument in the form that its parameter declares; only a slice of it if `tile` names `parameter`."""
        if isinstance(binding, tuple):
            values = tuple(
                self.fetch("Tensor", inner, env, widen=widen, tile=tile, parameter=f"{parameter}[{i}]")
                for i, inner in enumerate(binding)
            )
            if form in ("Tensors", "Values", "Any"):
                return values
            return python_value(form, torch.stack([value.reshape(()) for value in values]))
        if form in ("Array", "Packed"):
            return self.host(form, binding, widen=widen)
        if isinstance(binding, Ref):
            value = env[binding.name]
        elif isinstance(binding, Constant):
            value = self.constant(binding, widen=widen)
        else:
            value = self.expanded(binding, widen=widen)
        if tile and parameter in tile:
            value = _tile_view(value, tile[parameter])
        if form in ("Tensor", "Tensors", "Any"):
            return _widened(value) if widen else value
        return python_value(form, value)

    def constant(self, constant: Constant, *, widen: bool) -> Any:
        """A constant as a tensor; reads a constant of the weight file, and converts it to fp32 with `widen`."""
        if constant.packed or not constant.mapped:
            return tensor(constant.elements(), constant.dtype, self.numerics)
        return self.placed(constant.read(), self.numerics.storage(constant.dtype), widen=widen)

    def expanded(self, expression: Expression, *, widen: bool) -> torch.Tensor:
        """A compressed constant as a tensor, uncompressed."""
        output = expression.step.outputs[expression.index]
        wide = widen or not self.numerics.half
        array = self.host("Array", expression, widen=wide)
        return self.placed(array, output.dtype, widen=widen)

    def placed(self, array: Any, storage: torch.dtype | None, *, widen: bool) -> torch.Tensor:
        """A NumPy array as a tensor on the device, in the dtype `storage` (fp32 instead of fp16 with `widen`)."""
        if array.dtype in (np.uint16, np.uint32, np.uint64):
            array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
        value = _borrowed(array)
        if widen and storage is torch.float16:
            storage = torch.float32
        return value.to(self.numerics.device).to(storage) if storage is not None else value

    def host(self, form: str, binding: Any, *, widen: bool) -> Any:
        """A constant or compressed constant as a NumPy array or Packed; fp16 becomes fp32 with `widen`."""
        if isinstance(binding, Expression):
            array = self.expand(binding, widen=widen)
            return Packed(array, 0, array.shape) if form == "Packed" else array
        if not isinstance(binding, Constant):
            raise ModelError("A compressed constant depends on a value that is not constant.")
        array = binding.read()
        if array.dtype == np.float16 and widen:
            array = _borrowed(array).float().numpy()
        if form == "Array":
            return binding.elements() if binding.packed else array
        return Packed(array, SUB_BYTE.get(binding.dtype, 0), binding.shape, binding.dtype == schema.INT4)

    def expand(self, expression: Expression, *, widen: bool) -> Any:
        """One output of a constexpr operation, rounded to its declared dtype if the operation computes in fp32."""
        step = expression.step
        arguments = dict(step.constants)
        for name, form, binding in step.arguments:
            arguments[name] = (
                self.host(form, binding, widen=widen)
                if form in ("Array", "Packed")
                else (self.fetch(form, binding, {}, widen=False))
            )
        results = step.op.run(**arguments)
        array = (results if isinstance(results, tuple) else (results,))[expression.index]
        declared = step.outputs[expression.index].dtype
        if step.op.half == "wide" and declared in HOST_FLOATS and array.dtype == np.float32:
            rounded = torch.from_numpy(np.ascontiguousarray(array)).to(declared)
            return (rounded.float() if widen else rounded).numpy()
        return array


def _borrowed(array: Any) -> torch.Tensor:
    """A tensor that shares an array's memory. It must not be written to: the memory may be a read-only map."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype == torch.float16:
        return value.float()
    return value


def _checked(value: Any, output: Output) -> Any:
    """The value; raises ModelError if its shape differs from the declared one."""
    if not isinstance(value, torch.Tensor) or output.shape is None:
        return value
    if len(output.shape) != value.ndim or any(
        size not in (-1, got) for size, got in zip(output.shape, value.shape, strict=True)
    ):
        raise ModelError(
            f"The value {output.name!r} has shape {tuple(value.shape)}; the program declares {output.shape}."
        )
    return value


def _tile_view(value: torch.Tensor, slices: Slices) -> torch.Tensor:
    """A view of the slices (axis → range) of a tensor; an axis of size 1 broadcasts and is not sliced."""
    for axis, part in slices.items():
        if value.shape[axis] > 1 or part.start == 0:
            value = value.narrow(axis, part.start, min(part.stop, value.shape[axis]) - part.start)
    return value
