"""An untrusted manifest as plain values: known types, bounded lengths, printable text. Pure functions.

`release.parse_manifest` checks only the fields that hubpub needs. This module drops every other
value that has the wrong type or is out of bounds; pages show it as unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hubpub.release.release import variant_of

# steps of this version, then those in manifests before 0.2
STEPS = ("weights", "package", "readback", "measure", "compile", "export", "plain", "fill", "verify")
MAX_TEXT = 300  # characters of one value; a command may have ten times as many
MAX_FILES, MAX_COMPONENTS, MAX_TENSORS = 4000, 24, 1500
# Larger values mean "identical" (200 stands for exact) and would flatten a chart.
_MAX_DB = 200.0


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Time in seconds and peak memory in bytes of a step; None if not measured."""

    seconds: float | None
    peak_memory: float | None


@dataclass(frozen=True, kw_only=True)
class Component:
    """One component: sizes in bytes, quality in dB."""

    name: str
    bits: int | None
    size: float | None
    whole_size: float | None  # with 16 bits per weight, computed from the number of weights
    checked: str  # kind of the verification
    summary: str  # result of the verification
    weights: str  # result of reading the weights back, if that is a separate check
    psnr: float | None  # of its outputs
    psnr_before: float | None  # of its outputs before palettization, at fp16
    lowest_snr: float | None
    snr: tuple[tuple[str, float], ...]  # tensor, dB
    compiler: str
    steps: Mapping[str, StepCost]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One variant: number of files, bytes, and bytes with 16 bits per weight."""

    name: str
    files: float | None
    size: float | None
    whole_size: float | None


@dataclass(frozen=True, kw_only=True)
class ManifestView:
    """The values of a manifest that a page shows."""

    repo_id: str
    title: str
    bits: int | None
    size: float
    facts: Mapping[str, str]
    provenance: Mapping[str, str]
    command: str
    variants: tuple[Variant, ...]
    components: tuple[Component, ...]
    files: tuple[Mapping[str, Any], ...]
    left_out: int  # number of files beyond MAX_FILES
    sources: tuple[Mapping[str, Any], ...] = field(default=())

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> ManifestView:
        """The view of a manifest that `parse_manifest` has accepted."""
        settings, source = _table(manifest.get("settings")), _table(manifest.get("source"))
        listed = list(_table(manifest.get("components")).items())[:MAX_COMPONENTS]
        components = tuple(_component(text(name), _table(value)) for name, value in listed)
        files = manifest["files"]
        shown = sorted(files, key=lambda file: str(file["path"]))[:MAX_FILES]
        return cls(
            repo_id=text(manifest.get("repo_id")) or "a release",
            title=text(manifest.get("title")),
            bits=_integer(settings.get("bits")),
            size=float(sum(min(file["size"], _LARGEST) for file in files)),
            facts=_facts(manifest, settings),
            provenance=_provenance(manifest, source),
            command=text(manifest.get("command"), limit=10 * MAX_TEXT),
            variants=_variants(manifest, components),
            components=components,
            files=tuple(_file(file, "sha256") for file in shown),
            left_out=len(files) - len(shown),
            sources=tuple(_file(_table(row), "digest") for row in _list(source.get("files"))[:MAX_FILES]),
        )


_LARGEST = 1 << 60


def text(value: Any, *, limit: int = MAX_TEXT) -> str:
    """A value as one line of at most `limit` printable characters; empty unless it is text or a number."""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return ""
    whole = value[: limit + 1] if isinstance(value, str) else str(value)
    # Invisible characters could reverse or hide the text after them.
    shown = "".join(character if character.isprintable() else "\ufffd" for character in whole)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def number(value: Any, *, least: float = 0.0, most: float = float(_LARGEST)) -> float | None:
    """The value if it is a finite number from `least` to `most`, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        return None
    return float(value)


