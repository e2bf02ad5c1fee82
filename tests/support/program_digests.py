"""A structural digest of a program's outputs: names, order and sharing of constants do not matter; all else does."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.program import main_block
from hubpub.coreml.values import decode, dimensions

# Arguments that may name an axis from the end.
_AXES = {("softmax", "axis"), ("layer_norm", "axes"), ("transpose", "perm")}
_LONG = 400  # characters of a constant from which on its digest stands for it


def output_digests(model: schema.Model) -> dict[str, str]:
    """Output → the digest of all that it is made from."""
    block, function = main_block(model), model.mlProgram.functions["main"]
    values: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    for given in function.inputs:
        values[given.name] = ("input", given.name, given.type.SerializeToString())
        ranks[given.name] = len(given.type.tensorType.dimensions)
    for operation in block.operations:
        if operation.type == "const":
            content = operation.attributes["val"]
            kind = content.type.tensorType
            name = operation.outputs[0].name
            if content.WhichOneof("value") == "blobFileValue":
                constant: Any = ("ref", kind.dataType, dimensions(kind), content.blobFileValue.fileName)
            else:
                elements = tuple(decode(content.immediateValue.tensor, kind.dataType))
                constant = ("lit", kind.dataType, dimensions(kind), elements)
            values[name] = constant if len(repr(constant)) < _LONG else digest(constant)
            constants[name], ranks[name] = constant, len(dimensions(kind))
            continue
        arguments = []
        for key in sorted(operation.inputs):
            names = [binding.name for binding in operation.inputs[key].arguments]
            used = [values[name] for name in names]
            if (operation.type, key) in _AXES:
                rank = ranks[operation.inputs["x"].arguments[0].name]
                used = [tuple(axis % rank for axis in constants[names[0]][3])]
            arguments.append((key, used))
        assert set(operation.attributes) == {"name"}
        own = digest((operation.type, arguments))
        for place, output in enumerate(operation.outputs):
            values[output.name] = (own, place, output.type.SerializeToString(deterministic=True))
            ranks[output.name] = len(output.type.tensorType.dimensions)
    return {name: digest(values[name]) for name in block.outputs}


def digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def operation_counts(model: schema.Model) -> dict[str, int]:
    """How many operations there are of each kind, constants left out."""
    counts = Counter(operation.type for operation in main_block(model).operations)
    del counts["const"]
    return dict(sorted(counts.items()))
