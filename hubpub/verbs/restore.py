"""restore: a repo shows an earlier release of its own again, in one commit. The Hub has its large files still."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hubpub.errors import DigestMismatch, PublishError, raise_problems
from hubpub.files.digest import Digest, FileRef
from hubpub.files.repo_ids import check_repo_id
from hubpub.plan.names import CARD, MANIFEST, SIGNATURE
from hubpub.release.artifact import Artifact
from hubpub.release.release import Operation, Release, RemoteState, claimed
from hubpub.remote.destinations import Means, open_destination
from hubpub.remote.hub import Hub
from hubpub.verbs.preparation import unmade
from hubpub.verbs.publish import Published, dry_receipt
from hubpub.verbs.session import Session, using


def restore(
    repo_id: str,
    revision: str,
    *,
    dry_run: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> Published:
    """Bring `main` back to what hubpub had published at a tag or commit; files that hubpub did not publish stay.

    Raises PublishError where that revision is no whole release of hubpub's, and what `publish` raises.
    """
    with using(session, endpoint=endpoint, token=token) as opened:
        return _restore(check_repo_id(repo_id), revision, dry_run=dry_run, session=opened)


def _restore(repo_id: str, revision: str, *, dry_run: bool, session: Session) -> Published:
    hub = session.hub
    destination = open_destination(repo_id, Means(hub=lambda: hub, digests=session.cache.digests))
    if not dry_run:
        raise_problems(destination.preflight(unmade(repo_id)))
    base = destination.current()
    then = hub.state(repo_id, revision, side="write")
    assert then is not None
    with tempfile.TemporaryDirectory(prefix="hubpub-restore-") as folder:
        operations = [*_brought_back(then, base, hub, Path(folder)), *_removed(then, base)]
        card = Path(folder, CARD)
        made = Release(
            repo_id=repo_id,
            artifacts=(),
            manifest=then.manifest or {},
            card=card.read_text(encoding="utf-8") if card.exists() else "",
            message=f"{revision} again ({str(then.commit)[:12]})",
        )
        if dry_run:
            receipt = dry_receipt(repo_id, operations, url=destination.url, base=base)
        else:
            receipt = destination.deliver(made, operations, base=base, progress=session.report.transfer)
    return Published(receipt=receipt, operations=tuple(operations), dry_run=dry_run, manifest=then.manifest)


def _brought_back(then: RemoteState, base: RemoteState, hub: Hub, folder: Path) -> Iterator[Operation]:
    """Every file of the earlier release: there already, copied on the Hub, or (small ones) sent again."""
    there = {file.path: file for file in base.files}
    for file in _released(then):
        action = "new" if file.path not in there else "changed"
        if there.get(file.path) == file:
            yield Operation(action="same", path=file.path, size=file.size)
        elif file.sha256 is not None:
            artifact = Artifact(path=file.path, source=folder, size=file.size, digest=file.digest)
            yield Operation(
                action=action,
                path=file.path,
                size=file.size,
                artifact=artifact,
                copy_from=file.path,
                copy_revision=then.commit,
            )
        else:
            data = hub.read(then.repo_id, then.commit, file.path, limit=file.size, side="write")
            if not file.digest.is_of_bytes(data):
                raise DigestMismatch(f"{file.path} did not arrive as the Hub lists it.", hint="Run again.")
            place = folder / (CARD if file.path == CARD else file.digest.value)
            place.write_bytes(data)
            artifact = Artifact(path=file.path, source=place, size=len(data), digest=Digest.of_bytes(data))
            yield Operation(action=action, path=file.path, size=file.size, artifact=artifact)


def _released(then: RemoteState) -> list[FileRef]:
    """The files of a release; PublishError where it is not whole."""
    if then.manifest is None:
        raise PublishError(
            f"{then.repo_id} at {str(then.commit)[:12]} has no manifest of hubpub: nothing says what to bring back.",
            hint="Name a tag or commit that hubpub has published.",
        )
    listed = {file.path: file for file in then.files}
    wanted = {CARD, MANIFEST, *(file["path"] for file in then.manifest["files"])}
    if SIGNATURE in listed:
        wanted.add(SIGNATURE)
    missing = sorted(wanted - listed.keys())
    if missing:
        raise PublishError(
            f"The release at {str(then.commit)[:12]} is not whole: it lacks {missing[0]}.", hint="Name another."
        )
    return [listed[path] for path in sorted(wanted)]


def _removed(then: RemoteState, base: RemoteState) -> Iterator[Operation]:
    """What the present release has and the earlier one had not."""
    gone = (claimed(base) | {SIGNATURE}) - {file.path for file in _released(then)}
    for file in base.files:
        if file.path in gone:
            yield Operation(action="removed", path=file.path, size=file.size)
