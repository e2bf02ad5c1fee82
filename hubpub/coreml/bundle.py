"""Reads a compiled bundle (`.mlmodelc`) from its small files: what is in it, and what it was made from.

The weights are not needed, so a bundle in a repo can be read by fetching a few
megabytes. Bundles by Apple's compiler and by hubpub's are read alike.
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
# What `read_bundle_files` wants; the last two may be missing (apps load such bundles).
SMALL_FILES: Final = (TEXT, DATA, ANALYTICS, METADATA)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An input or output of a model."""

    name: str
    dtype: str  # Float16, Float32, Int32 …, as metadata.json names it; "" for what is no array
    shape: tuple[int, ...]  # the default where it is flexible, empty where none is given


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a compiled bundle says about itself; counts and precisions are taken from its text, not from its JSON."""

    name: str
    spec_version: int
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    histogram: Mapping[str, int]  # of the default function, keys as in metadata.json
    compute_precision: str
    storage_precision: str  # "" without weight files
    weight_files: tuple[str, ...]  # relative to the bundle
    model_hash: str  # base 64 of the source model's SHA-256, "" where analytics are missing
    build_info: Mapping[str, str]
    metadata: Mapping[str, Any] | None  # the object in metadata.json, None where there is none
    program: schema.Program
    description: schema.ModelDescription

    @property
    def compiler(self) -> str:
        """Who wrote it, as far as it says: `hubpub 0.1.0`, or `coremlc 3500.32.1` for Apple's."""
        component = self.build_info.get("coremlc-component-MIL", "")
        version = self.build_info.get("coremlc-version", "unknown")
        return f"{'coremlc' if component[:1].isdigit() else component or 'unknown'} {version}"


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle on disk. Raises BadPackage where it is not whole."""
    if not folder.is_dir():
        raise BadPackage(f"{folder} is not a compiled model.", hint="A .mlmodelc is a folder with a model.mil in it.")
    return read_bundle_files(
        {name: (folder / name).read_bytes() for name in SMALL_FILES if (folder / name).is_file()}, name=str(folder)
    )


def read_bundle_files(files: Mapping[str, bytes], *, name: str) -> Bundle:
    """Read a bundle from the bytes of SMALL_FILES; `name` is for the errors' sentences."""
    missing = [file for file in (TEXT, DATA) if file not in files]
    if missing:
        raise BadPackage(f"{name} has no {' and no '.join(missing)}.", hint="Fetch or compile the model again.")
    archive = read_archive(files[DATA], name=f"{name}/{DATA}")
    program = parse_program(_text(files[TEXT], f"{name}/{TEXT}"))
    found = survey(program)
    described, counts = _default(archive.description, found, name)
    analytics = read_analytics(files[ANALYTICS], name=f"{name}/{ANALYTICS}") if ANALYTICS in files else {}
    return Bundle(
        name=name,
        spec_version=archive.spec_version,
        inputs=tuple(map(_feature, described.input)),
        outputs=tuple(map(_feature, described.output)),
        histogram=histogram(counts.operations, counts.opset),
        compute_precision=precision(counts.compute),
        storage_precision=precision(counts.storage),
        weight_files=tuple(sorted({blob.file.removeprefix("@model_path/") for blob in found.blobs})),
        model_hash=analytics.get("SpecificationDetails", {}).get("modelHash", ""),
        build_info=own_build_info(program),
        metadata=read_metadata(files[METADATA], name=f"{name}/{METADATA}") if METADATA in files else None,
        program=program,
        description=archive.description,
    )


def read_metadata(data: bytes, *, name: str) -> dict[str, Any]:
    """The one object in a metadata.json. Raises BadPackage for anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadPackage(f"{name} is not JSON.") from error
    if not isinstance(document, list) or len(document) != 1 or not isinstance(document[0], dict):
        raise BadPackage(f"{name} is not a list of one object.")
    found: dict[str, Any] = document[0]
    return found


def read_build_info(folder: Path) -> dict[str, str]:
    """Who wrote the bundle in `folder`, as its text says; empty where it has none."""
    try:
        with (folder / TEXT).open(encoding="utf-8", errors="replace") as file:
            return parse_build_info(file.readline() + file.readline())
    except FileNotFoundError:
        return {}


def belongs(bundle: Bundle | Path, package: Path) -> bool:
    """Whether `bundle` was compiled from the model of `package`, whoever compiled it.

    Weights are not compared: they are the same file. False as well where the bundle
    does not say what it was made from.
    """
    if isinstance(bundle, Path):
        path = bundle / ANALYTICS
        if not path.is_file():
            return False
        said = read_analytics(path.read_bytes(), name=str(path)).get("SpecificationDetails", {}).get("modelHash", "")
    else:
        said = bundle.model_hash
    return bool(said) and said == model_hash(read_model_bytes(package))


def _default(
    description: schema.ModelDescription, found: Survey, name: str
) -> tuple[schema.ModelDescription | schema.FunctionDescription, FunctionSurvey]:
    """The description and the content of the function that runs when none is asked for."""
    described: schema.ModelDescription | schema.FunctionDescription = description
    function = "main"
    if description.functions:
        function = description.defaultFunctionName
        by_name = {one.name: one for one in description.functions}
        if function not in by_name:
            raise BadPackage(f"{name} does not describe its default function {function!r}.")
        described = by_name[function]
    if function not in found.functions:
        raise BadPackage(f"{name} describes a function {function!r} that its program does not have.")
    return described, found.functions[function]


def _feature(feature: schema.FeatureDescription) -> Feature:
    array = feature.type.multiArrayType
    return Feature(name=feature.name, dtype=array_type(array), shape=tuple(array.shape))


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadPackage(f"{name} is not text: it is damaged.") from error
