"""What destinations have in common: they are listed by kind, and say beforehand what is in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubpub.errors import CannotWrite, ConfigError, NoSpace, PreflightError, raise_problems
from hubpub.files.digests import Digests
from hubpub.plan.config import Delivery
from hubpub.remote.destinations import KINDS, Destination, Means, open_destination
from hubpub.remote.hub import Account, Hub
from tests.e2e.releases import release, tree


def _means(tmp_path: Path, account: Account | None = None, **delivery: object) -> Means:
    hub = Hub("http://127.0.0.1:9", "token")
    if account is not None:
        hub.whoami = lambda: account  # type: ignore[method-assign]
    digests = Digests(tmp_path / "digests.json")
    return Means(hub=lambda: hub, digests=digests, delivery=Delivery.model_validate(delivery))


def _open(kind: str, tmp_path: Path, means: Means) -> Destination:
    return open_destination(kind, {"folder": str(tmp_path / "out"), "hub": "me/x"}[kind], means)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_address_and_a_preflight(kind: str, tmp_path: Path) -> None:
    account = Account(name="me", orgs=(), can_write=True)
    destination = _open(kind, tmp_path, _means(tmp_path, account))
    assert destination.url.endswith({"folder": "out", "hub": "/me/x"}[kind])
    assert destination.preflight(release(tmp_path, tree(size=10))) == []


def test_a_folder_reports_all_problems_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubpub.files.disk.os.access", lambda place, mode: False)
    monkeypatch.setattr("hubpub.files.disk.SPARE", 1 << 60)
    problems = _open("folder", tmp_path, _means(tmp_path)).preflight(release(tmp_path, tree(size=10)))
    assert [type(problem) for problem in problems] == [CannotWrite, NoSpace]
    with pytest.raises(PreflightError, match="2 things are in the way") as caught:
        raise_problems(problems)
    assert caught.value.problems == tuple(problems)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("account", "words"),
    [
        (Account(name="me", orgs=(), can_write=False), "may only read"),
        (Account(name="you", orgs=("org",), can_write=True), "belongs to me"),
        (Account(name="me", orgs=(), can_write=True, only="me/y"), "for me/y alone"),
    ],
)
def test_a_token_that_may_not_write(account: Account, words: str, tmp_path: Path) -> None:
    (problem,) = _open("hub", tmp_path, _means(tmp_path, account)).preflight(release(tmp_path, tree(size=10)))
    assert isinstance(problem, CannotWrite)
    assert words in problem.message


def test_a_pull_request_needs_no_rights(tmp_path: Path) -> None:
    account = Account(name="you", orgs=(), can_write=True)
    destination = _open("hub", tmp_path, _means(tmp_path, account, create_pr=True))
    assert destination.preflight(release(tmp_path, tree(size=10))) == []


def test_what_contradicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pull request"):
        _open("hub", tmp_path, _means(tmp_path, create_pr=True, tag="v1"))
