"""How Mochi Diffusion reads a folder of models, from its source (`SDModel.swift`): the rules for its metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from hubpub.release.findings import BUNDLE, WHOLE, Finding, Read, entries_of, metadata_of, missing

SPLIT_KEY: Final = "Ios16.einsum"
_UNETS: Final = ("Unet", "UnetChunk1", "ControlledUnet", "MultiModalDiffusionTransformer")  # in Mochi's order


@dataclass(frozen=True, kw_only=True)
class MochiView:
    """Mochi Diffusion's view of a folder of models; sizes in pixels, None if unknown."""

    attention: Literal["original", "split_einsum"]
    xl: bool
    width: int | None
    height: int | None


def lint_mochi(names: Sequence[str], read: Read, *, attention: str | None = None) -> Iterator[Finding]:
    """Mochi Diffusion shows only models whose metadata it can decode; it selects ControlNets by attention and size."""
    problems: list[Finding] = []
    view = mochi_view(names, read, problems=problems)
    yield from problems
    if view is not None and attention is not None and view.attention != attention.removesuffix("_v2"):
        verb = "has" if view.attention == "split_einsum" else "lacks"
        yield Finding(
            severity="warning",
            path=_unet_metadata(names) or "",
            sentence=f"Mochi Diffusion treats this {attention} model as {view.attention}: it {verb} {SPLIT_KEY}.",
        )


def mochi_view(names: Sequence[str], read: Read, *, problems: list[Finding] | None = None) -> MochiView | None:
    """Mochi Diffusion's view of a folder; None if it would not show the model. Adds the reasons to `problems`."""
    problems = [] if problems is None else problems
    path = _unet_metadata(names)
    if path is None:
        problems.append(missing(f"Unet{BUNDLE}/metadata.json", "Mochi Diffusion does not show a model without it."))
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


def _strict_metadata(path: str, read: Read, problems: list[Finding]) -> dict[str, Any] | None:
    """The document if Swift's decoder accepts it; else None, with the reason in `problems`."""
    document = metadata_of(read(path, WHOLE))
    problem = _swift_problem(document)
    if problem:
        sentence = f"Mochi Diffusion cannot decode it: {problem}."
        problems.append(Finding(severity="error", path=path, sentence=sentence))
        return None
    return document


def _swift_problem(document: dict[str, Any] | None) -> str:
    """Why Swift's decoder refuses it, or "". It needs one object, integer counts and string schema values."""
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
    """Height and width, which Mochi Diffusion reads from the first input of the VAE encoder."""
    path = f"VAEEncoder{BUNDLE}/metadata.json"
    if path not in names:
        return None, None
    entries = entries_of(metadata_of(read(path, WHOLE)))
    shape = entries[0].get("shape") if entries else None
    sizes = re.findall(r"\d+", shape) if isinstance(shape, str) else []
    if len(sizes) != 4 or "0" in sizes:
        sentence = f"Mochi Diffusion reads the image size from its first input, which has the shape {shape!r}."
        problems.append(Finding(severity="error", path=path, sentence=sentence))
        return None, None
    return int(sizes[2]), int(sizes[3])


def _unet_metadata(names: Sequence[str]) -> str | None:
    paths = (f"{unet}{BUNDLE}/metadata.json" for unet in _UNETS)
    return next((path for path in paths if path in names), None)
