"""What the apps that read published models demand, as rules over file names and small files.

Each rule states one reader's behaviour, taken from its source:

- Apple's Swift package (ml-stable-diffusion, `StableDiffusionPipeline+Resources.swift`)
- swift-coreml-diffusers (`ModelInfo.swift`, `PipelineLoader.swift`)
- Mochi Diffusion (`SDModel.swift`)
- Apple's Python pipeline (`coreml_model.py`)

Files are given as names and a function that reads their first bytes, so that the same
rules judge a folder, a zip and a repo on the Hub.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from hubpub.errors import ModelError
from hubpub.files.unzip import DAMAGE

Severity = Literal["error", "warning", "note"]
# Path and number of bytes → at most that many of the file's first bytes.
Read = Callable[[str, int], bytes]

ZIP_SUFFIXES: Final = ("original_compiled", "split_einsum_compiled", "split_einsum_v2_compiled")
SPLIT_KEY: Final = "Ios16.einsum"

_JUNK: Final = frozenset({".DS_Store", "__MACOSX", "Thumbs.db", "desktop.ini", ".localized", ".git"})
_POINTER: Final = b"version https://git-lfs"
_BUNDLE: Final = ".mlmodelc"
_UNETS: Final = ("Unet", "UnetChunk1", "ControlledUnet", "MultiModalDiffusionTransformer")  # in Mochi's order
_NUMPY: Final = frozenset({"float16", "float32", "float64", "double", "int32", "int8"})
_WHOLE: Final = 1 << 28  # more than any model.mil


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """Something that a reader will stumble over, or not find."""

    severity: Severity
    path: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class MochiView:
    """What Mochi Diffusion takes a folder for."""

    attention: Literal["original", "split_einsum"]
    xl: bool
    width: int | None
    height: int | None


def lint_folder(folder: Path, *, attention: str | None = None) -> tuple[Finding, ...]:
    """All rules for a folder of compiled bundles and tokenizer files (Apple's *Resources*)."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())

    def read(name: str, limit: int) -> bytes:
        with (folder / name).open("rb") as file:
            return file.read(limit)

    return lint_compiled(names, read, attention=attention)


def lint_zip(path: Path, *, attention: str | None = None) -> tuple[Finding, ...]:
    """All rules for an archive of compiled bundles. Its checksums are not verified."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            found = list(lint_zip_names(names, zip_name=path.name))

            def read(name: str, limit: int) -> bytes:
                with archive.open(f"{path.stem}/{name}") as file:
                    return file.read(limit)

            top = f"{path.stem}/"
            inside = [name.removeprefix(top) for name in names if name.startswith(top) and not name.endswith("/")]
            found += (
                Finding(severity=one.severity, path=top + one.path, sentence=one.sentence)
                for one in lint_compiled(inside, read, attention=attention)
            )
    except (*DAMAGE, OSError) as error:
        why = str(error) or "it is damaged"
        return (Finding(severity="error", path=path.name, sentence=f"The archive cannot be read: {why}."),)
    return _sorted(found)


def lint_compiled(names: Sequence[str], read: Read, *, attention: str | None = None) -> tuple[Finding, ...]:
    """All rules for the files of one folder of compiled bundles, their names relative to it."""
    return _sorted(
        (
            *lint_names(names),
            *lint_pointers(names, read),
            *lint_swift_loader(names),
            *lint_bundles(names, read),
            *lint_mochi(names, read, attention=attention),
            *lint_python_pipeline(names, read),
        )
    )


def lint_names(names: Iterable[str]) -> Iterator[Finding]:
    """Files that nobody meant to publish, and names that leave their folder."""
    for name in names:
        parts = PurePosixPath(name).parts
        if _JUNK.intersection(parts) or any(part.startswith("._") for part in parts):
            yield Finding(
                severity="error", path=name, sentence="This file belongs to an operating system, not to a model."
            )
        if name.startswith("/") or "\\" in name or ".." in parts:
            yield Finding(severity="error", path=name, sentence="This name leads out of its folder.")


def lint_pointers(names: Iterable[str], read: Read) -> Iterator[Finding]:
    """git-LFS pointers that were published in place of what they point to."""
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
            severity="error", path=zip_name, sentence=f"The archive must hold one folder, {stem}, but holds {listed}."
        )
    for name in sorted(name for name, count in Counter(names).items() if count > 1):
        yield Finding(severity="error", path=name, sentence="The archive holds this file twice.")
    if stem in tops and not any(len(parts) > 2 and parts[1].endswith(_BUNDLE) for parts in map(_parts, names)):
        yield Finding(
            severity="error",
            path=zip_name,
            sentence=f"The models must lie directly in {stem}, without a folder such as Resources or compiled between.",
        )
    yield from lint_names(names)


def lint_zip_url(path_in_repo: str, *, repo_id: str) -> Iterator[Finding]:
    """swift-coreml-diffusers asks for `<repo>_<variant>_compiled.zip` at the top of `main`, and for nothing else."""
    repo = repo_id.rpartition("/")[2]
    expected = [f"{repo}_{suffix}.zip" for suffix in ZIP_SUFFIXES]
    if path_in_repo not in expected:
        sentence = f"No app asks for an archive of this name; they ask for {', '.join(expected)}."
        yield Finding(severity="error", path=path_in_repo, sentence=sentence)


def lint_swift_loader(names: Sequence[str]) -> Iterator[Finding]:
    """What Apple's Swift package opens when it loads a pipeline."""
    bundles, files = _bundles(names), set(names)
    wanted = ["VAEDecoder", "TextEncoder2" if "TextEncoder2" in bundles else "TextEncoder"]
    for bundle in wanted:
        if bundle not in bundles:
            yield _missing(f"{bundle}{_BUNDLE}", "Apple's Swift package cannot load a pipeline without it.")
    for name in ("vocab.json", "merges.txt"):
        if name not in files:
            yield _missing(name, "Apple's Swift package reads the tokenizer from it.")
    chunks = {"UnetChunk1", "UnetChunk2"} & bundles
    if len(chunks) == 1:
        yield Finding(
            severity="error", path=f"{chunks.pop()}{_BUNDLE}", sentence="A chunked UNet needs both of its chunks."
        )
    elif not chunks and not {"Unet", "ControlledUnet"} & bundles:
        yield _missing(f"Unet{_BUNDLE}", "Apple's Swift package cannot load a pipeline without it.")
    elif chunks and "Unet" in bundles:
        yield Finding(
            severity="warning",
            path=f"Unet{_BUNDLE}",
            sentence="It is never loaded: the chunks beside it are preferred.",
        )
    if "VAEEncoder" not in bundles:
        sentence = "Without it there is no image-to-image, and Mochi Diffusion does not know the image size."
        yield Finding(severity="warning", path=f"VAEEncoder{_BUNDLE}", sentence=sentence)
    if "SafetyChecker" not in bundles and "TextEncoder2" not in bundles:
        yield Finding(
            severity="note", path=f"SafetyChecker{_BUNDLE}", sentence="It is not there, so no picture is checked."
        )


def lint_bundles(names: Sequence[str], read: Read) -> Iterator[Finding]:
    """Each bundle is whole, and its metadata.json is about the model that lies beside it."""
    from hubpub.coreml.bundle import ANALYTICS, SMALL_FILES, read_bundle_files

    files = set(names)
    for folder in sorted({"/".join(parts[: at + 1]) for parts in map(_parts, names) for at in _bundle_levels(parts)}):
        small = {name: read(f"{folder}/{name}", _WHOLE) for name in SMALL_FILES if f"{folder}/{name}" in files}
        if any(data.startswith(_POINTER) for data in small.values()):
            continue  # said elsewhere
        if "metadata.json" not in small:
            yield _missing(f"{folder}/metadata.json", "Mochi Diffusion and Apple's Python pipeline read it.")
        if ANALYTICS not in small:
            sentence = "It is not there, so nobody can tell which package the bundle was made of."
            yield Finding(severity="note", path=f"{folder}/{ANALYTICS}", sentence=sentence)
        try:
            bundle = read_bundle_files(small, name=folder)
        except ModelError as error:
            yield Finding(severity="error", path=folder, sentence=error.message)
            continue
        for weight in bundle.weight_files:
            if f"{folder}/{weight}" not in files:
                yield _missing(f"{folder}/{weight}", "The model's text refers to it.")
        if bundle.metadata is not None:
            said = _schema(bundle.metadata)
            if said != {(one.name, str(list(one.shape))) for one in bundle.inputs}:
                yield Finding(
                    severity="error",
                    path=f"{folder}/metadata.json",
                    sentence="It is about another model: its inputs are not those of the model beside it.",
                )
            elif bundle.metadata.get("mlProgramOperationTypeHistogram") != bundle.histogram:
                yield Finding(
                    severity="note",
                    path=f"{folder}/metadata.json",
                    sentence="It counts other operations than the model beside it has.",
                )


def lint_mochi(names: Sequence[str], read: Read, *, attention: str | None = None) -> Iterator[Finding]:
    """Mochi Diffusion shows a model only if it can decode its metadata, and picks ControlNets by attention and size."""
    found: list[Finding] = []
    view = mochi_view(names, read, problems=found)
    yield from found
    if view is not None and attention is not None and view.attention != attention.removesuffix("_v2"):
        keyed = "has" if view.attention == "split_einsum" else "lacks"
        yield Finding(
            severity="warning",
            path=_unet_metadata(names) or "",
            sentence=f"Mochi Diffusion takes this {attention} model for {view.attention}, as it {keyed} {SPLIT_KEY}.",
        )


def mochi_view(names: Sequence[str], read: Read, *, problems: list[Finding] | None = None) -> MochiView | None:
    """What Mochi Diffusion makes of a folder; None where it would not show the model."""
    problems = [] if problems is None else problems
    path = _unet_metadata(names)
    if path is None:
        problems.append(_missing(f"Unet{_BUNDLE}/metadata.json", "Mochi Diffusion does not show a model without it."))
        return None
    document = _strict_metadata(path, read, problems)
    if document is None:
        return None
    inputs = {entry.get("name") for entry in document["inputSchema"]}
    histogram = document["mlProgramOperationTypeHistogram"]
    size = _image_size(names, read, problems)
    return MochiView(
        attention="split_einsum" if SPLIT_KEY in histogram else "original",
        xl={"time_ids", "text_embeds"} <= inputs,
        height=size[0],
        width=size[1],
    )


def lint_python_pipeline(names: Sequence[str], read: Read) -> Iterator[Finding]:
    """Apple's Python pipeline takes shapes and types of inputs from metadata.json; folders must have one extension."""
    extensions = {PurePosixPath(parts[0]).suffix for parts in map(_parts, names) if len(parts) > 1} - {""}
    if len(extensions) > 1:
        listed = ", ".join(sorted(extensions))
        yield Finding(
            severity="warning",
            path="",
            sentence=f"Apple's Python pipeline cannot tell packages from bundles in a folder that has {listed}.",
        )
    for bundle in sorted(_bundles(names)):
        path = f"{bundle}{_BUNDLE}/metadata.json"
        document = _object(read(path, _WHOLE)) if path in names else None
        for entry in _entries(document):
            shape, dtype = entry.get("shape"), entry.get("dataType")
            if not isinstance(shape, str) or re.fullmatch(r"\[(\d+(, \d+)*)?\]", shape) is None:
                problem = f"the shape {shape!r}"
            elif not isinstance(dtype, str) or dtype.lower() not in _NUMPY:
                problem = f"the type {dtype!r}"
            else:
                continue
            sentence = f"Apple's Python pipeline cannot read {problem} of the input {entry.get('name')}."
            yield Finding(severity="error", path=path, sentence=sentence)


def _strict_metadata(path: str, read: Read, problems: list[Finding]) -> dict[str, Any] | None:
    """The document, if Swift's decoder takes it."""
    document = _object(read(path, _WHOLE))
    problem = _swift_problem(document)
    if problem:
        sentence = f"Mochi Diffusion cannot decode it: {problem}."
        problems.append(Finding(severity="error", path=path, sentence=sentence))
        return None
    return document


def _swift_problem(document: dict[str, Any] | None) -> str:
    """Why Swift's decoder would refuse it: it wants one object, counts as integers, every schema value a string."""
    if document is None:
        return "it is not a list of one object"
    histogram = document.get("mlProgramOperationTypeHistogram")
    if not isinstance(histogram, dict) or not all(type(count) is int for count in histogram.values()):
        return "mlProgramOperationTypeHistogram is not a table of numbers"
    entries = document.get("inputSchema")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return "inputSchema is not a list of objects"
    for entry in entries:
        for key, value in entry.items():
            if not isinstance(value, str):
                return f"{key} of the input {entry.get('name')} is not a string"
    return ""


def _image_size(names: Sequence[str], read: Read, problems: list[Finding]) -> tuple[int | None, int | None]:
    """Height and width, which Mochi Diffusion takes from the first input of the VAE's encoder."""
    path = f"VAEEncoder{_BUNDLE}/metadata.json"
    if path not in names:
        return None, None
    entries = _entries(_object(read(path, _WHOLE)))
    shape = entries[0].get("shape") if entries else None
    sizes = re.findall(r"\d+", shape) if isinstance(shape, str) else []
    if len(sizes) != 4 or "0" in sizes:
        sentence = f"Mochi Diffusion wants an image size from it, but its first input has the shape {shape!r}."
        problems.append(Finding(severity="error", path=path, sentence=sentence))
        return None, None
    return int(sizes[2]), int(sizes[3])


def _unet_metadata(names: Sequence[str]) -> str | None:
    paths = (f"{unet}{_BUNDLE}/metadata.json" for unet in _UNETS)
    return next((path for path in paths if path in names), None)


def _schema(document: Mapping[str, Any]) -> set[tuple[Any, Any]]:
    return {(entry.get("name"), entry.get("shape")) for entry in _entries(document)}


def _entries(document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    entries = document.get("inputSchema") if document else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, list) and len(document) == 1 and isinstance(document[0], dict):
        return document[0]
    return None


def _bundles(names: Iterable[str]) -> set[str]:
    """Names of the bundles directly in the folder, without their ending."""
    tops = {parts[0] for parts in map(_parts, names) if len(parts) > 1}
    return {top.removesuffix(_BUNDLE) for top in tops if top.endswith(_BUNDLE)}


def _bundle_levels(parts: tuple[str, ...]) -> list[int]:
    return [at for at, part in enumerate(parts[:-1]) if part.endswith(_BUNDLE)][:1]


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def _missing(path: str, why: str) -> Finding:
    return Finding(severity="error", path=path, sentence=f"It is missing. {why}")


def _sorted(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, each finding once."""
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(set(found), key=lambda one: (order[one.severity], one.path, one.sentence)))
