"""A repo of the Hub as a destination: its main branch, another branch, or one pull request."""

from __future__ import annotations

from collections.abc import Sequence

from hubpub.errors import CannotWrite, ConfigError, HubpubError
from hubpub.files.repo_ids import check_repo_id
from hubpub.release.release import Operation, Release, RemoteState
from hubpub.remote.destinations import Means, Progress, Receipt, changes, planned_bytes, tally
from hubpub.remote.hub import Account, Hub
from hubpub.remote.hub.publish import Target, deliver


def destination(address: str, means: Means) -> HubDestination:
    """The repo of that id."""
    how = means.delivery
    return HubDestination(
        means.hub(), address, private=how.private, branch=how.branch, create_pr=how.create_pr, tag=how.tag
    )


def check(address: str) -> None:
    """ConfigError where it is no repo id."""
    check_repo_id(address)


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

    @property
    def url(self) -> str:
        """The repo's page."""
        return self._hub.url(self._target.repo_id)

    def preflight(self, release: Release) -> list[HubpubError]:
        """Whether the token may write there, as far as the Hub says beforehand."""
        del release  # the Hub does not say how much it takes
        try:
            _check_rights(self._hub.whoami(), self._target)
        except CannotWrite as error:
            return [error]
        return []

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
            url=delivered.pull_request or self.url,
            commit=delivered.commit,
            pull_request=delivered.pull_request,
            tag=self._target.tag,
            operations=tally(operations),
            planned_bytes=planned_bytes(operations),
            sent_bytes=delivered.sent_bytes,
            nothing_to_do=not changes(operations) and not delivered.tagged,
        )


def _check_rights(account: Account, target: Target) -> None:
    repo_id = target.repo_id
    owner, _, name = repo_id.partition("/")
    if account.only not in (None, repo_id):
        raise CannotWrite(
            f"The token is for {account.only} alone, and the destination is {repo_id}.",
            hint=f"Set HF_OIDC_RESOURCE to {repo_id}.",
        )
    if account.can_write is False:
        raise CannotWrite(
            f"The token of {account.name} may only read.", hint="Make one that may write in the Hub's settings."
        )
    if owner not in (account.name, *account.orgs) and not target.create_pr:
        raise CannotWrite(
            f"{account.name} may not write to {repo_id}: it belongs to {owner}.",
            hint=f"Publish to {account.name}/{name}, or propose it with --create-pr.",
        )
