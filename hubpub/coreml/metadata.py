"""Writes `metadata.json`, from which apps and tools read about a compiled model without loading it.

Keys, values and JSON types are those of Apple's compiler (2025 and later). Every value in a
schema entry is a string, also numbers: apps decode them as strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.histogram import histogram
from hubpub.coreml.survey import FunctionSurvey, Survey, precision

_ARRAY_TYPES: Mapping[int, str] = {
    schema.ArrayFeatureType.FLOAT16: "Float16",
    schema.ArrayFeatureType.FLOAT32: "Float32",
    schema.ArrayFeatureType.DOUBLE: "Double",
    schema.ArrayFeatureType.INT32: "Int32",
    schema.ArrayFeatureType.INT8: "Int8",
}
_COMPARED_ARRAY_TYPES = frozenset({"Float16", "Float32", "Int32"})
_PLATFORMS = ("macOS", "iOS", "tvOS", "watchOS", "macCatalyst", "visionOS")
# Specification version → the first OS version of each platform that loads it.
_AVAILABILITY: Mapping[int, tuple[str, ...]] = {
    6: ("12.0", "15.0", "15.0", "8.0", "15.0", "1.0"),
    7: ("13.0", "16.0", "16.0", "9.0", "16.0", "1.0"),
    8: ("14.0", "17.0", "17.0", "10.0", "17.0", "1.0"),
    9: ("15.0", "18.0", "18.0", "11.0", "18.0", "2.0"),
}


def metadata(model: schema.Model, contents: Survey, *, stem: str) -> list[dict[str, Any]]:
    """The contents of metadata.json for a model compiled from `<stem>.mlpackage`."""
    description = model.description
    described: schema.ModelDescription | schema.FunctionDescription = description
    default = "main"
    document: dict[str, Any] = {}
    if description.functions:
        default = description.defaultFunctionName
        by_name = {function.name: function for function in description.functions}
        described = by_name[default]
        document["defaultFunctionName"] = default
        document["functions"] = [
            {"name": function.name, **_interface(function), **_content(contents.functions[function.name])}
            for function in description.functions
        ]
    document |= {
        "metadataOutputVersion": "3.0",
        "method": "predict",
        "modelType": {"name": "MLModelType_mlProgram"},
        "modelParameters": [],
        "isUpdatable": "0",
        "specificationVersion": model.specificationVersion,
        "availability": dict(zip(_PLATFORMS, _AVAILABILITY[model.specificationVersion], strict=True)),
        "generatedClassName": re.sub(r"[^A-Za-z0-9_]", "_", stem),
        "userDefinedMetadata": dict(description.metadata.userDefined),
        **_interface(described),
        **_content(contents.functions[default]),
    }
    texts = {
        "shortDescription": description.metadata.shortDescription,
        "version": description.metadata.versionString,
        "author": description.metadata.author,
        "license": description.metadata.license,
    }
    return [document | {key: text for key, text in texts.items() if text}]


def metadata_json(document: list[dict[str, Any]]) -> str:
    """The document as JSON text, deterministic."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def array_type(array: schema.ArrayFeatureType) -> str:
    """The name of an array's element type, such as Float32; empty for an unknown type."""
    return _ARRAY_TYPES.get(array.dataType, "")


def unverified_features(features: Iterable[schema.FeatureDescription]) -> set[str]:
    """The forms of inputs and outputs that were never compared with Apple's metadata.json."""
    forms = set()
    for feature in features:
        array = feature.type.multiArrayType
        name = _ARRAY_TYPES[array.dataType]
        if name not in _COMPARED_ARRAY_TYPES:
            forms.add(f"the name of {name} arrays in metadata.json")
        if array.WhichOneof("defaultOptionalValue"):
            forms.add("default values of optional inputs in metadata.json")
    return forms


def _interface(described: schema.ModelDescription | schema.FunctionDescription) -> dict[str, Any]:
    return {
        "inputSchema": [_feature(feature) for feature in described.input],
        "outputSchema": [_feature(feature) for feature in described.output],
        "stateSchema": [],
    }


def _content(counts: FunctionSurvey) -> dict[str, Any]:
    content: dict[str, Any] = {
        "computePrecision": precision(counts.compute),
        "mlProgramOperationTypeHistogram": histogram(counts.operations, counts.opset),
    }
    if counts.storage:
        content["storagePrecision"] = precision(counts.storage)
    return content


def _feature(feature: schema.FeatureDescription) -> dict[str, str]:
    array = feature.type.multiArrayType
    name = _ARRAY_TYPES[array.dataType]
    shape = list(array.shape)
    entry = {
        "name": feature.name,
        "type": "MultiArray",
        "dataType": name,
        "formattedType": f"MultiArray ({name} {' × '.join(map(str, shape))})" if shape else f"MultiArray ({name})",
        "shape": str(shape),
        "shortDescription": feature.shortDescription,
        "isOptional": str(int(feature.type.isOptional)),
        "hasShapeFlexibility": "0",
    }
    if array.HasField("shapeRange"):
        bounds = [(size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges]
        entry |= {
            "hasShapeFlexibility": "1",
            "shapeFlexibility": " × ".join(f"{low}...{high}" if low != high else str(low) for low, high in bounds),
            "shapeRange": str([list(pair) for pair in bounds]),
        }
    return entry
