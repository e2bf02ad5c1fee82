"""Checks whether the portable compiler supports a model: it refuses models for which Apple's output is not known.

The error lists all problems at once. Xcode on a Mac compiles these models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.coremldata import SPEC_VERSIONS
from hubpub.coreml.printer import BUILD_INFO, OPSETS
from hubpub.errors import BadPackage, UnsupportedOps

_USE_XCODE = "Compile it on a Mac with Xcode: `hubpub compile --compiler apple`, or `xcrun coremlcompiler compile`."
_ARRAY_TYPES = frozenset(
    {schema.ArrayFeatureType.FLOAT16, schema.ArrayFeatureType.FLOAT32, schema.ArrayFeatureType.INT32}
    | {schema.ArrayFeatureType.DOUBLE, schema.ArrayFeatureType.INT8}
)
_KINDS = {"imageType": "an image", "stateType": "a state"}
_STATE_OPERATIONS = frozenset({"read_state", "write_state", "coreml_update_state"})


def check_supported(model: schema.Model, *, name: str) -> None:
    """Raise UnsupportedOps with everything in this model that the portable compiler does not support."""
    problems = list(dict.fromkeys(_unsupported(model)))
    if problems:
        raise UnsupportedOps(
            f"hubpub cannot compile {name}: it {'; it '.join(problems)}.", hint=_USE_XCODE, ops=problems
        )


def check_interface(model: schema.Model) -> None:
    """Raise BadPackage if the description and the program differ in inputs or outputs."""
    description = model.description
    functions = model.mlProgram.functions
    described = {function.name: (function.input, function.output) for function in description.functions} or {
        "main": (description.input, description.output)
    }
    for name, (inputs, outputs) in described.items():
        if name not in functions:
            raise BadPackage(f"The model describes a function {name!r} that its program does not have.")
        function = functions[name]
        if {feature.name for feature in inputs} != {value.name for value in function.inputs}:
            raise BadPackage(f"The model's description and its function {name} disagree about the inputs.")
        if {feature.name for feature in outputs} != set(function.block_specializations[function.opset].outputs):
            raise BadPackage(f"The model's description and its function {name} disagree about the outputs.")
        ranged = {feature.name for feature in inputs if feature.type.multiArrayType.HasField("shapeRange")}
        for parameter in function.inputs:
            unknown = any(size.HasField("unknown") for size in parameter.type.tensorType.dimensions)
            if unknown and parameter.name not in ranged:
                raise BadPackage(f"The input {parameter.name} has a size that is neither fixed nor given as a range.")
    if description.functions and description.defaultFunctionName not in described:
        raise BadPackage(f"The model's default function {description.defaultFunctionName!r} is not described.")


def features(description: schema.ModelDescription) -> Iterator[schema.FeatureDescription]:
    """All inputs and outputs of a description, including those of its functions."""
    yield from description.input
    yield from description.output
    for function in description.functions:
        yield from function.input
        yield from function.output


def _unsupported(model: schema.Model) -> Iterator[str]:
    kind = model.WhichOneof("Type")
    if kind != "mlProgram":
        yield f"is a model of another kind ({_spaced(kind or 'none')}), not an ML Program"
        return
    if model.specificationVersion not in SPEC_VERSIONS:
        known = f"{SPEC_VERSIONS[0]} to {SPEC_VERSIONS[-1]}"
        yield f"has specification version {model.specificationVersion} (known: {known})"
    if model.isUpdatable or model.description.trainingInput:
        yield "is updatable"
    yield from _description(model.description)
    yield from _program(model.mlProgram)
    if _has_unknown_fields(model):
        yield "has parts that a newer Core ML format defines"


def _description(description: schema.ModelDescription) -> Iterator[str]:
    levels: list[schema.ModelDescription | schema.FunctionDescription] = [description, *description.functions]
    for level in levels:
        if level.state:
            yield "has states"
        if level.predictedFeatureName or level.predictedProbabilitiesName:
            yield "is a classifier"
        for feature in (*level.input, *level.output):
            yield from _feature(feature)
        for feature in level.input:
            array = feature.type.multiArrayType
            if array.HasField("shapeRange") and not array.shape:
                yield f"has no default shape for its flexible input {feature.name}"


def _feature(feature: schema.FeatureDescription) -> Iterator[str]:
    kind = feature.type.WhichOneof("Type")
    if kind != "multiArrayType":
        yield f"has {_KINDS.get(kind or '', _spaced(kind or 'an untyped value'))} as its input or output {feature.name}"
        return
    array = feature.type.multiArrayType
    if array.dataType not in _ARRAY_TYPES:
        yield f"has an array of type {array.dataType} as its input or output {feature.name}"
    if array.HasField("enumeratedShapes"):
        yield f"has enumerated shapes for {feature.name}"
    ranges = array.shapeRange.sizeRanges
    if any(size.upperBound < 0 for size in ranges):
        yield f"has a size without an upper bound for {feature.name}"
    if array.HasField("shapeRange") and array.shape and len(ranges) != len(array.shape):
        yield f"has a shape range for {feature.name} whose rank differs from its shape"


def _program(program: schema.Program) -> Iterator[str]:
    for name in sorted(set(program.attributes) - {BUILD_INFO}):
        yield f"has the program attribute {name}"
    for name in sorted(program.functions):
        function = program.functions[name]
        if function.opset not in OPSETS:
            yield f"uses the operation set {function.opset!r} (known: {', '.join(OPSETS)})"
        elif set(function.block_specializations) - {function.opset}:
            yield "has blocks for several operation sets"
        if any(value.type.WhichOneof("type") == "stateType" for value in function.inputs):
            yield "has states"
        for kind in _operation_types(function.block_specializations.values()):
            if kind in _STATE_OPERATIONS:
                yield "has states"
            elif kind.startswith("custom_"):
                yield f"has the custom operation {kind}"


def _operation_types(blocks: Iterable[schema.Block]) -> Iterator[str]:
    for block in blocks:
        for operation in block.operations:
            yield operation.type
            if operation.blocks:
                yield from _operation_types(operation.blocks)


def _has_unknown_fields(model: schema.Model) -> bool:
    """Whether the file has fields that hubpub's schema lacks. Drops them from `model`, which is then refused."""
    size = model.ByteSize()
    model.DiscardUnknownFields()
    return model.ByteSize() != size


def _spaced(name: str) -> str:
    """neuralNetworkClassifier → neural network classifier."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
