"""Outcome: what a plan has made; and the manifest that says so. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubpub import __version__
from hubpub.architectures import image_scale
from hubpub.architectures.component import CONTROLNET, LORA, MODEL, REFINER, VAE
from hubpub.engine.store import Entry
from hubpub.plan.licences import licence_file, licence_place, licence_text, strictness
from hubpub.plan.names import IMAGES
from hubpub.plan.plan import Plan, PlannedComponent
from hubpub.plan.settings import Making, Naming, declared
from hubpub.plan.variant import MINIMUM_OS, SPEC_VERSIONS
from hubpub.release.artifact import Artifact
from hubpub.release.release import MANIFEST_FORMAT, variant_of
from hubpub.sources.metadata import Facts
from hubpub.sources.source import Snapshot, Source

# Settings that say how to run, not what to make, or that the manifest holds elsewhere.
_NOT_IN_COMMAND = {"source", "to", "template", "refiner", "controlnet", "vae", "lora"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Every file that a plan has made, and everything that was measured on the way."""

    plan: Plan
    facts: Mapping[str, Facts]  # by the source's name in the plan
    artifacts: tuple[Artifact, ...]
    entries: Mapping[str, Entry]  # step key → what the store holds
    made: frozenset[str] = frozenset()  # keys of the steps that this run made itself
    run: Mapping[str, Any] = field(default_factory=dict)  # what changes by itself: time, CI run
    folder: Path | None = None  # that the tree was written into

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(artifact.size for artifact in self.artifacts)

    def to_json(self) -> dict[str, Any]:
        """The folder, and how much is in it, for programs."""
        return {"path": str(self.folder), "files": len(self.artifacts), "bytes": self.size}


def manifest(outcome: Outcome) -> dict[str, Any]:
    """hubpub.json of this outcome alone (release.merge adds what the repo keeps)."""
    plan, facts, config = outcome.plan, outcome.facts[MODEL], outcome.plan.config
    spec = SPEC_VERSIONS[config.deployment_target]
    height, width = plan.variants[0].latent
    scale = image_scale(facts.configs)
    scales = {adapter.source: adapter.scale for adapter in plan.adapters}
    return {
        "format": MANIFEST_FORMAT,
        "generator": {"name": "hubpub", "version": __version__},
        "repo_id": plan.destination,
        "architecture": plan.architecture.name,
        "title": plan.architecture.title,
        "source": {**_source(outcome.plan.snapshot), "title": facts.title, "author": facts.author},
        "other_sources": {
            name: {
                "what": _WHAT[name.partition("/")[0]],
                "license": licence_text(outcome.facts[name].card),
                **({"scale": scales[name]} if name in scales else {}),
                **_source(one),
            }
            for name, one in plan.sources.items()
            if name != MODEL
        },
        "settings": {
            "attention": [variant.attention for variant in plan.variants],
            "bits": config.bits,
            "latent": [height, width],
            "image": [height * scale, width * scale],
            "batch": config.batch,
            "target": config.deployment_target,
            "specification_version": spec,
            "minimum_os": list(MINIMUM_OS[spec]),
            "verify": plan.verify,
        },
        "scheduler": facts.scheduler_name,
        "scheduler_config": {key: value for key, value in facts.scheduler.items() if not key.startswith("_")},
        "prediction_type": facts.prediction_type,
        "scaling_factor": facts.scaling_factor,
        "drawing": {"steps": plan.drawing.steps, "guidance": plan.drawing.guidance},
        "guidance_embedding": plan.drawing.guidance_embedding,
        "apps": {
            "swift_pipeline": plan.architecture.swift,
            "devices": plan.architecture.devices,
            "input_channels": plan.input_channels,
            "controlnets": _controlnets(plan),
            "refiner": plan.sources[REFINER].source.name if REFINER in plan.sources else None,
        },
        "card": _card(outcome),
        "variants": _variants(outcome.artifacts),
        "files": [artifact.to_entry() for artifact in sorted(outcome.artifacts, key=lambda artifact: artifact.path)],
        "components": {planned.name: _component(planned, outcome) for planned in plan.components},
        "pictures": _pictures(outcome),
        "command": command(outcome),
        "run": dict(outcome.run),
    }


_WHAT = {REFINER: "refiner", CONTROLNET: "ControlNet", VAE: "VAE", LORA: "LoRA"}


def _controlnets(plan: Plan) -> dict[str, str]:
    """By the name under which apps load it, the source of each ControlNet."""
    found = {one.component.bundle(one.source): one.source for one in plan.components if one.component.is_controlnet}
    return {bundle.rpartition("/")[2]: source for bundle, source in found.items()}


def command(outcome: Outcome) -> str:
    """The command that makes this release again."""
    config = outcome.plan.config
    source = outcome.plan.snapshot.source
    words = ["hubpub", "publish", _typed(source), "--to", outcome.plan.destination]
    for name, snapshot in outcome.plan.sources.items():
        if name != MODEL:
            pinned = f"@{snapshot.commit}" if snapshot.commit and snapshot.source.kind != "folder" else ""
            scale = "".join(f"@{one.scale:g}" for one in outcome.plan.adapters if one.source == name and one.scale != 1)
            words += [f"--{name.partition('/')[0]}", _typed(snapshot.source, pinned) + scale]
    commit = outcome.plan.snapshot.commit
    if commit and source.kind != "folder":
        words += ["--revision", commit]
    defaults = {name: info.default for name, info in type(config).model_fields.items()}
    for name, value in config.model_dump(mode="json").items():
        default = defaults[name]
        if name in _NOT_IN_COMMAND or name == "revision" or value in (None, {}, default):
            continue
        if isinstance(default, tuple) and value == list(default):
            continue
        words += _flag(name, value)
    return shlex.join(words)


