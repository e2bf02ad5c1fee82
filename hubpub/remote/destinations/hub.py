"""A repo of the Hub as a destination: its main branch, another branch, or one pull request."""

from __future__ import annotations

from collections.abc import Sequence

from hubpub.errors import ConfigError
from hubpub.release.release import Operation, Release, RemoteState
from hubpub.remote.destinations import Progress, Receipt, changes, planned_bytes, tally
from hubpub.remote.hub import Hub
from hubpub.remote.hub.publish import Target, deliver


class HubDestination:
    """A model repo. With `create_pr`, all runs add to one open pull request of the token's owner."""

    def __init__(
        self,
        hub: Hub,
        repo_id: str,
        *,
        private: bool = False,
        branch: str | None = None,
        create_pr: bool = False,
        tag: str | None = None,
    ) -> None:
        if create_pr and (branch or tag):
            raise ConfigError(
                "A pull request goes to main and cannot be tagged before it is merged.",
                hint="Leave --branch and --tag out, or leave --create-pr out.",
            )
        self._hub = hub
        self._target = Target(repo_id=repo_id, private=private, branch=branch, create_pr=create_pr, tag=tag)

    def current(self) -> RemoteState:
        """What the branch holds, or the pull request that an earlier run opened."""
        return self._target.current(self._hub)

    def deliver(
        self,
        release: Release,
        operations: Sequence[Operation],
        *,
        base: RemoteState,
        progress: Progress | None = None,
    ) -> Receipt:
        """One commit. Conflict when the branch is no longer where `base` was read."""
        delivered = deliver(self._hub, self._target, release, changes(operations), base=base, progress=progress)
        return Receipt(
            repo_id=self._target.repo_id,
            url=delivered.pull_request or self._hub.url(self._target.repo_id),
            commit=delivered.commit,
            pull_request=delivered.pull_request,
            tag=self._target.tag,
            operations=tally(operations),
            planned_bytes=planned_bytes(operations),
            sent_bytes=delivered.sent_bytes,
            nothing_to_do=not changes(operations) and not delivered.tagged,
        )
