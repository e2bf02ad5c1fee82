"""The Hub client's errors → HubpubErrors: what went wrong in a sentence, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import httpx2
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    OIDCError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hubpub.errors import (
    AccessDenied,
    CannotWrite,
    ConfigError,
    Conflict,
    FetchError,
    HubpubError,
    NoSpace,
    SourceError,
    SourceNotFound,
    UploadFailed,
)
from hubpub.files.disk import is_full
from hubpub.remote.hub.session import TooBusy, scrub

Side = Literal["source", "fetch", "write"]

# What a missing thing and a failing network are called on each side.
_MISSING: Final[dict[Side, type[HubpubError]]] = {"source": SourceNotFound, "fetch": FetchError, "write": UploadFailed}
_FAILED: Final[dict[Side, type[HubpubError]]] = {"source": SourceError, "fetch": FetchError, "write": UploadFailed}
_LOG_IN: Final = "log in with `hf auth login`, set HF_TOKEN or pass --token"
# What the client and hf_xet raise. RuntimeError wraps a failed LFS upload; ValueError is a malformed answer.
CLIENT_ERRORS: Final = (
    HfHubHTTPError,
    httpx2.HTTPError,
    httpx2.StreamError,
    TooBusy,
    OSError,
    RuntimeError,
    ValueError,
)
# What the client raises where an answer is JSON, and not what was asked for.
_MALFORMED: Final = (TypeError, KeyError, AttributeError, IndexError, RecursionError)


@contextmanager
def translated(side: Side, *, repo_id: str, endpoint: str, token: str | None = None, doing: str = "") -> Iterator[None]:
    """Run calls of the Hub client; their errors become HubpubErrors without secrets.

    The original is not shown as the cause, since its text may hold the token; its scrubbed
    text is a note of the new error.
    """
    try:
        yield
    except HubpubError:
        raise
    except (*CLIENT_ERRORS, *_MALFORMED) as error:
        if isinstance(error, _MALFORMED):
            problem = _senseless(error, side, endpoint=scrub(endpoint), doing=doing)
        else:
            problem = explain(error, side, repo_id=repo_id, endpoint=scrub(endpoint), doing=doing)
        problem.message = scrub(problem.message, token)
        problem.args = (problem.message,)
        problem.add_note(scrub(f"{type(error).__name__}: {error}", token))
        error.args = tuple(scrub(one, token) if isinstance(one, str) else one for one in error.args)
        raise problem from None


@contextmanager
def trusting(resource: str | None, *, endpoint: str) -> Iterator[None]:
    """Ask for a token, which Trusted Publishing may have to exchange for one of CI's; CannotWrite when it does not."""
    if not resource:
        yield
        return
    try:
        yield
    except OIDCError:
        raise CannotWrite(
            f"HF_OIDC_RESOURCE is set to {resource}, and this job has no identity token of its CI.",
            hint="Give the job `permissions: id-token: write`, or unset HF_OIDC_RESOURCE and use a token.",
        ) from None
    except HfHubHTTPError as error:
        raise CannotWrite(
            f"{scrub(endpoint)} does not trust this job to publish to {resource} (it answered "
            f"{error.response.status_code}).",
            hint="Add the workflow under Trusted Publishers in the repo's settings (it must exist), or use a token.",
        ) from None
    except (httpx2.HTTPError, KeyError, ValueError) as error:
        raise CannotWrite(
            f"No token could be had for {resource} ({scrub(_short(error))}).", hint="Check the network and run again."
        ) from None


def explain(error: BaseException, side: Side, *, repo_id: str, endpoint: str, doing: str = "") -> HubpubError:
    """The HubpubError for an error of the client."""
    if type(error) is RuntimeError and isinstance(error.__cause__, CLIENT_ERRORS):
        error = error.__cause__  # the client wraps the failure of each LFS file
    if isinstance(error, HfHubHTTPError):
        return _answered(error, side, repo_id=repo_id, endpoint=endpoint, doing=doing)
    failed = _FAILED[side]
    match error:
        case LocalTokenNotFoundError():
            return CannotWrite("There is no token for the Hub.", hint=f"To publish, {_LOG_IN}.")
        case OfflineModeIsEnabled() | LocalEntryNotFoundError():
            return failed(
                f"{repo_id} is not all here, and the Hub cannot be asked{_in(doing)}.",
                hint="Unset HF_HUB_OFFLINE, or check the network.",
            )
        case TooBusy():
            minutes = max(1, round(error.seconds / 60))
            return failed(
                f"The Hub limits the rate of requests and asks to wait {minutes} min{_in(doing)}.",
                hint=f"Run the same command again in {minutes} min; what is done stays done.",
            )
        case httpx2.TimeoutException():
            return failed(f"{endpoint} did not answer in time{_in(doing)}.", hint=_AGAIN)
        case ConnectionError() if side == "write" and (problem := _xet(error, repo_id=repo_id, endpoint=endpoint)):
            return problem
        case httpx2.HTTPError() | ConnectionError():
            return failed(f"{endpoint} cannot be reached{_in(doing)} ({_short(error)}).", hint=_AGAIN)
        case HFValidationError():
            return ConfigError(f"{_short(error)}.", hint="A repo id is OWNER/NAME.")
        case OSError(errno=int()):
            return _disk(error, doing)
        case PermissionError() if side == "write":  # of hf_xet; the system's have a number
            return CannotWrite(f"The Hub's storage refused the upload to {repo_id}.", hint=f"To publish, {_LOG_IN}.")
    return failed(f"The Hub client gave up{_in(doing)} ({_short(error)}).", hint=_AGAIN)


