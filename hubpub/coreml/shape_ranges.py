"""Shape ranges of inputs as a function attribute, which Apple's compiler adds to the MIL text.

    [FlexibleShapeInformation = tuple<...>(
        (("DefaultShapes", {{"x", [1, 4]}}), ("RangeDims", {{"x", [[1, 4], [4, 4]]}})))]     (in one line)

The attribute lists only inputs with a range. It is derived from the model's description, not
from the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.values import string_value, tensor_type, tensor_value

ATTRIBUTE = "FlexibleShapeInformation"


def flexible_attributes(description: schema.ModelDescription) -> dict[str, dict[str, schema.Value]]:
    """Function name → attributes, for the functions that have an input with a shape range."""
    attributes: dict[str, dict[str, schema.Value]] = {}
    single = [] if description.functions else [("main", description.input)]
    for name, inputs in (*single, *((function.name, function.input) for function in description.functions)):
        ranged = sorted(
            (feature for feature in inputs if feature.type.multiArrayType.HasField("shapeRange")),
            key=lambda feature: feature.name,
        )
        if ranged:
            attributes[name] = {ATTRIBUTE: _information(ranged)}
    return attributes


def _information(inputs: Sequence[schema.FeatureDescription]) -> schema.Value:
    defaults = _table(
        ((feature.name, _shape(feature.type.multiArrayType.shape)) for feature in inputs),
        tensor_type(schema.INT32, (None,)),
    )
    ranges = _table(
        ((feature.name, _ranges(feature.type.multiArrayType.shapeRange.sizeRanges)) for feature in inputs),
        _ranges_type(),
    )
    return _tuple((_tuple((string_value("DefaultShapes"), defaults)), _tuple((string_value("RangeDims"), ranges))))


def _shape(sizes: Iterable[int]) -> schema.Value:
    values = list(sizes)
    return tensor_value(values, schema.INT32, (len(values),))


def _ranges(sizes: Iterable[schema.SizeRange]) -> schema.Value:
    result = schema.Value()
    result.type.CopyFrom(_ranges_type())
    result.immediateValue.list.values.extend(
        tensor_value([size.lowerBound, size.upperBound], schema.INT32, (2,)) for size in sizes
    )
    return result


def _ranges_type() -> schema.ValueType:
    result = schema.ValueType()
    result.listType.type.CopyFrom(tensor_type(schema.INT32, (2,)))
    result.listType.length.unknown.SetInParent()
    return result


def _table(rows: Iterable[tuple[str, schema.Value]], value_type: schema.ValueType) -> schema.Value:
    result = schema.Value()
    result.type.dictionaryType.keyType.CopyFrom(tensor_type(schema.STRING))
    result.type.dictionaryType.valueType.CopyFrom(value_type)
    for name, value in rows:
        result.immediateValue.dictionary.values.add(key=string_value(name), value=value)
    return result


def _tuple(members: Sequence[schema.Value]) -> schema.Value:
    result = schema.Value()
    result.type.tupleType.types.extend(member.type for member in members)
    result.immediateValue.tuple.values.extend(members)
    return result
