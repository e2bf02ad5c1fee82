"""What destinations have in common: they are listed by kind, and say beforehand what is in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubpub.errors import CannotWrite, ConfigError, NoSpace, PreflightError, raise_problems
from hubpub.files.digests import Digests
from hubpub.plan.config import Delivery
from hubpub.remote.destinations import KINDS, Destination, Means, check_address, open_destination
from hubpub.remote.hub import Account, Hub
from hubpub.verbs.publish import publish
from hubpub.verbs.session import Session
from tests.e2e.releases import release, tree
from tests.support.sources import make_source


def _means(tmp_path: Path, account: Account | None = None, **delivery: object) -> Means:
    hub = Hub("http://127.0.0.1:9", "token")
    if account is not None:
        hub.whoami = lambda: account  # type: ignore[method-assign]
    digests = Digests(tmp_path / "digests.json")
    return Means(hub=lambda: hub, digests=digests, delivery=Delivery.model_validate(delivery))


def _open(kind: str, tmp_path: Path, means: Means) -> Destination:
    return open_destination({"file": f"file://{tmp_path / 'out'}", "hf": "me/x"}[kind], means)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_address_and_a_preflight(kind: str, tmp_path: Path) -> None:
    account = Account(name="me", orgs=(), can_write=True)
    destination = _open(kind, tmp_path, _means(tmp_path, account))
    assert destination.url.endswith({"file": "out", "hf": "/me/x"}[kind])
    assert destination.preflight(release(tmp_path, tree(size=10))) == []


def test_a_folder_reports_all_problems_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubpub.files.disk.os.access", lambda place, mode: False)
    monkeypatch.setattr("hubpub.files.disk.SPARE", 1 << 60)
    problems = _open("file", tmp_path, _means(tmp_path)).preflight(release(tmp_path, tree(size=10)))
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
    (problem,) = _open("hf", tmp_path, _means(tmp_path, account)).preflight(release(tmp_path, tree(size=10)))
    assert isinstance(problem, CannotWrite)
    assert words in problem.message


def test_a_pull_request_needs_no_rights(tmp_path: Path) -> None:
    account = Account(name="you", orgs=(), can_write=True)
    destination = _open("hf", tmp_path, _means(tmp_path, account, create_pr=True))
    assert destination.preflight(release(tmp_path, tree(size=10))) == []


def test_what_contradicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pull request"):
        _open("hf", tmp_path, _means(tmp_path, create_pr=True, tag="v1"))


def test_an_unknown_address_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="nothing opens s3://") as caught:
        check_address("s3://bucket/name")
    assert caught.value.hint is not None
    assert "file://, hf://" in caught.value.hint
    for wrong in ("file:///", "no/such/id", "hf://one"):
        with pytest.raises(ConfigError):
            check_address(wrong)
    assert check_address("hf://me/x") == "hf://me/x"


def test_a_new_destination_is_one_module_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """publish opens it by the scheme of the address, and asks for no account."""
    from hubpub.remote import destinations

    source = make_source(tmp_path / "tiny", "sd15")
    monkeypatch.setattr(destinations, "KINDS", {**KINDS, "tree": "hubpub.remote.destinations.folder"})
    place = tmp_path / "served" / "coreml-tiny"
    common = {"attention": ["original"], "formats": ["packages"], "verify": "off"}
    with Session.open(root=tmp_path / "store", endpoint="http://127.0.0.1:9") as session:
        receipt = publish(source, repo_id=f"tree://{place}", session=session, **common)
        again = publish(source, repo_id=f"tree://{place}", session=session, **common)
    assert receipt.url == str(place)
    assert (place / "original/packages/Stable_Diffusion_version_local_tiny_unet.mlpackage/Manifest.json").is_file()
    assert again.nothing_to_do
