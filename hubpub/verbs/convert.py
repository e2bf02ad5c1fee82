"""convert: a source becomes the tree that publish uploads, verified. Config → Outcome."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hubpub.checkpoints import open_checkpoint
from hubpub.engine.runner import execute
from hubpub.engine.store import Entry
from hubpub.files.digest import Digest
from hubpub.plan.config import Config, effective
from hubpub.plan.plan import Plan
from hubpub.release.artifact import Artifact
from hubpub.release.card import render
from hubpub.release.outcome import Outcome, manifest
from hubpub.release.release import Release, merge
from hubpub.remote.destinations import Destination, Means, Receipt, open_destination, send
from hubpub.steps import FromSource, FromStep, Step, Weights
from hubpub.verbs.preparation import Prepared, flags, preflight, prepare
from hubpub.verbs.session import Session, using


def convert(
    source: str | Path,
    *,
    repo_id: str | None = None,
    attention: Sequence[str] = ("original", "split_einsum_v2"),
    bits: int = 6,
    formats: Sequence[str] = ("packages", "compiled", "zip"),
    out: str | Path | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
    **settings: Any,
) -> Outcome:
    """Convert a source to Core ML and, where `out` is given, write the tree that `publish` uploads there.

    `source` is a diffusers folder, a Hub repo id, `hf:ORG/NAME` or `git+URL`; `repo_id`
    the destination, whose name is part of the archives' names. Other settings are the
    keys of hubpub.toml (`license`, `verify`, `latent_height`, …).

    Raises the errors of `hubpub.errors`: SourceError for a source that cannot be used,
    PreflightError before any work, StepFailed when a step fails.
    """
    given = {"source": str(source), "to": repo_id, "attention": attention, "bits": bits, "formats": formats, **settings}
    with using(session, endpoint=endpoint, token=token) as opened:
        return convert_config(effective({}, flags(given)), out=Path(out) if out else None, session=opened)


def convert_config(config: Config, *, out: Path | None, session: Session) -> Outcome:
    """As `convert`, of one model's settings."""
    prepared = prepare(config, session, owner=None)
    if out is None:
        return make(prepared, session)
    destination = open_destination(f"file://{out}", Means(hub=lambda: session.hub, digests=session.store.digests))
    outcome = make(prepared, session, destination)
    write(outcome, destination, session)
    return replace(outcome, folder=out)


def make(prepared: Prepared, session: Session, destination: Destination | None = None) -> Outcome:
    """Execute a plan, if nothing is in the way here or at `destination`; what the store has is not made again."""
    preflight(prepared, session, destination)
    plan = prepared.plan
    missing = prepared.missing(session.store)
    folders = prepared.folders(missing, session.report.transfer)
    _open_weights(missing, folders)
    entries = execute(
        plan.steps,
        store=session.store,
        sources=folders,
        jobs=session.jobs,
        memory=session.memory,
        report=session.report,
    )
    return Outcome(
        plan=plan,
        facts=prepared.facts,
        artifacts=tuple(_artifacts(plan, entries, folders)),
        entries=entries,
        made=frozenset(step.key for step in missing),
        run=run_facts(),
    )


def release(outcome: Outcome, *, remote_manifest: Mapping[str, Any] | None, prune: bool = False) -> Release:
    """The release of an outcome, merged with what the repo keeps. Pure but for reading the template."""
    merged = merge(manifest(outcome), remote_manifest, prune=prune)
    config = outcome.plan.config
    return Release(
        repo_id=outcome.plan.destination,
        artifacts=outcome.artifacts,
        manifest=merged,
        card=render(merged, template=Path(config.template) if config.template else None),
        message=_message(outcome),
    )


def write(outcome: Outcome, destination: Destination, session: Session) -> Receipt:
    """Write an outcome's tree into a folder: exactly what publish uploads."""
    base = destination.current()
    made = release(outcome, remote_manifest=base.manifest)
    return send(destination, made, base=base, progress=session.report.transfer)


def _open_weights(missing: Iterable[Step], folders: Mapping[str, Path]) -> None:
    """Open every weight file that will be read: damaged and unsafe files are found before the work."""
    for step in missing:
        if isinstance(step, Weights):
            places = {
                name: folders[given.source] / given.path
                for name, given in step.inputs.items()
                if isinstance(given, FromSource)
            }
            open_checkpoint(step.checkpoint, places).close()


def run_facts() -> dict[str, Any]:
    """What changes by itself from run to run: time, versions, the repo that it was run in, and in CI its address."""
    facts: dict[str, Any] = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **dict(_versions())},
    }
    if shutil.which("git"):  # GitPython cannot be imported without it
        from hubpub.sources.git import working_repo

        working = working_repo(Path.cwd())
        if working is not None and working.commit is not None:
            facts["working_repo"] = asdict(working)
    server, repo, run = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    if server and repo and run:
        facts["ci"] = f"{server}/{repo}/actions/runs/{run}"
    return facts


def _versions() -> Iterator[tuple[str, str]]:
    for package in ("numpy", "huggingface_hub", "torch", "coremltools", "diffusers", "transformers"):
        with suppress(PackageNotFoundError):
            yield package, version(package)


def _artifacts(plan: Plan, entries: Mapping[str, Entry], folders: Mapping[str, Path]) -> Iterator[Artifact]:
    for target in plan.targets:
        if isinstance(target.content, FromStep):
            entry = entries[target.content.key]
            for relative, file in entry.under(target.content.path):
                path = f"{target.path_in_repo}/{relative}" if relative else target.path_in_repo
                yield Artifact(path=path, source=entry.payload / file.path, size=file.size, digest=file.digest)
        else:
            here = folders[target.content.source] / target.content.path
            size = here.stat().st_size
            yield Artifact(path=target.path_in_repo, source=here, size=size, digest=Digest.of_file(here))


def _message(outcome: Outcome) -> str:
    plan, snapshot = outcome.plan, outcome.plan.snapshot
    names = ", ".join(variant.attention for variant in plan.variants)
    commit = f"@{snapshot.commit[:12]}" if snapshot.commit else ""
    return f"{snapshot.source.name}{commit} as Core ML: {names}, {plan.config.bits}-bit"
