"""The error responses of the embedded Hub: status, error code and message, as the Hub's clients read them."""

from __future__ import annotations


class Refused(Exception):
    """An error response with X-Error-Code and X-Error-Message. Internal: it never reaches users of hubpub."""

    def __init__(self, status: int, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


def repo_not_found() -> Refused:
    """For a missing repo and for another user's private repo: the Hub does not distinguish them."""
    return Refused(404, "Repository not found", code="RepoNotFound")


def revision_not_found(revision: str) -> Refused:
    return Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str) -> Refused:
    return Refused(404, f"Entry not found: {path}", code="EntryNotFound")


def gated(repo_id: str) -> Refused:
    return Refused(403, f"Access to {repo_id} is restricted and you are not in the authorized list.", code="GatedRepo")


def bad_request(message: str) -> Refused:
    return Refused(400, message)
