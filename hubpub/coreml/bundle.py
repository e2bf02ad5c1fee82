"""Reads a compiled bundle (`.mlmodelc`) from its small files: its contents and the model that it was compiled from.

The weights are not needed, so reading a bundle in a repo takes a download of a few
megabytes. Reads bundles of Apple's compiler and of hubpub's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.coremldata import model_hash, read_analytics, read_archive
from hubpub.coreml.histogram import histogram
from hubpub.coreml.metadata import array_type
from hubpub.coreml.package import read_model_bytes
from hubpub.coreml.parser import parse_build_info, parse_program
from hubpub.coreml.printer import own_build_info
from hubpub.coreml.survey import FunctionSurvey, Survey, precision, survey
from hubpub.errors import BadPackage

SUFFIX: Final = ".mlmodelc"
TEXT: Final = "model.mil"
DATA: Final = "coremldata.bin"
ANALYTICS: Final = "analytics/coremldata.bin"
METADATA: Final = "metadata.json"
# The files that `read_bundle_files` reads; the last two may be missing (apps load such bundles).
SMALL_FILES: Final = (TEXT, DATA, ANALYTICS, METADATA)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An input or output of a model."""

    name: str
    dtype: str  # Float16, Float32, Int32 …, as in metadata.json; "" if it is not an array
    shape: tuple[int, ...]  # the default shape of a flexible one; empty if there is none


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The contents of a compiled bundle; counts and precisions come from its MIL text, not from its metadata.json."""

    name: str
    spec_version: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    histogram: Mapping[str, int]  # of the default function, keys as in metadata.json
    compute_precision: str
    storage_precision: str  # "" without weight files
    weight_files: tuple[str, ...]  # relative to the bundle
    model_hash: str  # base 64 of the source model's SHA-256; "" without analytics/coremldata.bin
    build_info: Mapping[str, str]
    metadata: Mapping[str, Any] | None  # the object in metadata.json; None without that file
    program: schema.Program
    description: schema.ModelDescription

    @property
    def compiler(self) -> str:
        """Name and version of its compiler: `hubpub 0.1.0`, or `coremlc 3500.32.1` for Apple's."""
        component = self.build_info.get("coremlc-component-MIL", "")
        version = self.build_info.get("coremlc-version", "unknown")
        return f"{'coremlc' if component[:1].isdigit() else component or 'unknown'} {version}"


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle on disk. Raises BadPackage for an incomplete or damaged bundle."""
    if not folder.is_dir():
        raise BadPackage(f"{folder} is not a compiled model.", hint="A .mlmodelc is a folder with a model.mil in it.")
    return read_bundle_files(
        {name: (folder / name).read_bytes() for name in SMALL_FILES if (folder / name).is_file()}, name=str(folder)
    )


def read_bundle_files(files: Mapping[str, bytes], *, name: str) -> Bundle:
    """Read a bundle from the bytes of SMALL_FILES; error messages use `name`."""
    missing = [file for file in (TEXT, DATA) if file not in files]
    if missing:
        raise BadPackage(f"{name} has no {' and no '.join(missing)}.", hint="Fetch or compile the model again.")
    archive = read_archive(files[DATA], name=f"{name}/{DATA}")
    program = parse_program(_text(files[TEXT], f"{name}/{TEXT}"))
    contents = survey(program)
    described, counts = _default(archive.description, contents, name)
    analytics = read_analytics(files[ANALYTICS], name=f"{name}/{ANALYTICS}") if ANALYTICS in files else {}
    return Bundle(
        name=name,
        spec_version=archive.spec_version,
        inputs=tuple(map(_feature, described.input)),
        outputs=tuple(map(_feature, described.output)),
        histogram=histogram(counts.operations, counts.opset),
        compute_precision=precision(counts.compute),
        storage_precision=precision(counts.storage),
        weight_files=tuple(sorted({blob.file.removeprefix("@model_path/") for blob in contents.blobs})),
        model_hash=analytics.get("SpecificationDetails", {}).get("modelHash", ""),
        build_info=own_build_info(program),
        metadata=read_metadata(files[METADATA], name=f"{name}/{METADATA}") if METADATA in files else None,
        program=program,
        description=archive.description,
    )


def read_metadata(data: bytes, *, name: str) -> dict[str, Any]:
    """The single object in a metadata.json. Raises BadPackage for other content."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadPackage(f"{name} is not JSON.") from error
    if not isinstance(document, list) or len(document) != 1 or not isinstance(document[0], dict):
        raise BadPackage(f"{name} is not a list of one object.")
    metadata: dict[str, Any] = document[0]
    return metadata


def read_build_info(folder: Path) -> dict[str, str]:
    """The build information (compiler and version) in the text of the bundle in `folder`; empty without a text."""
    try:
        with (folder / TEXT).open(encoding="utf-8", errors="replace") as file:
            return parse_build_info(file.readline() + file.readline())
    except FileNotFoundError:
        return {}


def belongs(bundle: Bundle | Path, package: Path) -> bool:
    """Whether `bundle` was compiled from the model.mlmodel of `package`, by any compiler.

    Does not compare weights. False if the bundle does not record its source.
    """
    if isinstance(bundle, Path):
        path = bundle / ANALYTICS
        if not path.is_file():
            return False
        source_hash = (
            read_analytics(path.read_bytes(), name=str(path)).get("SpecificationDetails", {}).get("modelHash", "")
        )
    else:
        source_hash = bundle.model_hash
    return bool(source_hash) and source_hash == model_hash(read_model_bytes(package))


def _default(
    description: schema.ModelDescription, contents: Survey, name: str
) -> tuple[schema.ModelDescription | schema.FunctionDescription, FunctionSurvey]:
    """The description and the contents of the default function."""
    described: schema.ModelDescription | schema.FunctionDescription = description
    function = "main"
    if description.functions:
        function = description.defaultFunctionName
        by_name = {item.name: item for item in description.functions}
        if function not in by_name:
            raise BadPackage(f"{name} does not describe its default function {function!r}.")
        described = by_name[function]
    if function not in contents.functions:
        raise BadPackage(f"{name} describes a function {function!r} that its program does not have.")
    return described, contents.functions[function]


def _feature(feature: schema.FeatureDescription) -> Feature:
    array = feature.type.multiArrayType
    return Feature(name=feature.name, dtype=array_type(array), shape=tuple(array.shape))


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadPackage(f"{name} is not text: it is damaged.") from error
