"""Publishing to a repo: everything is uploaded first, then one commit makes it visible, then it is read back.

Unique bytes go first and duplicates and archives after them, so that the Hub's chunk
store finds what it has (files that are uploaded side by side are not compared).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from hubpub.errors import CannotWrite, Conflict, UploadFailed
from hubpub.files.digest import Digest
from hubpub.plan.names import CARD
from hubpub.release.release import Operation, Release, RemoteState, is_same
from hubpub.remote.hub import session
from hubpub.remote.hub.client import Hub, Progress
from hubpub.remote.hub.meter import metering

# Ends the title of our pull requests, by which a later run finds the one to go on with.
PR_MARK = "(hubpub)"

_AddOrOther = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What `deliver` did."""

    commit: str | None
    pull_request: str | None
    sent_bytes: int
    tagged: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where in which repo."""

    repo_id: str
    private: bool = False
    branch: str | None = None
    create_pr: bool = False
    tag: str | None = None

    def current(self, hub: Hub) -> RemoteState:
        """The present state: the open pull request of an earlier run, the branch, or main."""
        main = hub.state(self.repo_id, side="write", missing_ok=True)
        if main is None:
            return RemoteState(repo_id=self.repo_id, commit=None, files=())
        revision = self.revision(hub)
        if revision is None:
            return main
        if self.branch is not None and revision not in _branches(hub, self.repo_id):
            return main  # the branch will start there
        state = hub.state(self.repo_id, revision, side="write")
        assert state is not None
        return state

    def revision(self, hub: Hub) -> str | None:
        """The ref to commit to; None for main or for a pull request that is to be opened."""
        if self.branch is not None:
            return self.branch
        if self.create_pr:
            number = _open_pull_request(hub, self.repo_id)
            return f"refs/pr/{number}" if number is not None else None
        return None


def deliver(
    hub: Hub,
    target: Target,
    release: Release,
    operations: Sequence[Operation],
    *,
    base: RemoteState,
    progress: Progress | None = None,
) -> Delivered:
    """Carry out `operations` (those that change something) as one commit on top of `base`, and read it back.

    Raises CardInvalid, CannotWrite, Conflict or UploadFailed; then the repo shows what it
    showed before, but for a repo that was created.
    """
    if not operations:
        tagged = _tag(hub, target, base.commit) if base.commit else False
        return Delivered(commit=base.commit, pull_request=_pull_request_url(hub, target), sent_bytes=0, tagged=tagged)
    if any(operation.path == CARD for operation in operations):
        hub.validate_card(release.card)
    base = _prepare(hub, target, base)
    _check_tag(hub, target, None)
    revision = target.revision(hub)
    with metering(progress, _total(operations), f"uploading to {target.repo_id}") as meter:
        commit = _upload_and_commit(hub, target, revision, release, operations, base)
    _read_back(hub, target, commit, operations)
    tagged = _tag(hub, target, commit)
    return Delivered(commit=commit, pull_request=_pull_request_url(hub, target), sent_bytes=meter.sent, tagged=tagged)


def _prepare(hub: Hub, target: Target, base: RemoteState) -> RemoteState:
    """Create the repo and the branch where they are missing; the state to commit on."""
    repo_id = target.repo_id
    with hub.asking("write", repo_id, "creating the repo"):
        if base.commit is None:
            session.patiently(lambda: hub.api.create_repo(repo_id, private=target.private or None, exist_ok=True))
            found = hub.state(repo_id, side="write")
            assert found is not None
            if {file.path for file in found.files} - {".gitattributes"} and not base.files:
                raise Conflict(f"{repo_id} was created by somebody else just now.", hint="Run the same command again.")
            base = found
        if target.branch is not None and target.branch != "main":
            session.patiently(
                lambda: hub.api.create_branch(repo_id, branch=str(target.branch), revision=base.commit, exist_ok=True)
            )
    return base


def _upload_and_commit(
    hub: Hub,
    target: Target,
    revision: str | None,
    release: Release,
    operations: Sequence[Operation],
    base: RemoteState,
) -> str:
    repo_id = target.repo_id
    opens = target.create_pr and revision is None
    additions = {operation.path: _addition(operation) for operation in operations if _is_upload(operation)}
    with hub.asking("write", repo_id, "uploading"):
        for group in _groups(operations):
            batch = [additions[operation.path] for operation in group]
            session.patiently(
                partial(
                    hub.api.preupload_lfs_files,
                    repo_id,
                    batch,
                    revision=revision,
                    create_pr=opens,
                    free_memory=False,
                ),
                patience=session.UPLOAD_PATIENCE,
            )
    prepared: list[_AddOrOther] = [_prepared(operation, additions, base) for operation in operations]
    title = f"{release.message.splitlines()[0]} {PR_MARK}" if opens else release.message.splitlines()[0]
    description = "\n".join(release.message.splitlines()[1:]).strip()
    return _commit(hub, target, revision, prepared, (title, description), operations, base)


def _commit(
    hub: Hub,
    target: Target,
    revision: str | None,
    prepared: list[_AddOrOther],
    message: tuple[str, str],
    operations: Sequence[Operation],
    base: RemoteState,
) -> str:
    """Send the commit; after an answer that leaves it open, look whether it landed before it is sent again."""
    repo_id, opens = target.repo_id, target.create_pr and revision is None
    end, pause = time.monotonic() + session.PATIENCE, 1.0
    with hub.asking("write", repo_id, "committing"):
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about the card, which has been validated
                    done = hub.api.create_commit(
                        repo_id,
                        prepared,
                        commit_message=message[0],
                        commit_description=message[1],
                        revision=revision,
                        parent_commit=base.commit,
                        create_pr=opens,
                        num_threads=4,
                    )
                return done.oid
            except (HfHubHTTPError, httpx2.TransportError) as error:
                landed = _landed(hub, target, revision, operations, base)
                if landed is not None:
                    return landed
                wait = session.wait_before_retry(error, pause)
                if wait is None or time.monotonic() + wait > end:
                    raise
            time.sleep(wait)
            pause = min(2 * pause, 20.0)


def _landed(
    hub: Hub, target: Target, revision: str | None, operations: Sequence[Operation], base: RemoteState
) -> str | None:
    """The commit that holds what was sent, if the branch has moved to one; Conflict if it has moved elsewhere."""
    if target.create_pr and revision is None:
        number = _open_pull_request(hub, target.repo_id)
        if number is None:
            return None
        revision = f"refs/pr/{number}"
    now = hub.state(target.repo_id, revision, side="write")
    if now is None or now.commit == base.commit:
        return None
    if not _differences(now, operations):
        return now.commit
    raise Conflict(
        f"{target.repo_id} has changed while this run was publishing to it.",
        hint="Run the same command again: it starts from what is there now; what is uploaded is not sent again.",
    )


def _read_back(hub: Hub, target: Target, commit: str, operations: Sequence[Operation]) -> None:
    """Check that the commit holds every file with its size and digest, and none that was removed."""
    state = hub.state(target.repo_id, commit, side="write")
    wrong = _differences(state, operations) if state is not None else ["everything"]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UploadFailed(
            f"Commit {commit[:8]} of {target.repo_id} does not hold what was sent: {', '.join(wrong[:3])}{more}.",
            hint="Does a .gitignore in the repo keep files out? Run again, or revert that commit.",
        )


def _differences(state: RemoteState, operations: Sequence[Operation]) -> list[str]:
    there = {file.path: file for file in state.files}
    wrong = []
    for operation in operations:
        found = there.get(operation.path)
        artifact = operation.artifact
        if (found is not None) if artifact is None else (found is None or not is_same(artifact, found)):
            wrong.append(operation.path)
    return wrong


def _is_upload(operation: Operation) -> bool:
    return operation.artifact is not None and operation.copy_from is None


def _addition(operation: Operation) -> CommitOperationAdd:
    assert operation.artifact is not None
    addition = CommitOperationAdd(operation.path, str(operation.artifact.source))
    addition.upload_info.sha256 = bytes.fromhex(
        operation.artifact.digest.value
    )  # known: the file is not read for it again
    return addition


def _prepared(operation: Operation, additions: dict[str, CommitOperationAdd], base: RemoteState) -> _AddOrOther:
    if operation.artifact is None:
        return CommitOperationDelete(operation.path, is_folder=False)
    if operation.copy_from is not None:
        revision = operation.copy_revision or base.commit
        return CommitOperationCopy(operation.copy_from, operation.path, src_revision=revision)
    return additions[operation.path]


def _groups(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Uploads in the order that sends each byte once: unique files, then duplicates of them, then archives."""
    uploads = [operation for operation in operations if _is_upload(operation)]
    archives = [operation for operation in uploads if operation.path.endswith(".zip")]
    seen: set[Digest] = set()
    unique: list[Operation] = []
    again: list[Operation] = []
    for operation in uploads:
        if operation.path.endswith(".zip") or operation.artifact is None:
            continue
        (again if operation.artifact.digest in seen else unique).append(operation)
        seen.add(operation.artifact.digest)
    yield from (group for group in (unique, again, archives) if group)


