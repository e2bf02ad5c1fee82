"""publish: a source, or a folder that convert made, becomes one commit. Config → Receipt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubpub.errors import ConfigError, DigestMismatch, SourceNotFound, raise_problems
from hubpub.files.digest import FileRef
from hubpub.files.paths import check_all
from hubpub.plan.config import Config, Delivery, effective
from hubpub.plan.names import CARD, MANIFEST, SIGNATURE
from hubpub.release.artifact import Artifact
from hubpub.release.outcome import Outcome
from hubpub.release.release import Operation, Release, RemoteState, merge, parse_manifest, variant_of
from hubpub.remote import signing
from hubpub.remote.destinations import (
    Destination,
    Means,
    Receipt,
    changes,
    check_address,
    is_on_hub,
    laid_out,
    open_destination,
    planned_bytes,
    tally,
)
from hubpub.steps.step import Step
from hubpub.verbs.audit import check_release
from hubpub.verbs.convert import make, release
from hubpub.verbs.preparation import flags, planned, prepare, unmade
from hubpub.verbs.session import Session, using


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model's receipt, and the operations that led to it (steps not made yet, in a dry run)."""

    receipt: Receipt
    operations: tuple[Operation, ...]
    dry_run: bool = False
    steps_to_do: tuple[str, ...] = ()
    manifest: Mapping[str, Any] | None = None  # None in a dry run of what is not made yet

    @property
    def nothing_to_do(self) -> bool:
        """Whether the repo already holds this release."""
        return self.receipt.nothing_to_do

    def to_json(self) -> dict[str, Any]:
        """The receipt for programs."""
        receipt = self.receipt
        return {
            "repo_id": receipt.repo_id,
            "url": receipt.url,
            "commit": receipt.commit,
            "pull_request": receipt.pull_request,
            "tag": receipt.tag,
            "nothing_to_do": receipt.nothing_to_do,
            "dry_run": self.dry_run,
            "planned_bytes": receipt.planned_bytes,
            "sent_bytes": receipt.sent_bytes,
            "counts": dict(receipt.operations),
            "steps_to_do": list(self.steps_to_do),
            "operations": [
                {"action": operation.action, "path": operation.path, "bytes": operation.size}
                for operation in changes(self.operations)
            ],
        }


def publish(
    source: str | Path | Outcome,
    *,
    repo_id: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    create_pr: bool = False,
    branch: str | None = None,
    private: bool = False,
    tag: str | None = None,
    prune: bool = False,
    sign: bool = False,
    session: Session | None = None,
    **settings: Any,
) -> Receipt:
    """Publish a source (or an Outcome of `convert`, or a folder that it wrote) in one commit.

    Settings are the keys of hubpub.toml (`attention`, `bits`, `formats`, `license`, …).
    `endpoint="local"` publishes to the embedded Hub.
    Readers of the repo see the old release or the new one, never a mixture.

    Raises the errors of `hubpub.errors`; nothing is published when one is raised, except
    where its sentence says otherwise.
    """
    delivery = Delivery.model_validate(
        {"create_pr": create_pr, "branch": branch, "private": private, "tag": tag, "prune": prune, "sign": sign}
    )
    with using(session, endpoint=endpoint, token=token) as opened:
        if isinstance(source, Outcome):
            return _publish_outcome(source, delivery=delivery, dry_run=dry_run, session=opened).receipt
        if is_converted(Path(source)):
            return publish_folder(
                Path(source), repo_id=repo_id, delivery=delivery, dry_run=dry_run, session=opened
            ).receipt
        config = effective({}, flags({"source": str(source), "to": repo_id, **delivery.model_dump(), **settings}))
        return publish_config(config, dry_run=dry_run, session=opened).receipt


def publish_config(config: Config, *, dry_run: bool, session: Session) -> Published:
    """Plan, check, make and deliver one model."""
    # before any work: a token is needed in the end
    asked = config.to is None or (is_on_hub(config.to) and not dry_run)
    owner = session.hub.whoami().name if asked else None
    prepared = prepare(config, session, owner=owner)
    destination = _destination(prepared.plan.destination, config.delivery, session)
    _preflight(destination, planned(prepared, prepared.plan.steps), delivery=config.delivery, dry_run=dry_run)
    base = destination.current()
    if dry_run and (missing := prepared.missing(session.store)):
        return _foreseen(planned(prepared, prepared.plan.steps), missing, destination, base, signs=config.sign)
    outcome = make(prepared, session)
    made = release(outcome, remote_manifest=base.manifest, prune=config.prune)
    return _deliver(made, destination, base, sign=config.sign, dry_run=dry_run, session=session)