def _typed(source: Source, pinned: str = "") -> str:
    """A source as it would be typed, with @COMMIT or without; a folder of this machine is known by its name only."""
    match source.kind:
        case "folder":
            return f"./{source.file or source.name.rpartition('/')[2]}"
        case "git":
            return f"git+{source.location}{pinned}" + (f"#{source.file}" if source.file else "")
        case "hub":
            return f"hf:{source.location}/{source.file}{pinned}" if source.file else f"{source.location}{pinned}"


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{declared(Naming, Making)[name].flag}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [word for item in value for word in (flag, str(item))]
    if isinstance(value, dict):
        return [word for key, item in sorted(value.items()) for word in (flag, f"{key}={item:g}")]
    return [flag, str(value)]


def _source(snapshot: Snapshot) -> dict[str, Any]:
    """Where the weights came from; a folder of this machine is known by its name only."""
    source = snapshot.source
    return {
        "kind": source.kind,
        "name": source.name,
        "location": source.location if source.kind == "hub" else snapshot.remote,
        "file": source.file or None,
        "commit": snapshot.commit,
        "dirty": snapshot.dirty,
        "files": [file.to_json() for file in snapshot.files],
    }


def _card(outcome: Outcome) -> dict[str, Any]:
    """The data of the card's front matter."""
    config, facts = outcome.plan.config, outcome.facts[MODEL]
    strictest = max(outcome.facts, key=lambda name: strictness(outcome.facts[name].card.get("license")))
    its = outcome.facts[strictest].card
    data: dict[str, Any] = {"license": config.license or its.get("license")}
    if data["license"] == "other":
        data["license_name"] = licence_text(its)
        data["license_link"] = its.get("license_link")
        if (path := licence_file(its)) is not None:
            source = outcome.plan.sources[strictest].source.name
            data["license_link"] = licence_place(path, None if strictest == MODEL else source)
    models = [one.source.location for one in outcome.plan.sources.values() if one.source.kind == "hub"]
    if models:
        data["base_model"] = models[0] if len(models) == 1 else models
        data["base_model_relation"] = "quantized"
    if based_on := facts.card.get("base_model") if outcome.plan.architecture.swift is None else None:
        data["base_model"] = [*_texts(data.get("base_model")), *_texts(based_on)]
    language = facts.card.get("language")
    if language:
        data["language"] = language
    data |= {
        "library_name": "coreml",
        "pipeline_tag": "text-to-image",
        "tags": ["core-ml", "coreml", "stable-diffusion", "text-to-image"],
    }
    pictures = _pictures(outcome)
    if pictures:
        data["widget"] = [{"text": one["prompt"], "output": {"url": one["release"]}} for one in pictures]
    return {key: value for key, value in data.items() if value is not None}


def _texts(value: Any) -> list[str]:
    """A text or a list of texts, of a card."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _variants(artifacts: Iterable[Artifact]) -> dict[str, Any]:
    """`original/packages` → its number of files and bytes."""
    variants: dict[str, dict[str, Any]] = {}
    for artifact in artifacts:
        name = variant_of(artifact.path)
        if name is not None:
            variant = variants.setdefault(name, {"files": 0, "size": 0})
            variant["files"] += 1
            variant["size"] += artifact.size
            if name.endswith("/zip"):
                variant["path"] = artifact.path
    return dict(sorted(variants.items()))


def _component(planned: PlannedComponent, outcome: Outcome) -> dict[str, Any]:
    """What is known of one component: bits, bytes, the measurements of its steps, and what each step took."""
    entries = outcome.entries
    weights = outcome.plan.step(planned.weights)
    steps = {
        "weights": planned.weights,
        "package": planned.package,
        "readback": planned.readback,
        "measure": planned.measure,
        "compile": planned.compile,
    }
    compiled = entries[planned.compile].measurements if planned.compile else None
    return {
        "title": planned.component.title,
        "coreml_name": planned.component.bundle(planned.source),
        "bits": weights.params["bits"],
        "floats": planned.component.read_config(weights.params["config"]).floats,
        "size": entries[planned.package].size,
        "program": _without(entries[planned.package].measurements),
        "weights": _without(entries[planned.weights].measurements),
        "verification": _verification(planned, outcome),
        "compiler": compiled["compiler"] if compiled else None,
        "compiler_version": compiled["compiler_version"] if compiled else None,
        "unverified_forms": compiled["unverified"] if compiled else [],
        "steps": {
            name: {"seconds": entries[key].seconds, "peak_memory": entries[key].measurements.get("peak_memory")}
            for name, key in steps.items()
            if key is not None
        },
    }


def _pictures(outcome: Outcome) -> list[dict[str, Any]]:
    """The pictures that were drawn: prompt and settings, paths in the repo, PSNR against the source's."""
    if outcome.plan.sample is None:
        return []
    drawn = outcome.entries[outcome.plan.sample].measurements["pictures"]
    return [
        {**picture, "source": f"{IMAGES}/{picture['source']}", "release": f"{IMAGES}/{picture['release']}"}
        for picture in drawn
    ]


def _verification(planned: PlannedComponent, outcome: Outcome) -> dict[str, Any]:
    """What the gates measured; `kind` is that of the strongest one that the component has passed."""
    key = planned.measure or planned.readback
    if key is None:
        return {"kind": "not verified"}
    kind = outcome.plan.verify if planned.measure else "weights"
    verification = {"kind": kind, **_without(outcome.entries[key].measurements)}
    if planned.measure and planned.readback:
        verification["weights"] = _without(outcome.entries[planned.readback].measurements)
    return verification


def _without(measurements: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measurements.items() if key != "peak_memory"}