def _total(operations: Sequence[Operation]) -> int:
    return sum({o.artifact.digest: o.size for o in operations if o.artifact is not None and _is_upload(o)}.values())


def _branches(hub: Hub, repo_id: str) -> set[str]:
    with hub.asking("write", repo_id, "listing its branches"):
        return {branch.name for branch in session.patiently(lambda: hub.api.list_repo_refs(repo_id)).branches}


def _tags(hub: Hub, repo_id: str) -> dict[str, str]:
    with hub.asking("write", repo_id, "listing its tags"):
        return {tag.name: tag.target_commit for tag in session.patiently(lambda: hub.api.list_repo_refs(repo_id)).tags}


def _check_tag(hub: Hub, target: Target, commit: str | None) -> bool:
    """Whether the tag is there already, on `commit`; Conflict when it is on another."""
    if target.tag is None:
        return False
    there = _tags(hub, target.repo_id).get(target.tag)
    if there is None or there == commit:
        return there is not None
    raise Conflict(
        f"{target.repo_id} has a tag {target.tag} on another commit ({there[:8]}).",
        hint="Choose another --tag, or delete that one on the Hub.",
    )


def _tag(hub: Hub, target: Target, commit: str | None) -> bool:
    """Tag the commit, if a tag is wanted and missing; whether that was done."""
    if target.tag is None or commit is None or _check_tag(hub, target, commit):
        return False
    name = target.tag
    with hub.asking("write", target.repo_id, "tagging"):
        session.patiently(lambda: hub.api.create_tag(target.repo_id, tag=name, revision=commit, exist_ok=True))
    return _check_tag(hub, target, commit)  # somebody else may have made it in between


def _open_pull_request(hub: Hub, repo_id: str) -> int | None:
    """The number of our own open pull request, the newest if there are several."""
    me = hub.whoami().name
    with hub.asking("write", repo_id, "listing its pull requests"):
        try:
            found: list[Any] = session.patiently(
                lambda: [
                    pull.num
                    for pull in hub.api.get_repo_discussions(repo_id, author=me, discussion_type="pull_request")
                    if pull.is_pull_request
                    and pull.status in ("open", "draft")
                    and pull.author == me
                    and str(pull.title).endswith(PR_MARK)
                ]
            )
        except RevisionNotFoundError:
            raise CannotWrite(f"{repo_id} takes no pull requests.", hint="Leave --create-pr out.") from None
    return max((number for number in found if isinstance(number, int)), default=None)


def _pull_request_url(hub: Hub, target: Target) -> str | None:
    if not target.create_pr:
        return None
    number = _open_pull_request(hub, target.repo_id)
    return f"{hub.url(target.repo_id)}/discussions/{number}" if number is not None else None
