"""The Hub's errors as ours; waits that end; nothing secret in what is said."""

from __future__ import annotations

import errno
import logging
import threading
import time
from contextlib import suppress
from email.utils import formatdate

import httpx2
import pytest
from huggingface_hub import errors as theirs
from hypothesis import given
from hypothesis import strategies as st

from hubpub import errors
from hubpub.remote.hub import session
from hubpub.remote.hub.client import _account, front_matter
from hubpub.remote.hub.translate import Side, explain, translated

TOKEN = "hf_abcdefghijklmnop"
ENDPOINT = "https://hub.example"
XET = "Network error: Request error: HTTP status client error ({}), domain: https://cas.example/v1"


def answer(
    status: int,
    kind: type[theirs.HfHubHTTPError] = theirs.HfHubHTTPError,
    message: str = "no",
    headers: dict[str, str] | None = None,
) -> theirs.HfHubHTTPError:
    request = httpx2.Request("GET", f"{ENDPOINT}/api", headers={"Authorization": f"Bearer {TOKEN}"})
    response = httpx2.Response(status, request=request, headers=headers)
    return kind(f"{status} {message}", response=response, server_message=message)


def wrapped(cause: Exception) -> RuntimeError:
    error = RuntimeError(f"Error while uploading: {cause}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "source", "fetch", "write"),
    [
        (answer(403, theirs.GatedRepoError), errors.AccessDenied, errors.AccessDenied, errors.AccessDenied),
        (answer(404, theirs.RepositoryNotFoundError), errors.SourceNotFound, errors.FetchError, errors.UploadFailed),
        (answer(404, theirs.RevisionNotFoundError), errors.SourceNotFound, errors.FetchError, errors.UploadFailed),
        (answer(404, theirs.RemoteEntryNotFoundError), errors.SourceNotFound, errors.FetchError, errors.UploadFailed),
        (answer(401), errors.AccessDenied, errors.AccessDenied, errors.CannotWrite),
        (answer(403), errors.AccessDenied, errors.AccessDenied, errors.CannotWrite),
        (answer(409), errors.SourceError, errors.FetchError, errors.Conflict),
        (answer(412), errors.SourceError, errors.FetchError, errors.Conflict),
        (answer(413), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (answer(500), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (httpx2.ReadTimeout("slow"), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (httpx2.ConnectError("refused"), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (ConnectionError("xet"), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (ConnectionError(XET.format("403 Forbidden")), errors.SourceError, errors.FetchError, errors.CannotWrite),
        (ConnectionError(XET.format("404 Not Found")), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (session.TooBusy(600), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (theirs.OfflineModeIsEnabled("x"), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (theirs.LocalTokenNotFoundError("x"), errors.CannotWrite, errors.CannotWrite, errors.CannotWrite),
        (theirs.HFValidationError("Repo id must…"), errors.ConfigError, errors.ConfigError, errors.ConfigError),
        (OSError(errno.ENOSPC, "No space left"), errors.NoSpace, errors.NoSpace, errors.NoSpace),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            errors.CannotWrite,
            errors.CannotWrite,
            errors.CannotWrite,
        ),
        (PermissionError("xet"), errors.SourceError, errors.FetchError, errors.CannotWrite),
        (ValueError("malformed"), errors.SourceError, errors.FetchError, errors.UploadFailed),
        (wrapped(answer(403)), errors.AccessDenied, errors.AccessDenied, errors.CannotWrite),
        (wrapped(httpx2.WriteError("gone")), errors.SourceError, errors.FetchError, errors.UploadFailed),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{type(value).__name__} {value}",
)
def test_table(error: Exception, source: type, fetch: type, write: type) -> None:
    wanted: dict[Side, type] = {"source": source, "fetch": fetch, "write": write}
    for side, kind in wanted.items():
        problem = explain(error, side, repo_id="a/b", endpoint=ENDPOINT, doing="committing")
        assert type(problem) is kind
        assert problem.message.endswith(".")
        assert problem.hint
        assert "\n" not in problem.message


def test_gated_says_where_and_how() -> None:
    problem = explain(answer(403, theirs.GatedRepoError), "source", repo_id="a/b", endpoint=ENDPOINT)
    assert "terms" in problem.message
    assert f"{ENDPOINT}/a/b" in problem.hint
    assert "hf auth login" in problem.hint


@pytest.mark.parametrize(
    "echo", [f"your token {TOKEN} is bad", f"Authorization: Bearer {TOKEN}", "secret-of-another-form"]
)
def test_no_secret_in_messages_notes_or_context(echo: str) -> None:
    token = TOKEN if TOKEN in echo else "secret-of-another-form"
    with (
        pytest.raises(errors.CannotWrite) as caught,
        translated("write", repo_id="a/b", endpoint=ENDPOINT, token=token),
    ):
        raise answer(403, message=echo)
    error = caught.value
    for text in (str(error), error.message, error.hint, *error.__notes__, str(error.__context__), repr(error)):
        assert token not in text
    assert error.__suppress_context__
    assert error.__cause__ is None


def test_our_own_errors_pass_unchanged() -> None:
    given = errors.NoSpace("Full.", hint="Free some.")
    with pytest.raises(errors.NoSpace) as caught, translated("write", repo_id="a/b", endpoint=ENDPOINT):
        raise given
    assert caught.value is given


@given(st.text(alphabet="abcXYZ019_", min_size=6), st.text(), st.text())
def test_scrub(secret: str, before: str, after: str) -> None:
    assert f"hf_{secret}" not in session.scrub(f"{before}hf_{secret}{after}")


def test_scrub_urls() -> None:
    text = session.scrub("GET https://me:pass@x.example/a?X-Amz-Signature=abc&b=c failed: Bearer abc.def-g")
    assert text == "GET https://x.example/a failed: Bearer …"


def test_logs_of_the_client_hold_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    session.install()
    for handler in logging.getLogger("huggingface_hub").handlers:
        record = logging.LogRecord("huggingface_hub", logging.ERROR, "f", 1, "sent %s", (TOKEN,), None)
        assert handler.filter(record)
        assert TOKEN not in record.getMessage()


class TestPatience:
    """Retries: which, how long, how often."""

    @pytest.fixture(autouse=True)
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """Time that passes by sleeping only; the waits."""
        waits: list[float] = []
        monkeypatch.setattr(session.time, "sleep", waits.append)
        monkeypatch.setattr(session.time, "monotonic", lambda: sum(waits))
        monkeypatch.setattr(session, "_reached", threading.Event())
        session._reached.set()
        return waits

    def test_until_it_works(self, clock: list[float]) -> None:
        trouble = iter([answer(503), httpx2.ReadTimeout("x"), httpx2.WriteError("x"), wrapped(answer(500)), None])

        def call() -> str:
            error = next(trouble)
            if error is not None:
                raise error
            return "done"

        assert session.patiently(call) == "done"
        assert len(clock) == 4
        assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(clock))

    def test_gives_up_in_time(self, clock: list[float]) -> None:
        def call() -> None:
            raise answer(503)

        with pytest.raises(theirs.HfHubHTTPError):
            session.patiently(call, patience=60)
        assert 30 < sum(clock) <= 60

    def test_gives_up_soon_where_no_hub_has_ever_answered(self, clock: list[float]) -> None:
        def call() -> None:
            raise httpx2.ConnectError("no network")

        session._reached.clear()
        with pytest.raises(httpx2.ConnectError):
            session.patiently(call)
        assert sum(clock) <= 10

    @pytest.mark.parametrize("error", [answer(400), answer(401), answer(404), answer(412), RuntimeError("x"),
                                       theirs.OfflineModeIsEnabled("x"), httpx2.ProxyError("x")])  # fmt: skip
    def test_at_once_where_it_cannot_help(self, error: Exception, clock: list[float]) -> None:
        def call() -> None:
            raise error

        with pytest.raises(type(error)):
            session.patiently(call)
        assert clock == []

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7),
            ({"Retry-After": "in 30 s, as a date"}, 29),
            ({"RateLimit": '"api";r=0;t=12'}, 12),
        ],
    )
    def test_waits_as_asked(self, headers: dict[str, str], seconds: float, clock: list[float]) -> None:
        if not headers.get("Retry-After", "0").isdigit():
            headers = {"Retry-After": formatdate(time.time() + 30, usegmt=True)}
        wait = session.wait_before_retry(answer(429, headers=headers), 1.0)
        assert wait == pytest.approx(seconds, abs=1.6)

    def test_a_long_wait_is_refused_before_the_client_sleeps(self) -> None:
        response = answer(429, headers={"Retry-After": "7200"}).response
        with pytest.raises(session.TooBusy, match="7200"):
            session._refuse_long_wait(response)
        session._refuse_long_wait(answer(429, headers={"Retry-After": "5"}).response)
        session._refuse_long_wait(answer(200, headers={"Retry-After": "7200"}).response)


@pytest.mark.parametrize(
    ("access", "can_write"),
    [
        ({"role": "write"}, True),
        ({"role": "read"}, False),
        ({"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.write"]}]}}, True),
        ({"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read"]}]}}, None),
        ({}, None),
    ],
)
def test_account(access: dict[str, object], can_write: bool | None) -> None:
    account = _account({"name": "me", "orgs": [{"name": "us"}, {}], "auth": {"accessToken": access}})
    assert (account.name, account.orgs, account.can_write) == ("me", ("us",), can_write)


def test_account_without_a_name() -> None:
    with pytest.raises(errors.CannotWrite):
        _account({"type": "app"})


def test_front_matter() -> None:
    assert front_matter("---\nlicense: mit\n---\n# x") == {"license": "mit"}
    assert front_matter("# no front matter") == {}
    assert front_matter("---\n---\n") == {}
    for bad in (
        "---\nlicense: mit\n",
        "---\n- a\n---\n",
        "---\na: [\n---\n",
        "---\na: !!python/object:os.system x\n---\n",
    ):
        with pytest.raises(errors.CardInvalid):
            front_matter(bad)


@given(st.text())
def test_front_matter_takes_any_text(text: str) -> None:
    for card in (text, f"---\n{text}\n---\n"):
        with suppress(errors.CardInvalid):
            assert isinstance(front_matter(card), dict)