def publish_folder(
    folder: Path, *, repo_id: str | None, delivery: Delivery, dry_run: bool, session: Session
) -> Published:
    """Deliver a folder that `convert` wrote, after checking every file against its manifest."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes()) or {}
    try:
        meant, source = str(manifest["repo_id"]), str(manifest["source"]["name"])
        attentions = ", ".join(manifest["settings"]["attention"])
        check_all(file["path"] for file in manifest["files"])
    except (KeyError, TypeError):
        raise SourceNotFound(
            f"{folder / MANIFEST} is not as `hubpub convert` writes it.", hint="Run `hubpub convert` again."
        ) from None
    destination_id = check_address(repo_id or meant)
    if destination_id.rpartition("/")[2] != meant.rpartition("/")[2]:
        raise ConfigError(
            f"The folder was converted for {meant}, and its archives carry that name.",
            hint=f"Convert it with --to {destination_id}.",
        )
    manifest["repo_id"] = destination_id
    destination = _destination(destination_id, delivery, session)
    _preflight(destination, unmade(destination_id), delivery=delivery, dry_run=dry_run)
    artifacts = tuple(_checked(folder, manifest["files"], session))
    base = destination.current()
    merged = merge(manifest, base.manifest, prune=delivery.prune)
    if merged["files"] == manifest["files"] and (folder / CARD).is_file():
        card = (folder / CARD).read_text(encoding="utf-8")
    else:
        from hubpub.release.card import render

        card = render(merged)
    message = f"{source} as Core ML: {attentions}"
    made = Release(repo_id=destination_id, artifacts=artifacts, manifest=merged, card=card, message=message)
    return _deliver(made, destination, base, sign=delivery.sign, dry_run=dry_run, session=session)


def is_converted(folder: Path) -> bool:
    """Whether a folder is one that `convert` made."""
    return (folder / MANIFEST).is_file()


def _preflight(destination: Destination, planned: Release, *, delivery: Delivery, dry_run: bool) -> None:
    """All that is in the way of delivering, before any work."""
    if dry_run:
        return
    if delivery.sign:
        signing.check()
    raise_problems(destination.preflight(planned))


def _publish_outcome(outcome: Outcome, *, delivery: Delivery, dry_run: bool, session: Session) -> Published:
    destination = _destination(outcome.plan.destination, delivery, session)
    _preflight(destination, unmade(outcome.plan.destination), delivery=delivery, dry_run=dry_run)
    base = destination.current()
    made = release(outcome, remote_manifest=base.manifest, prune=delivery.prune)
    return _deliver(made, destination, base, sign=delivery.sign, dry_run=dry_run, session=session)


def _destination(repo_id: str, delivery: Delivery, session: Session) -> Destination:
    means = Means(hub=lambda: session.hub, digests=session.store.digests, delivery=delivery)
    return open_destination(repo_id, means)


def _deliver(
    made: Release, destination: Destination, base: RemoteState, *, sign: bool, dry_run: bool, session: Session
) -> Published:
    made = _signed(made, base, session, dry_run=dry_run) if sign else made
    with laid_out(made, base) as operations:
        if dry_run:
            receipt = dry_receipt(made.repo_id, operations, url=destination.url, base=base)
        else:
            new = [operation.artifact for operation in changes(operations) if operation.artifact is not None]
            touched = {variant_of(artifact.path) for artifact in new}
            check_release(
                (artifact for artifact in made.artifacts if variant_of(artifact.path) in touched - {None}),
                repo_id=made.repo_id,
            )
            receipt = destination.deliver(made, operations, base=base, progress=session.report.transfer)
        return Published(receipt=receipt, operations=tuple(operations), dry_run=dry_run, manifest=made.manifest)


def _signed(made: Release, base: RemoteState, session: Session, *, dry_run: bool) -> Release:
    """The release with a signature of its manifest, where the repo does not have it; an empty one in a dry run."""
    there = {file.path: file for file in base.files}
    text = made.manifest_text().encode()
    if SIGNATURE in there and MANIFEST in there and there[MANIFEST].digest.is_of_bytes(text):
        return made
    if dry_run:
        return replace(made, signature="")
    signature, signer = signing.sign(text)
    session.report.line(f"Signed by {signer}.")
    return replace(made, signature=signature)


def dry_receipt(repo_id: str, operations: Sequence[Operation], *, url: str, base: RemoteState) -> Receipt:
    """What a dry run would do."""
    return Receipt(
        repo_id=repo_id,
        url=url,
        commit=base.commit,
        operations=tally(operations),
        planned_bytes=planned_bytes(operations),
        sent_bytes=0,
        nothing_to_do=not changes(operations),
    )


def _foreseen(
    planned: Release, missing: Iterable[Step], destination: Destination, base: RemoteState, *, signs: bool
) -> Published:
    """A dry run of what is not made yet."""
    present = {file.path for file in base.files}
    operations = []
    for file in planned.artifacts:
        path = file.path
        there = any(other == path or other.startswith(f"{path}/") for other in present)
        operations.append(Operation(action="changed" if there else "new", path=path, size=file.size))
    texts = (CARD, MANIFEST, SIGNATURE) if signs else (CARD, MANIFEST)
    operations += [Operation(action="changed" if name in present else "new", path=name, size=0) for name in texts]
    receipt = dry_receipt(planned.repo_id, operations, url=destination.url, base=base)
    return Published(
        receipt=receipt,
        operations=tuple(operations),
        dry_run=True,
        steps_to_do=tuple(step.label for step in missing),
    )


def _checked(folder: Path, files: Iterable[dict[str, Any]], session: Session) -> Iterable[Artifact]:
    for file in map(FileRef.from_entry, files):
        path = folder / file.path
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise SourceNotFound(f"{path} is missing.", hint="Run `hubpub convert` again.")
        if not file.is_at(path.resolve(), session.store.digests):
            raise DigestMismatch(f"{path} is not the file that was converted.", hint="Run `hubpub convert` again.")
        yield Artifact(path=file.path, source=path, size=file.size, digest=file.digest)
    session.store.digests.save()
