"""publish: a source, or a folder that convert made, becomes one commit. Config → Receipt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubpub.errors import CannotWrite, ConfigError, DigestMismatch, SourceNotFound
from hubpub.files.paths import check_all
from hubpub.plan.config import Config, effective
from hubpub.plan.names import CARD, MANIFEST, SIGNATURE, Artifact, check_repo_id
from hubpub.release.outcome import Outcome
from hubpub.release.release import Operation, Release, RemoteState, merge, parse_manifest, variant_of
from hubpub.remote import signing
from hubpub.remote.destinations import Receipt, changes, laid_out, planned_bytes, tally
from hubpub.remote.destinations.hub import HubDestination
from hubpub.remote.hub import Account, is_content
from hubpub.verbs.audit import check_release
from hubpub.verbs.convert import make, release
from hubpub.verbs.preparation import Prepared, flags, prepare
from hubpub.verbs.session import Session


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How a release is delivered."""

    dry_run: bool = False
    create_pr: bool = False
    branch: str | None = None
    private: bool = False
    tag: str | None = None
    prune: bool = False
    sign: bool = False

    @classmethod
    def of(cls, config: Config, *, dry_run: bool = False) -> Delivery:
        """What a model's settings say of it."""
        return cls(
            dry_run=dry_run,
            create_pr=config.create_pr,
            branch=config.branch,
            private=config.private,
            tag=config.tag,
            prune=config.prune,
            sign=config.sign,
        )


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

    @property
    def plain(self) -> dict[str, str]:
        """Components that were converted the plain way, and why."""
        components = (self.manifest or {}).get("components", {})
        conversions = {name: component.get("conversion", {}) for name, component in components.items()}
        return {name: str(one["reason"]) for name, one in conversions.items() if one.get("kind") == "plain"}

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
            "plain": self.plain,
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
    Readers of the repo see the old release or the new one, never a mixture.

    Raises the errors of `hubpub.errors`; nothing is published when one is raised, except
    where its sentence says otherwise.
    """
    session = session or Session.open(endpoint=endpoint, token=token)
    delivery = Delivery(
        dry_run=dry_run, create_pr=create_pr, branch=branch, private=private, tag=tag, prune=prune, sign=sign
    )
    with session.store.in_use():
        if isinstance(source, Outcome):
            return _publish_outcome(source, delivery=delivery, session=session).receipt
        if is_converted(Path(source)):
            return publish_folder(Path(source), repo_id=repo_id, delivery=delivery, session=session).receipt
        config = effective({}, flags({"source": str(source), "to": repo_id, **settings}))
        return publish_config(config, delivery=delivery, session=session).receipt


def publish_config(config: Config, *, delivery: Delivery, session: Session) -> Published:
    """Plan, check, make and deliver one model."""
    _check_signing(delivery)
    account = None
    if config.to is None or not delivery.dry_run:
        account = session.hub.whoami()  # before any work: a token is needed in the end
    prepared = prepare(config, session, owner=account.name if account else None)
    if account is not None and not delivery.dry_run:
        check_rights(account, prepared.plan.destination, create_pr=delivery.create_pr)
    destination = _destination(prepared.plan.destination, delivery, session)
    base = destination.current()
    missing = prepared.missing(session.store)
    if delivery.dry_run and missing:
        return _foreseen(prepared, base, delivery, session)
    outcome = make(prepared, session)
    made = release(outcome, remote_manifest=base.manifest, prune=delivery.prune)
    return _deliver(made, destination, base, delivery=delivery, session=session)


def publish_folder(folder: Path, *, repo_id: str | None, delivery: Delivery, session: Session) -> Published:
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
    destination_id = check_repo_id(repo_id or meant)
    if destination_id.rpartition("/")[2] != meant.rpartition("/")[2]:
        raise ConfigError(
            f"The folder was converted for {meant}, and its archives carry that name.",
            hint=f"Convert it with --to {destination_id}.",
        )
    manifest["repo_id"] = destination_id
    _check_signing(delivery)
    if not delivery.dry_run:
        check_rights(session.hub.whoami(), destination_id, create_pr=delivery.create_pr)
    artifacts = tuple(_checked(folder, manifest["files"], session))
    destination = _destination(destination_id, delivery, session)
    base = destination.current()
    merged = merge(manifest, base.manifest, prune=delivery.prune)
    if merged["files"] == manifest["files"] and (folder / CARD).is_file():
        card = (folder / CARD).read_text(encoding="utf-8")
    else:
        from hubpub.release.card import render

        card = render(merged)
    message = f"{source} as Core ML: {attentions}"
    made = Release(repo_id=destination_id, artifacts=artifacts, manifest=merged, card=card, message=message)
    return _deliver(made, destination, base, delivery=delivery, session=session)


def is_converted(folder: Path) -> bool:
    """Whether a folder is one that `convert` made."""
    return (folder / MANIFEST).is_file()


def check_rights(account: Account, repo_id: str, *, create_pr: bool = False) -> None:
    """Whether the token may write there, as far as the Hub tells beforehand."""
    owner = repo_id.partition("/")[0]
    if account.only not in (None, repo_id):
        raise CannotWrite(
            f"The token is for {account.only} alone, and the destination is {repo_id}.",
            hint=f"Set HF_OIDC_RESOURCE to {repo_id}.",
        )
    if account.can_write is False:
        raise CannotWrite(
            f"The token of {account.name} may only read.", hint="Make one that may write in the Hub's settings."
        )
    if owner not in (account.name, *account.orgs) and not create_pr:
        raise CannotWrite(
            f"{account.name} may not write to {repo_id}: it belongs to {owner}.",
            hint=f"Publish to {account.name}/{repo_id.partition('/')[2]}, or propose it with --create-pr.",
        )


def _check_signing(delivery: Delivery) -> None:
    """Whether the manifest can be signed in the end, as far as can be known beforehand."""
    if delivery.sign and not delivery.dry_run:
        signing.check()


def _publish_outcome(outcome: Outcome, *, delivery: Delivery, session: Session) -> Published:
    _check_signing(delivery)
    destination = _destination(outcome.plan.destination, delivery, session)
    base = destination.current()
    made = release(outcome, remote_manifest=base.manifest, prune=delivery.prune)
    return _deliver(made, destination, base, delivery=delivery, session=session)


def _destination(repo_id: str, delivery: Delivery, session: Session) -> HubDestination:
    return HubDestination(
        session.hub,
        repo_id,
        private=delivery.private,
        branch=delivery.branch,
        create_pr=delivery.create_pr,
        tag=delivery.tag,
    )


def _deliver(
    made: Release, destination: HubDestination, base: RemoteState, *, delivery: Delivery, session: Session
) -> Published:
    made = _signed(made, base, delivery, session)
    with laid_out(made, base) as operations:
        if delivery.dry_run:
            receipt = dry_receipt(made.repo_id, operations, session, base)
        else:
            new = [operation.artifact for operation in changes(operations) if operation.artifact is not None]
            touched = {variant_of(artifact.path_in_repo) for artifact in new}
            check_release(
                (artifact for artifact in made.artifacts if variant_of(artifact.path_in_repo) in touched - {None}),
                repo_id=made.repo_id,
            )
            receipt = destination.deliver(made, operations, base=base, progress=session.report.transfer)
        return Published(
            receipt=receipt, operations=tuple(operations), dry_run=delivery.dry_run, manifest=made.manifest
        )


def _signed(made: Release, base: RemoteState, delivery: Delivery, session: Session) -> Release:
    """The release with a signature of its manifest, where one is wanted and the repo has none; empty in a dry run."""
    there = {file.path: file for file in base.files}
    text = made.manifest_text().encode()
    done = SIGNATURE in there and MANIFEST in there and is_content(text, there[MANIFEST])
    if not delivery.sign or done:
        return made
    if delivery.dry_run:
        return replace(made, signature="")
    signature, signer = signing.sign(text)
    session.report.line(f"Signed by {signer}.")
    return replace(made, signature=signature)


def dry_receipt(repo_id: str, operations: Sequence[Operation], session: Session, base: RemoteState) -> Receipt:
    """What a dry run would do."""
    return Receipt(
        repo_id=repo_id,
        url=session.hub.url(repo_id),
        commit=base.commit,
        operations=tally(operations),
        planned_bytes=planned_bytes(operations),
        sent_bytes=0,
        nothing_to_do=not changes(operations),
    )


def _foreseen(prepared: Prepared, base: RemoteState, delivery: Delivery, session: Session) -> Published:
    """A dry run of what is not made yet: where files will go, with estimated sizes; their digests are not known."""
    plan = prepared.plan
    present = {file.path for file in base.files}
    sizes = {step.key: step.size for step in plan.steps}
    operations = []
    for target in plan.targets:
        there = any(path == target.path_in_repo or path.startswith(target.path_in_repo + "/") for path in present)
        size = sizes.get(getattr(target.given, "key", ""), 0)
        operations.append(Operation(action="changed" if there else "new", path=target.path_in_repo, size=size))
    texts = (CARD, MANIFEST, SIGNATURE) if delivery.sign else (CARD, MANIFEST)
    operations += [Operation(action="changed" if name in present else "new", path=name, size=0) for name in texts]
    receipt = dry_receipt(plan.destination, operations, session, base)
    todo = tuple(step.label for step in prepared.missing(session.store))
    return Published(receipt=receipt, operations=tuple(operations), dry_run=True, steps_to_do=todo)


def _checked(folder: Path, files: Iterable[dict[str, Any]], session: Session) -> Iterable[Artifact]:
    for file in files:
        path = folder / file["path"]
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise SourceNotFound(f"{path} is missing.", hint="Run `hubpub convert` again.")
        if path.stat().st_size != file["size"] or session.store.digests.of(path) != file["sha256"]:
            raise DigestMismatch(f"{path} is not the file that was converted.", hint="Run `hubpub convert` again.")
        yield Artifact(path_in_repo=file["path"], path=path, size=file["size"], sha256=file["sha256"])
    session.store.digests.save()
