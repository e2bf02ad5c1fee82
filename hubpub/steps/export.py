"""export: a component's config → its Graph, the ML Program without weights.

No weight passes through torch or coremltools. Every parameter of the network is a
stand-in: one number of its own, broadcast to the parameter's shape without taking memory.
In the program that coremltools makes, each constant tells by its number which tensor of
the source belongs in its place. A uniform stand-in cannot show that a pass transposed a
square matrix, so the same network, made small where weights do not care, is lowered twice
more with stand-ins that number their rows, and then their columns: every constant must
come out as it went in.

params: what architectures.export_params gives. inputs: none. out: graph.mlmodel, graph.json.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hubpub.errors import StepFailed
from hubpub.graph import Graph, GraphInfo, Reference, main_block
from hubpub.mil import schema_pb2 as schema
from hubpub.nets.lowering import COREMLTOOLS_VERSION, compact, exported, lower
from hubpub.nets.networks import Network, build

KIND = "export"
VERSION = 1

Array = np.ndarray[Any, Any]
Params = Mapping[str, Any]

_HINT = "This is a fault of hubpub or of the installed torch or coremltools; please report it with their versions."

# fp16 bit patterns from which stand-ins that number something are drawn: normal, and not so near to zero that
# coremltools would take two for one.
_FIRST_CODE, _CODES = 0x1400, 0x7C00 - 0x1400


def run(params: Params, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the graph for `params` into `out`; measurements: numbers of operations and references."""
    graph = export(params)
    graph.save(out)
    operations = Counter(operation.type for operation in main_block(graph.model).operations)
    return {
        "operations": sum(operations.values()),
        "constants": operations["const"],
        "references": graph.info.proof["references"],
    }


def export(params: Params) -> Graph:
    """The proven graph for `params`; raises StepFailed where the proof fails."""
    model, proof = _identified(build(params), params["target"])
    proof["permutations"] = _permutations(params, consumers(model))
    info = GraphInfo(
        component=params["component"],
        params=dict(params),
        ignored=build(params).ignored,
        proof=proof,
        built_with={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "coremltools": COREMLTOOLS_VERSION,
            "numpy": np.__version__,
        },
    )
    return Graph(model=model, info=info)


def stand_ins(count: int) -> list[float]:
    """Distinct numbers, exact in fp16, with odd mantissas: no literal of a network is one of them by chance."""
    numbers = [2.0**exponent * (1 + odd / 1024) for exponent in range(4) for odd in range(1, 1024, 2)]
    if count > len(numbers):
        raise StepFailed(f"The network has {count} parameters; only {len(numbers)} can be told apart.", hint=_HINT)
    return numbers[:count]


def consumers(model: schema.Model) -> dict[str, list[str]]:
    """Reference → what uses the constant that holds it: operation type, argument, and the constant's rank."""
    block = main_block(model)
    holders = {}
    for operation in block.operations:
        if operation.type == "const" and operation.attributes["val"].WhichOneof("value") == "blobFileValue":
            reference = Reference.parse(operation.attributes["val"].blobFileValue.fileName)
            holders[operation.outputs[0].name] = str(reference)
    users: dict[str, list[str]] = {reference: [] for reference in holders.values()}
    for operation in block.operations:
        for name, argument in operation.inputs.items():
            for binding in argument.arguments:
                if binding.name in holders:
                    users[holders[binding.name]].append(f"{operation.type}.{name}")
    return users


def _identified(network: Network, target: str) -> tuple[schema.Model, dict[str, Any]]:
    """The model with a reference in place of each parameter, and what was found on the way."""
    shapes = {name: tuple(parameter.shape) for name, parameter in network.module.state_dict().items()}
    names = dict(zip(stand_ins(len(shapes)), shapes, strict=True))
    used: Counter[str] = Counter()
    literals: Counter[str] = Counter()
    buffers = {name: np.asarray(buffer) for name, buffer in network.module.named_buffers()}

    def constant(where: str, value: Array) -> Reference | None:
        if value.size == 1:
            return None
        numbers = compact(value)
        name = names.get(float(numbers.flat[0])) if np.all(numbers == numbers.flat[0]) else None
        if name is None:
            literals[_literal(where, value, buffers)] += 1
            return None
        if _squeezed(value.shape) != _squeezed(shapes[name]):
            raise StepFailed(
                f"The constant {where} is {value.shape}, the parameter {name} is {shapes[name]}.", hint=_HINT
            )
        if value.dtype != np.float16:
            raise StepFailed(f"The constant {where} is {value.dtype}, not fp16.", hint=_HINT)
        used[name] += 1
        return Reference(tensor=name, transform=network.transforms.get(name, ""))

    _assign(network, {name: _uniform(number, shapes[name]) for number, name in names.items()})
    model = lower(network, target, constant)
    if wrong := [name for name in shapes if used[name] != 1]:
        counts = ", ".join(f"{name} ({used[name]}×)" for name in wrong[:5])
        raise StepFailed(f"{len(wrong)} of {len(shapes)} parameters are not used exactly once: {counts}.", hint=_HINT)
    return model, {
        "parameters": len(shapes),
        "references": sum(used.values()),
        "literals": dict(sorted(literals.items())),
    }


