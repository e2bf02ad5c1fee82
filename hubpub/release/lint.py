"""Rules of the apps that read published models, checked against file names and small files.

Each rule states the behaviour of one app, from its source:

- Apple's Swift package (ml-stable-diffusion, `StableDiffusionPipeline+Resources.swift`)
- swift-coreml-diffusers (`ModelInfo.swift`, `PipelineLoader.swift`)
- Mochi Diffusion (`SDModel.swift`; see hubpub.release.mochi)
- Apple's Python pipeline (`coreml_model.py`)

Rules get the file names and a function that reads a file's first bytes, so they work for a
folder, a zip and a repo on the Hub.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from hubpub.errors import ModelError
from hubpub.files.unzip import DAMAGE
from hubpub.release.findings import BUNDLE, WHOLE, Finding, Read, entries_of, metadata_of, missing
from hubpub.release.mochi import lint_mochi

ZIP_SUFFIXES: Final = ("original_compiled", "split_einsum_compiled", "split_einsum_v2_compiled")

CONTROLNETS: Final = "controlnet"  # the folder of ControlNets beside the other bundles
_UNETS: Final = ("Unet", "UnetRefiner", "ControlledUnet")
_JUNK: Final = frozenset({".DS_Store", "__MACOSX", "Thumbs.db", "desktop.ini", ".localized", ".git"})
_POINTER: Final = b"version https://git-lfs"
_NUMPY: Final = frozenset({"float16", "float32", "float64", "double", "int32", "int8"})


def lint_folder(folder: Path, *, attention: str | None = None) -> tuple[Finding, ...]:
    """All rules for a folder of compiled bundles and tokenizer files (Apple's *Resources*)."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())

    def read(name: str, limit: int) -> bytes:
        with (folder / name).open("rb") as file:
            return file.read(limit)

    return lint_compiled(names, read, attention=attention)


def lint_zip(path: Path, *, attention: str | None = None) -> tuple[Finding, ...]:
    """All rules for an archive of compiled bundles. Does not verify its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            findings = list(lint_zip_names(names, zip_name=path.name))

            def read(name: str, limit: int) -> bytes:
                with archive.open(f"{path.stem}/{name}") as file:
                    return file.read(limit)

            top = f"{path.stem}/"
            inside = [name.removeprefix(top) for name in names if name.startswith(top) and not name.endswith("/")]
            findings += (
                Finding(severity=finding.severity, path=top + finding.path, sentence=finding.sentence)
                for finding in lint_compiled(inside, read, attention=attention)
            )
    except (*DAMAGE, OSError) as error:
        reason = str(error) or "it is damaged"
        return (Finding(severity="error", path=path.name, sentence=f"The archive cannot be read: {reason}."),)
    return _sorted(findings)


def lint_compiled(names: Sequence[str], read: Read, *, attention: str | None = None) -> tuple[Finding, ...]:
    """All rules for a folder of compiled bundles; `names` are relative to it, `read` reads a file's first bytes."""
    whole = not only_controlnets(names)
    return _sorted(
        (
            *lint_names(names),
            *lint_pointers(names, read),
            *(lint_swift_loader(names) if whole else ()),
            *lint_bundles(names, read),
            *(lint_mochi(names, read, attention=attention) if whole else ()),
            *lint_python_pipeline(names, read),
        )
    )


def only_controlnets(names: Iterable[str]) -> bool:
    """Whether a folder holds ControlNets alone, which apps load beside a model of another folder."""
    tops = {parts[0] for parts in map(_parts, names) if len(parts) > 1}
    return tops == {CONTROLNETS}


def lint_names(names: Iterable[str]) -> Iterator[Finding]:
    """Find junk files, and names that leave their folder."""
    for name in names:
        parts = PurePosixPath(name).parts
        if _JUNK.intersection(parts) or any(part.startswith("._") for part in parts):
            yield Finding(
                severity="error",
                path=name,
                sentence="This file belongs to an operating system, not to a model.",
            )
        if name.startswith("/") or "\\" in name or ".." in parts:
            yield Finding(severity="error", path=name, sentence="This name leaves its folder.")


def lint_pointers(names: Iterable[str], read: Read) -> Iterator[Finding]:
    """Find git-LFS pointers that were published instead of their files."""
    for name in names:
        if read(name, len(_POINTER)) == _POINTER:
            yield Finding(severity="error", path=name, sentence="This is a git-LFS pointer, not the file itself.")


def lint_zip_names(names: Sequence[str], *, zip_name: str) -> Iterator[Finding]:
    """swift-coreml-diffusers unzips into its models folder and then opens `<models>/<stem of the zip>/`."""
    stem = zip_name.removesuffix(".zip")
    tops = {name.split("/", 1)[0] for name in names}
    if tops != {stem}:
        listed = ", ".join(sorted(tops)) or "nothing"
        yield Finding(
            severity="error",
            path=zip_name,
            sentence=f"The archive must hold one folder, {stem}, but holds {listed}.",
        )
    for name in sorted(name for name, count in Counter(names).items() if count > 1):
        yield Finding(severity="error", path=name, sentence="The archive contains this file twice.")
    inside = {parts[1] for parts in map(_parts, names) if len(parts) > 2}
    if stem in tops and not any(name.endswith(BUNDLE) or name == CONTROLNETS for name in inside):
        yield Finding(
            severity="error",
            path=zip_name,
            sentence=f"The models must lie directly in {stem}, without a folder such as Resources or compiled between.",
        )
    yield from lint_names(names)


def lint_zip_url(path_in_repo: str, *, repo_id: str) -> Iterator[Finding]:
    """swift-coreml-diffusers requests only `<repo>_<variant>_compiled.zip` at the top of `main`."""
    repo = repo_id.rpartition("/")[2]
    expected = [f"{repo}_{suffix}.zip" for suffix in ZIP_SUFFIXES]
    if path_in_repo not in expected:
        sentence = f"No app requests an archive with this name; they request {', '.join(expected)}."
        yield Finding(severity="error", path=path_in_repo, sentence=sentence)


def lint_swift_loader(names: Sequence[str]) -> Iterator[Finding]:
    """Find files that Apple's Swift package needs to load a pipeline."""
    bundles, files = _bundles(names), set(names)
    required = ["VAEDecoder", "TextEncoder2" if "TextEncoder2" in bundles else "TextEncoder"]
    for bundle in required:
        if bundle not in bundles:
            yield missing(f"{bundle}{BUNDLE}", "Apple's Swift package cannot load a pipeline without it.")
    for name in ("vocab.json", "merges.txt"):
        if name not in files:
            yield missing(name, "Apple's Swift package reads the tokenizer from it.")
    if not {"Unet", "UnetChunk1", "UnetChunk2", "ControlledUnet", "ControlledUnetChunk1"} & bundles:
        yield missing(f"Unet{BUNDLE}", "Apple's Swift package cannot load a pipeline without it.")
    for unet in _UNETS:
        chunks = {f"{unet}Chunk1", f"{unet}Chunk2"} & bundles
        if len(chunks) == 1:
            path = f"{chunks.pop()}{BUNDLE}"
            yield Finding(severity="error", path=path, sentence="A chunked UNet needs both chunks.")
        elif chunks and unet in bundles:
            path = f"{unet}{BUNDLE}"
            yield Finding(severity="warning", path=path, sentence="It is never loaded: apps prefer the chunks.")
    controlled = {"ControlledUnet", "ControlledUnetChunk1"} & bundles
    if not controlled and any(name.startswith(f"{CONTROLNETS}/") for name in names):
        sentence = "Without it, Apple's Swift package cannot use the ControlNets beside it."
        yield Finding(severity="warning", path=f"ControlledUnet{BUNDLE}", sentence=f"It is missing. {sentence}")
    if "VAEEncoder" not in bundles:
        sentence = "Without it, image-to-image does not work, and Mochi Diffusion does not know the image size."
        yield Finding(severity="warning", path=f"VAEEncoder{BUNDLE}", sentence=sentence)
    if "SafetyChecker" not in bundles and "TextEncoder2" not in bundles:
        yield Finding(
            severity="note", path=f"SafetyChecker{BUNDLE}", sentence="It is missing, so apps do not check pictures."
        )


def lint_bundles(names: Sequence[str], read: Read) -> Iterator[Finding]:
    """Check that each bundle is complete, and that its metadata.json matches its model."""
    from hubpub.coreml.bundle import ANALYTICS, SMALL_FILES, read_bundle_files

    files = set(names)
    for folder in sorted({"/".join(parts[: at + 1]) for parts in map(_parts, names) for at in _bundle_levels(parts)}):
        small = {name: read(f"{folder}/{name}", WHOLE) for name in SMALL_FILES if f"{folder}/{name}" in files}
        if any(data.startswith(_POINTER) for data in small.values()):
            continue  # lint_pointers reports it
        if "metadata.json" not in small:
            yield missing(f"{folder}/metadata.json", "Mochi Diffusion and Apple's Python pipeline read it.")
        if ANALYTICS not in small:
            sentence = "It is missing, so the bundle's source package is unknown."
            yield Finding(severity="note", path=f"{folder}/{ANALYTICS}", sentence=sentence)
        try:
            bundle = read_bundle_files(small, name=folder)
        except ModelError as error:
            yield Finding(severity="error", path=folder, sentence=error.message)
            continue
        for weight in bundle.weight_files:
            if f"{folder}/{weight}" not in files:
                yield missing(f"{folder}/{weight}", "The model's text refers to it.")
        if bundle.metadata is not None:
            inputs = _schema(bundle.metadata)
            if inputs != {(feature.name, str(list(feature.shape))) for feature in bundle.inputs}:
                yield Finding(
                    severity="error",
                    path=f"{folder}/metadata.json",
                    sentence="It describes another model: its inputs differ from the model's.",
                )
            elif bundle.metadata.get("mlProgramOperationTypeHistogram") != bundle.histogram:
                yield Finding(
                    severity="note",
                    path=f"{folder}/metadata.json",
                    sentence="Its counts of operations differ from the model's.",
                )


def lint_python_pipeline(names: Sequence[str], read: Read) -> Iterator[Finding]:
    """Apple's Python pipeline reads shapes and types of inputs from metadata.json; all models need one extension."""
    extensions = {PurePosixPath(parts[0]).suffix for parts in map(_parts, names) if len(parts) > 1} - {""}
    if len(extensions) > 1:
        listed = ", ".join(sorted(extensions))
        yield Finding(
            severity="warning",
            path="",
            sentence=f"Apple's Python pipeline cannot choose between packages and bundles in a folder with {listed}.",
        )
    for bundle in sorted(_bundles(names)):
        path = f"{bundle}{BUNDLE}/metadata.json"
        document = metadata_of(read(path, WHOLE)) if path in names else None
        for entry in entries_of(document):
            shape, dtype = entry.get("shape"), entry.get("dataType")
            if not isinstance(shape, str) or re.fullmatch(r"\[(\d+(, \d+)*)?\]", shape) is None:
                problem = f"the shape {shape!r}"
            elif not isinstance(dtype, str) or dtype.lower() not in _NUMPY:
                problem = f"the type {dtype!r}"
            else:
                continue
            sentence = f"Apple's Python pipeline cannot read {problem} of the input {entry.get('name')}."
            yield Finding(severity="error", path=path, sentence=sentence)


def _schema(document: Mapping[str, Any]) -> set[tuple[Any, Any]]:
    return {(entry.get("name"), entry.get("shape")) for entry in entries_of(document)}


def _bundles(names: Iterable[str]) -> set[str]:
    """Names of the bundles directly in the folder, without their suffix."""
    tops = {parts[0] for parts in map(_parts, names) if len(parts) > 1}
    return {top.removesuffix(BUNDLE) for top in tops if top.endswith(BUNDLE)}


def _bundle_levels(parts: tuple[str, ...]) -> list[int]:
    return [at for at, part in enumerate(parts[:-1]) if part.endswith(BUNDLE)][:1]


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings without duplicates, errors first."""
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(set(findings), key=lambda finding: (order[finding.severity], finding.path, finding.sentence)))
