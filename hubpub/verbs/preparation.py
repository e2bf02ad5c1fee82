"""What publishing and converting do first: resolve the source, read its facts, plan, and check this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from hubpub.architectures.component import MODEL
from hubpub.checkpoints.tokenizer import read_tokenizer
from hubpub.engine.runner import cached
from hubpub.engine.store import Store
from hubpub.errors import (
    CannotWrite,
    HubpubError,
    LicenceMissing,
    NoSpace,
    NotEnoughMemory,
    ToolMissing,
    raise_problems,
)
from hubpub.files.digest import Digest
from hubpub.files.disk import free
from hubpub.files.sizes import human
from hubpub.plan.config import Config
from hubpub.plan.licences import forbids_changes
from hubpub.plan.names import default_destination
from hubpub.plan.parts import Parts, bundles, notices, parts_of, source_files, tokenizer_files
from hubpub.plan.plan import Plan
from hubpub.plan.planner import make_plan
from hubpub.release.artifact import Artifact
from hubpub.release.release import Release
from hubpub.remote.destinations import Destination, check_address
from hubpub.sources.metadata import Facts
from hubpub.sources.resolve import Opened, Progress
from hubpub.steps import Compile, Reference, Step
from hubpub.steps.tokenizer import check_rows
from hubpub.verbs.facts import look, read_sources
from hubpub.verbs.session import Session

# Left free for everything else on the machine.
_SPARE_DISK = 500 << 20


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan, and all that it was made from."""

    config: Config
    opened: Mapping[str, Opened]  # sources by name
    facts: Mapping[str, Facts]  # by the same
    plan: Plan

    def missing(self, store: Store) -> list[Step]:
        """The steps that the store has not."""
        return [step for step in self.plan.steps if cached(store, step) is None]

    def folders(self, steps: Sequence[Step], progress: Progress | None) -> dict[str, Path]:
        """By source, a folder of this disk with the files that these steps and the release need (downloaded)."""
        return {
            name: self.opened[name].folder(paths, progress) for name, paths in self.plan.source_files(steps).items()
        }


def prepare(config: Config, session: Session, *, owner: str | None) -> Prepared:
    """Resolve and plan one model; `owner` names the default destination's namespace. Downloads small files only."""
    opened = look(config, session)
    facts = read_sources(config, opened, session.report.transfer)
    names = {name: one.source.name for name, one in opened.items()}
    _check_licences(config, facts, names)
    parts = parts_of(config, facts, names)
    listed = {name: one.paths() for name, one in opened.items()}
    files = source_files(config, parts, listed)
    said = notices(parts, listed)
    if bundles(config) or config.prompts:
        said += _check_tokenizer(config, parts, opened[MODEL])
    snapshots = {name: one.pin(files[name]) for name, one in opened.items()}
    destination = config.to or default_destination(owner or "local", names[MODEL], config.bits)
    check_address(destination)
    for sentence in said:
        session.report.warn(sentence)
    plan = make_plan(
        config,
        parts,
        snapshots,
        destination=destination,
        verify=config.verify or ("numeric" if all(find_spec(name) for name in Reference.NEEDS) else "weights"),
        compiler="portable" if config.compiler == "auto" else config.compiler,
        notices=tuple(said),
    )
    return Prepared(config=config, opened=opened, facts=facts, plan=plan)


def planned(prepared: Prepared, steps: Sequence[Step]) -> Release:
    """The release that a plan leads to: where its files will lie, with no digests; what `steps` make has a size."""
    sizes = {step.key: step.size for step in prepared.plan.steps}
    # in the store a package and its compiled form link to the weights; in a release each has its own
    weights = {key: one.weights for one in prepared.plan.components for key in (one.package, one.compile)}
    counted = {step.key: step.size + sizes.get(weights.get(step.key, ""), 0) for step in steps}
    return unmade(
        prepared.plan.destination,
        (
            Artifact(
                path=target.path_in_repo,
                source=Path(target.path_in_repo),
                size=counted.get(getattr(target.content, "key", ""), 0),
                digest=Digest("sha256", ""),
            )
            for target in prepared.plan.targets
        ),
    )