def _literal(where: str, value: Array, buffers: Mapping[str, Array]) -> str:
    """What a constant is that stands for no parameter; StepFailed where we did not put it there."""
    for number in (0.0, 1.0):
        if np.all(value == number):
            return f"all {number:g}"
    for name, buffer in buffers.items():
        if value.shape == buffer.shape and np.array_equal(value, buffer.astype(value.dtype)):
            return name
    raise StepFailed(
        f"The constant {where} {value.shape} is neither a parameter nor a literal that we know.", hint=_HINT
    )


def _permutations(params: Params, expected: Mapping[str, list[str]]) -> dict[str, Any]:
    """Lower a small sibling with numbered rows, then numbered columns; each constant must come out as it went in."""
    small = _small(params)
    network = build(small)
    shapes = {name: tuple(parameter.shape) for name, parameter in network.module.state_dict().items()}
    _assign(network, {name: _uniform(0, shape) for name, shape in shapes.items()})
    program = exported(network)
    identity = 0
    for number in (_numbered_rows, _numbered_columns):
        values = {name: number(index, shape) for index, (name, shape) in enumerate(shapes.items())}
        program.state_dict.update({name: _view(value) for name, value in values.items()})
        finder = _Finder(values=values, transforms=network.transforms)
        model = lower(network, small["target"], finder.constant, program=program)
        if wrong := [name for name in shapes if finder.found[name] != 1]:
            raise StepFailed(f"Numbered, {len(wrong)} parameters cannot be found again: {wrong[:5]}.", hint=_HINT)
        if consumers(model) != expected:
            raise StepFailed("The small network uses its weights in another way than the real one.", hint=_HINT)
        identity += sum(finder.found.values())
    return {
        "checked": 2 * len(shapes),
        "identity": identity,
        "on": {key: small[key] for key in small if key != "config"},
    }


@dataclass(kw_only=True)
class _Finder:
    """Recognises numbered parameters among constants, and counts them."""

    values: Mapping[str, Array]
    transforms: Mapping[str, str]
    found: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.firsts = {float(value.flat[0]): name for name, value in self.values.items()}

    def constant(self, where: str, value: Array) -> Reference | None:
        """The reference for a constant; StepFailed where its numbers are in another order than the parameter's."""
        name = self.firsts.get(float(value.flat[0])) if value.size > 1 else None
        if name is None:
            return None
        if not _same(value, self.values[name]):
            raise StepFailed(f"The constant {where} holds the parameter {name} in another order.", hint=_HINT)
        self.found[name] += 1
        return Reference(tensor=name, transform=self.transforms.get(name, ""))


def _small(params: Params) -> dict[str, Any]:
    """The same network with the least of what weights do not hear: pixels, batch and heads."""
    small = dict(params) | {"batch": 1} if "batch" in params else dict(params)
    config = dict(params["config"])
    if "latent" in small:
        side = 2 ** (len(config["block_out_channels"]) - 1)
        small["latent"] = [side, side]
    if "image" in small:
        small["image"] = [8, 8]
    if "heads" in config:
        config["heads"] = [1] * len(config["heads"])
    return small | {"config": config}


def _numbered_rows(index: int, shape: tuple[int, ...]) -> Array:
    codes = _codes(index, shape[0])
    return np.broadcast_to(codes.reshape(-1, *[1] * (len(shape) - 1)), shape)


def _numbered_columns(index: int, shape: tuple[int, ...]) -> Array:
    rest = shape[1:] or shape
    return np.broadcast_to(_codes(index, int(np.prod(rest))).reshape(rest), shape)


def _codes(index: int, count: int) -> Array:
    """`count` numbers, exact in fp16, that go around from one that only this parameter begins with."""
    steps = (7 * index + np.arange(count)) % (2 * _CODES)
    bits = (_FIRST_CODE + steps % _CODES).astype(np.uint16) | np.where(steps < _CODES, 0, 0x8000).astype(np.uint16)
    return bits.view(np.float16).astype(np.float32)


def _same(value: Array, given: Array) -> bool:
    """Whether both hold the same numbers in the same order, whatever axes of length 1 they have."""
    return _squeezed(value.shape) == _squeezed(given.shape) and np.array_equal(
        np.squeeze(value), np.squeeze(given).astype(value.dtype)
    )


def _squeezed(shape: tuple[int, ...]) -> list[int]:
    return [side for side in shape if side != 1]


def _uniform(number: float, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.float32(number), shape)


def _view(value: Array) -> torch.Tensor:
    """A tensor that repeats what the array repeats, without taking memory for it."""
    base = torch.from_numpy(np.array(compact(value)))
    return base.reshape([1] * (value.ndim - base.ndim) + list(base.shape)).expand(value.shape)


def _assign(network: Network, values: Mapping[str, Array]) -> None:
    """Give the network these parameters; views stay views."""
    network.module.load_state_dict({name: _view(value) for name, value in values.items()}, assign=True)
    network.module.eval().requires_grad_(False)
