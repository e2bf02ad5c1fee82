"""Weightless: a component's config → its Graph, and the proof that every weight has its place in it.

No weight passes through torch or coremltools. Every parameter of the network is a
stand-in: numbers that only this parameter has, one for each row, repeated along the row
without taking memory. In the program that coremltools makes, each constant tells by its
numbers which tensor of the source belongs in its place, and that no pass moved its rows.
Whether one moved something within the rows is seen on a second, small lowering: the same
network with the least of what weights do not hear (pixels, batch, heads), whose stand-ins
number what is in a row instead.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import Unproven
from hubpub.graph import Graph, GraphInfo, Reference, constants, main_block
from hubpub.nets.lowering import COREMLTOOLS_VERSION, compact, lower
from hubpub.nets.networks import Network, build

Array = np.ndarray[Any, Any]
Params = Mapping[str, Any]
Numbering = Callable[[int, tuple[int, ...]], Array]  # index and shape of a parameter → its stand-in

_HINT = "The weights can be converted the plain way; please report it, with the versions of torch and coremltools."

# fp16 bit patterns from which stand-ins are drawn: normal, and not so near to zero that coremltools would take two
# for one. 7 divides neither 1 nor any other literal's distance from the first, so no literal begins like a stand-in.
_FIRST_CODE, _CODES = 0x1400, 0x7C00 - 0x1400


def export(params: Params) -> Graph:
    """The proven graph for `params`; raises Unproven where the proof fails."""
    network, small = build(params), _small(params)
    model, found = _lowered(network, params["target"], _numbered_rows)
    other, again = _lowered(build(small), small["target"], _numbered_columns)
    if consumers(other) != consumers(model):
        raise Unproven("The small network uses its weights in another way than the real one.", hint=_HINT)
    info = GraphInfo(
        component=params["component"],
        params=dict(params),
        ignored=network.ignored,
        proof={
            "parameters": len(found.values),
            "references": found.used.total(),
            "rows_in_order": found.used.total(),
            "columns_in_order": again.used.total(),
            "columns_seen_on": {key: small[key] for key in small if key in ("latent", "image", "batch", "attention")},
            "literals": dict(sorted(found.literals.items())),
        },
        built_with=built_with(),
    )
    return Graph(model=model, info=info)


def built_with() -> dict[str, str]:
    """Versions of what a graph's operations come from."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "coremltools": COREMLTOOLS_VERSION,
        "numpy": np.__version__,
    }


def consumers(model: schema.Model) -> dict[str, list[str]]:
    """Reference → what uses the constant that holds it: operation type, argument, and the constant's rank."""
    block = main_block(model)
    holders = {}
    for operation in constants(block):
        value = operation.attributes["val"]
        if value.WhichOneof("value") == "blobFileValue":
            holders[operation.outputs[0].name] = (value.blobFileValue.fileName, value.type.tensorType.rank)
    users: dict[str, list[str]] = {reference: [] for reference, _ in holders.values()}
    for operation in block.operations:
        for name, argument in operation.inputs.items():
            for binding in argument.arguments:
                if binding.name in holders:
                    reference, rank = holders[binding.name]
                    users[reference].append(f"{operation.type}.{name} of rank {rank}")
    return users


def _lowered(network: Network, target: str, numbered: Numbering) -> tuple[schema.Model, _Finder]:
    """The model with a reference in place of each parameter, and what was found on the way."""
    shapes = {name: tuple(parameter.shape) for name, parameter in network.module.state_dict().items()}
    finder = _Finder(
        values={name: numbered(index, shape) for index, (name, shape) in enumerate(shapes.items())},
        transforms=network.transforms,
        buffers={name: np.asarray(buffer) for name, buffer in network.module.named_buffers()},
    )
    network.module.load_state_dict({name: _view(value) for name, value in finder.values.items()}, assign=True)
    network.module.eval().requires_grad_(False)
    model = lower(network, target, finder.constant)
    if wrong := [name for name in shapes if finder.used[name] != 1]:
        counts = ", ".join(f"{name} ({finder.used[name]}×)" for name in wrong[:5])
        raise Unproven(f"{len(wrong)} of {len(shapes)} parameters are not used exactly once: {counts}.", hint=_HINT)
    return model, finder


@dataclass(kw_only=True)
class _Finder:
    """Tells the constants of a program apart: stand-ins, of which parameter, and literals."""

    values: Mapping[str, Array]  # parameter → its stand-in
    transforms: Mapping[str, str]
    buffers: Mapping[str, Array]  # literals of the network
    used: Counter[str] = field(default_factory=Counter)
    literals: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.names = {float(value.flat[0]): name for name, value in self.values.items()}
        if len(self.names) < len(self.values):
            raise Unproven(f"Among {len(self.values)} stand-ins, two begin with the same number.", hint=_HINT)

    def constant(self, where: str, value: Array) -> Reference | None:
        """The reference for a constant, None for a literal.

        Unproven where its numbers are in another order than the parameter's, or are nobody's.
        """
        if value.size == 1:
            return None
        name = self.names.get(float(value.flat[0]))
        if name is None:
            self.literals[self._literal(where, value)] += 1
            return None
        if not _same(value, self.values[name]):
            raise Unproven(f"The constant {where} holds the parameter {name} in another order.", hint=_HINT)
        if value.dtype != np.float16:
            raise Unproven(f"The constant {where}, parameter {name}, is {value.dtype}, not fp16.", hint=_HINT)
        self.used[name] += 1
        return Reference(tensor=name, transform=self.transforms.get(name, ""))

    def _literal(self, where: str, value: Array) -> str:
        for number in (0.0, 1.0):
            if np.all(value == number):
                return f"all {number:g}"
        for name, buffer in self.buffers.items():
            if value.shape == buffer.shape and np.array_equal(value, buffer.astype(value.dtype)):
                return name
        raise Unproven(f"The constant {where} {value.shape} is neither a parameter nor a known literal.", hint=_HINT)


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
    if _squeezed(value.shape) != _squeezed(given.shape):
        return False
    value, given = np.squeeze(value), np.squeeze(given).astype(np.float32, copy=False)
    if [stride == 0 for stride in value.strides] == [stride == 0 for stride in given.strides]:
        value, given = compact(value), compact(given)
    return np.array_equal(value, given)


def _squeezed(shape: tuple[int, ...]) -> list[int]:
    return [side for side in shape if side != 1]


def _view(value: Array) -> torch.Tensor:
    """A tensor that repeats what the array repeats, without taking memory for it."""
    base = torch.from_numpy(np.array(compact(value)))
    return base.reshape([1] * (value.ndim - base.ndim) + list(base.shape)).expand(value.shape)