def unmade(repo_id: str, artifacts: Iterable[Artifact] = ()) -> Release:
    """A release that is not made yet."""
    return Release(repo_id=repo_id, artifacts=tuple(artifacts), manifest={}, card="", message="")


def preflight(prepared: Prepared, session: Session, destination: Destination | None = None) -> None:
    """Raise PreflightError with everything that this machine, and the destination, lack for the plan."""
    missing = prepared.missing(session.store)
    problems = [*_tools(missing), *_space(missing, session.store.root), *_memory(missing)]
    if destination is not None:
        problems += destination.preflight(planned(prepared, missing))
    if prepared.config.compiler == "apple" and any(isinstance(step, Compile) for step in missing):
        problems += _xcode()
    raise_problems(problems)


def _check_licences(config: Config, facts: Mapping[str, Facts], names: Mapping[str, str]) -> None:
    """Each part has a licence, and none forbids that a changed form of it is published."""
    if config.license:
        return
    for name, its in facts.items():
        licence = its.card.get("license")
        if not licence:
            raise LicenceMissing(
                f"{names[name]} names no licence in its {'header or its ' if its.weights else ''}README.md.",
                hint="Say it with --license, for example --license creativeml-openrail-m.",
            )
        if forbids_changes(licence):
            raise LicenceMissing(
                f"The licence of {names[name]}, {licence}, does not allow to publish changed forms of it.",
                hint="Ask its author; with their permission, name the licence of the release with --license.",
            )


def _check_tokenizer(config: Config, parts: Parts, opened: Opened) -> list[str]:
    """Sentences about what is put right in the tokenizer, and about tokens that apps cannot reach. BadTokenizer."""
    folder = parts.architecture.tokenizer
    if folder is None:
        return []
    rows = parts.text_encoder.read(parts.configs(MODEL), config.model_dump()).vocab_size
    if parts.facts[MODEL].weights:
        check_rows(rows)
        return []
    texts = {path.removeprefix(f"{folder}/"): opened.read(path) for path in tokenizer_files(parts, opened.paths())}
    made = read_tokenizer({name: text for name, text in texts.items() if text is not None}, rows=rows, folder=folder)
    said = list(made.notes)
    if made.unreachable:
        said.append(
            f"Apps cannot reach the added tokens {', '.join(made.unreachable)}: Apple's tokenizer forms tokens by "
            "merging letters alone. They are in vocab.json."
        )
    return said


def _tools(missing: Sequence[Step]) -> list[HubpubError]:
    needed = {package for step in missing for package in step.NEEDS}
    absent = sorted(package for package in needed if find_spec(package) is None)
    if not absent:
        return []
    return [
        ToolMissing(
            f"The plan needs {', '.join(absent)}, which {'are' if len(absent) > 1 else 'is'} not installed.",
            hint="Install them with `pip install 'hubpub[numeric]'`, or choose --verify weights.",
        )
    ]


def _xcode() -> list[HubpubError]:
    from hubpub.files.processes import find_coremlcompiler

    try:
        find_coremlcompiler()
    except ToolMissing as error:
        return [error]
    return []


def _space(missing: Sequence[Step], store: Path) -> list[HubpubError]:
    problems: list[HubpubError] = []
    size, there = sum(step.size for step in missing), free(store)
    if size + _SPARE_DISK > there:
        problems.append(
            NoSpace(
                f"{store} has {human(there)} free, and the plan writes about {human(size)} there.",
                hint="Free some space (`hubpub cache prune`), or set HUBPUB_CACHE to a larger disk.",
            )
        )
    if not os.access(store, os.W_OK):
        problems.append(CannotWrite(f"{store} cannot be written.", hint="Choose another folder."))
    return problems


def _memory(missing: Sequence[Step]) -> list[HubpubError]:
    if not missing:
        return []
    largest = max(missing, key=lambda step: step.memory)
    total = psutil.virtual_memory().total
    if largest.memory <= total:
        return []
    return [
        NotEnoughMemory(
            f"{largest.label} needs about {human(largest.memory)} of memory, and this machine has {human(total)}.",
            hint="Use a larger machine" + (", or choose --verify weights." if largest.heavy else "."),
        )
    ]


def flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a verb as settings: those that were given."""
    return {key: value for key, value in given.items() if value is not None}