def _integer(value: Any) -> int | None:
    checked = number(value, most=64)
    return int(checked) if checked is not None and checked.is_integer() else None


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _component(name: str, row: Mapping[str, Any]) -> Component:
    weights, check = _table(row.get("weights")), _table(row.get("verification"))
    size, stored = number(row.get("size")), _table(weights.get("weights"))
    elements, weight_bytes = number(stored.get("elements")), number(stored.get("bytes"))
    if number(weights.get("palettized")) == 0:
        whole = size  # no compressed tensor
    elif size and elements is not None and weight_bytes is not None:
        whole = size - weight_bytes + 2 * elements
    else:
        whole = None
    snr = tuple(_tensor(pair) for pair in _list(weights.get("snr"))[:MAX_TENSORS] if _is_tensor(pair))
    return Component(
        name=name,
        bits=_integer(row.get("bits")),
        size=size,
        whole_size=whole,
        checked=text(check.get("kind")),
        summary=text(check.get("summary")),
        weights=text(_table(check.get("weights")).get("summary")),
        psnr=_decibels(check.get("psnr")),
        psnr_before=_decibels(check.get("psnr_program", check.get("psnr_fp16"))),  # the second name before 0.2
        lowest_snr=_decibels(check.get("lowest_snr")) or _decibels(weights.get("lowest_snr")),
        snr=snr,
        compiler=text(row.get("compiler")),
        steps={step: _step_cost(value) for step in STEPS if (value := _table(row.get("steps")).get(step)) is not None},
    )


def _decibels(value: Any) -> float | None:
    decibels = number(value, least=-_MAX_DB, most=math.inf)
    return None if decibels is None else min(decibels, _MAX_DB)


def _is_tensor(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and _decibels(pair[1]) is not None


def _tensor(pair: list[Any]) -> tuple[str, float]:
    return text(pair[0]), _decibels(pair[1]) or 0.0


def _step_cost(value: Any) -> StepCost:
    row = _table(value)
    return StepCost(seconds=number(row.get("seconds")), peak_memory=number(row.get("peak_memory")))


def _variants(manifest: Mapping[str, Any], components: tuple[Component, ...]) -> tuple[Variant, ...]:
    variants = []
    for name, value in list(_table(manifest.get("variants")).items())[:MAX_COMPONENTS]:
        row = _table(value)
        attention = str(name).partition("/")[0]
        parts = [part for part in components if "/" not in part.name or part.name.endswith(f"/{attention}")]
        # The measured size plus the computed growth of the weights.
        growth = [part.whole_size - part.size for part in parts if part.whole_size is not None and part.size]
        size = number(row.get("size"))
        whole = size + sum(growth) if size is not None and growth and len(growth) == len(parts) else None
        variants.append(Variant(name=text(name), files=number(row.get("files")), size=size, whole_size=whole))
    return tuple(variants)


def _file(row: Mapping[str, Any], digest: str) -> Mapping[str, Any]:
    size = number(row.get("size")) or 0.0
    path = text(row.get("path"), limit=10 * MAX_TEXT)
    return {"path": path, "size": size, "digest": text(row.get(digest)), "variant": variant_of(path)}


def _facts(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    card = _table(manifest.get("card"))
    image = [text(side) for side in _list(settings.get("image"))[:2]]
    systems = [text(system) for system in _list(settings.get("minimum_os"))[:4]]
    facts = {
        "model": text(manifest.get("title")),
        "bits per weight": text(settings.get("bits")),
        "pictures": f"{image[1]}×{image[0]} pixels" if len(image) == 2 else "",
        "needs": " / ".join(systems),
        "prediction type": text(manifest.get("prediction_type")),
        "scheduler of the source": text(manifest.get("scheduler")),
        "licence": text(card.get("license_name")) or text(card.get("license")),
    }
    return {name: value for name, value in facts.items() if value}


def _provenance(manifest: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, str]:
    generator, run = _table(manifest.get("generator")), _table(manifest.get("run"))
    provenance = {
        "source": text(source.get("name")),
        "from": text(source.get("location")),
        "commit of the source": text(source.get("commit")),
        "uncommitted changes": "yes" if source.get("dirty") is True else "",
        "made with": f"{text(generator.get('name'))} {text(generator.get('version'))}".strip(),
        "made at": text(run.get("created")),
    }
    return {name: value for name, value in provenance.items() if value}