def _senseless(error: Exception, side: Side, *, endpoint: str, doing: str) -> HubpubError:
    """The HubpubError for an answer that the client cannot read."""
    return _FAILED[side](
        f"{endpoint} gave an answer that makes no sense{_in(doing)} ({type(error).__name__}: {_short(error)}).",
        hint="Is it the address of a Hub? Run again; if it stays, report what --debug shows.",
    )


def _disk(error: OSError, doing: str) -> HubpubError:
    """The HubpubError for an error of the disk."""
    if is_full(error):
        return NoSpace(f"The disk is full{_in(doing)}.", hint="Free some space and run again.")
    return CannotWrite(
        f"{error.filename or 'A file'} cannot be read or written{_in(doing)}: {error.strerror}.",
        hint="Check the folder's permissions and the disk.",
    )


def _xet(error: ConnectionError, *, repo_id: str, endpoint: str) -> HubpubError | None:
    """The HubpubError for an answer that hf_xet reports as text; None for other texts."""
    text = str(error)
    found = _XET_STATUS.search(text)
    if found is None:
        return None
    if found[1] == "404" and "/xet-write-token/" in text:
        return UploadFailed(
            f"{endpoint} does not take uploads through xet.", hint="Set HF_HUB_DISABLE_XET=1 and run again."
        )
    if found[1] in ("401", "403"):
        return CannotWrite(
            f"The Hub's storage refused the upload to {repo_id} (status {found[1]}).",
            hint=f"Use a token with write access to that repo: {_LOG_IN}.",
        )
    return None


def _answered(error: HfHubHTTPError, side: Side, *, repo_id: str, endpoint: str, doing: str) -> HubpubError:
    """The HubpubError for an HTTP error."""
    match error:
        case GatedRepoError():
            return AccessDenied(
                f"{repo_id} is gated: its terms must be accepted first.",
                hint=f"Open {endpoint}/{repo_id}, accept the terms, then {_LOG_IN}.",
            )
        case RevisionNotFoundError():
            return _MISSING[side](f"{repo_id} has no such revision{_in(doing)}.", hint="Check --revision.")
        case RepositoryNotFoundError():
            return _MISSING[side](
                f"There is no repo {repo_id} at {endpoint}, or it is private.",
                hint=f"Check the name; if it is private, {_LOG_IN}.",
            )
        case EntryNotFoundError():
            return _MISSING[side](f"A file of {repo_id} is missing on the Hub{_in(doing)}.", hint="Run again.")
    return _status(error, side, repo_id=repo_id, endpoint=endpoint, doing=doing)


# hf_xet tells the status of an answer in words only.
_XET_STATUS: Final = re.compile(r"client error \((\d{3}) ")
_AGAIN: Final = "Check the network and run the same command again; what is done stays done."


def _status(error: HfHubHTTPError, side: Side, *, repo_id: str, endpoint: str, doing: str) -> HubpubError:
    status = error.response.status_code
    said = f" ({error.server_message.splitlines()[0][:200]})" if error.server_message else ""
    if status in (401, 403):
        if side == "write":
            return CannotWrite(
                f"The token may not write to {repo_id}{said}.",
                hint=f"Use a token with write access to that repo: {_LOG_IN}.",
            )
        return AccessDenied(f"The token does not open {repo_id}{said}.", hint=f"To get access, {_LOG_IN}.")
    if status in (409, 412) and side == "write":
        return Conflict(
            f"{repo_id} has changed while this run was publishing to it{said}.",
            hint="Run the same command again: it starts from what is there now.",
        )
    if status in (402, 413, 507) and side == "write":
        return UploadFailed(
            f"{endpoint} has no room for this upload{said}.", hint="Free storage in the account or use another owner."
        )
    return _FAILED[side](f"{endpoint} answered {status}{_in(doing)}{said}.", hint=_AGAIN)


def _in(doing: str) -> str:
    return f" while {doing}" if doing else ""


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
