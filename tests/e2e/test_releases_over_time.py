"""What becomes of a repo over several publishes: pruned, signed, brought back; and what fetch and verify say of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from typer.testing import CliRunner, Result

from hubpub.cli.app import app
from hubpub.localhub import LocalHub
from hubpub.plan.names import MANIFEST, SIGNATURE
from hubpub.remote import signing
from hubpub.remote.hub import Hub
from tests.e2e.releases import REPO, converted

pytest.importorskip("sigstore")

from tests.support.sigstore_instance import ISSUER, WORKFLOW, running, token

Program = Callable[..., Result]


@pytest.fixture
def program(local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lfs: None) -> Program:
    """Run `hubpub` against this test's Hub, with a store of its own."""
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, [*words, "--endpoint", local.endpoint, "--token", local.token])
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sigstore instance, and a CI job's identity for it."""
    with running(tmp_path) as (_, trust):
        monkeypatch.setenv(signing.TRUST, str(trust))
        monkeypatch.setenv(signing.TOKEN, token())
        yield


def there(hub: Hub, revision: str | None = None) -> dict[str, str]:
    state = hub.state(REPO, revision)
    assert state is not None
    return {file.path: file.digest.value for file in state.files if file.path != ".gitattributes"}


def test_prune_shows_and_then_removes_what_is_no_longer_named(program: Program, hub: Hub, tmp_path: Path) -> None:
    program("publish", converted(tmp_path / "both", "original", "split_einsum"))
    foreign = {"notes.md": b"mine", "split_einsum/packages/mine.txt": b"mine", "images/mine.png": b"mine"}
    additions = [CommitOperationAdd(path, content) for path, content in foreign.items()]
    hub.api.create_commit(REPO, additions, commit_message="Files of mine")
    before = there(hub)
    one = converted(tmp_path / "one", "original")

    program("publish", one)
    assert set(there(hub)) == set(before)  # the other attention stays
    dry = json.loads(program("publish", one, "--prune", "--dry-run", "--json").stdout)
    gone = {path for path in before if path.startswith("split_einsum/")} - set(foreign)
    assert {line["path"] for line in dry["operations"] if line["action"] == "removed"} == gone
    assert len(gone) == 3
    assert set(there(hub)) == set(before)
    program("publish", one, "--prune", "--dry-run", status=0)
    program("publish", one, "--prune", "--dry-run", "--exit-code", status=11)

    program("publish", one, "--prune")
    assert set(there(hub)) == set(before) - gone
    state = hub.state(REPO)
    assert state is not None
    assert state.manifest is not None
    assert set(state.manifest["variants"]) == {"original/packages"}
    program("publish", one, "--prune", "--dry-run", "--exit-code")
    assert "Nothing to do" in program("publish", one, "--prune").stdout


def test_an_earlier_release_is_brought_back_by_its_tag(
    program: Program, local: LocalHub, hub: Hub, tmp_path: Path, mode: str
) -> None:
    seed = os.urandom(8)
    program("publish", converted(tmp_path / "one", "original", seed=(seed, 1)), "--tag", "v1")
    first = there(hub)
    program("publish", converted(tmp_path / "two", "original", "split_einsum", seed=(seed, 2)), "--tag", "v2")
    hub.api.create_commit(REPO, [CommitOperationAdd("notes.md", b"mine")], commit_message="A note")
    second = there(hub)

    shown = program("restore", REPO, "v1", "--dry-run").stdout
    assert "split_einsum/packages/vocab.json" in shown
    assert there(hub) == second
    sent = local.received()
    told = json.loads(program("restore", REPO, "v1", "--json").stdout)
    assert told["counts"]["copied"] == 1
    assert local.received() - sent < 20_000  # the weights have 60,000 bytes
    assert there(hub) == {**first, "notes.md": second["notes.md"]}
    assert hub.api.list_repo_commits(REPO)[0].title.startswith("v1 again")
    assert "Nothing to do" in program("restore", REPO, "v1").stdout
    program("fetch", REPO, "--dest", str(tmp_path / "models"))

    program("restore", REPO, "v2")
    assert there(hub) == second
    program("restore", REPO, "v3", status=7)


def test_nothing_is_sent_that_was_not_asked_for(program: Program, local: LocalHub, tmp_path: Path) -> None:
    """Only `publish` and `restore` write, and not in a dry run."""
    folder = converted(tmp_path / "one", "original")
    program("publish", folder, "--tag", "v1")
    changed = converted(tmp_path / "two", "original", seed=2)
    seen = len(local.requests)
    program("publish", changed, "--dry-run")
    program("restore", REPO, "v1", "--dry-run")
    program("plan", "hf:them/none", status=3)
    program("variants", REPO)
    program("verify", REPO)
    program("audit", REPO)
    program("fetch", REPO, "--dest", str(tmp_path / "models"))
    assert {request.method for request in local.requests[seen:]} == {"GET"}


@pytest.mark.parametrize("broken", ["", "{}", '{"format": 1, "variants": {}, "files": []}', "source", "settings"])
def test_a_folder_whose_manifest_is_not_ours(program: Program, tmp_path: Path, broken: str) -> None:
    folder = converted(tmp_path / "one", "original")
    place = tmp_path / "one" / MANIFEST
    manifest = json.loads(place.read_text())
    place.write_text(json.dumps({**manifest, broken: None}) if broken in manifest else broken)
    assert "is not as `hubpub convert` writes it" in program("publish", folder, status=3).stderr


def test_what_is_no_release_is_not_brought_back(program: Program, hub: Hub) -> None:
    hub.api.create_repo(REPO)
    assert "no manifest" in program("restore", REPO, "main", status=7).stderr


def test_signed_published_fetched_and_verified(program: Program, hub: Hub, tmp_path: Path, identity: None) -> None:
    folder = converted(tmp_path / "one", "original")
    assert SIGNATURE in program("publish", folder, "--sign", "--dry-run").stdout
    program("publish", folder, "--sign", "--tag", "v1")
    assert {MANIFEST, SIGNATURE} <= set(there(hub))
    assert "Nothing to do" in program("publish", folder, "--sign").stdout  # the same manifest keeps its signature
    assert "Nothing to do" in program("publish", folder).stdout

    by_me = ("--identity", WORKFLOW, "--issuer", ISSUER)
    fetched = program("fetch", REPO, "--dest", str(tmp_path / "models"), "--verify-signature", *by_me)
    assert f"Signed by {WORKFLOW}" in fetched.stderr
    told = json.loads(program("fetch", REPO, "--dest", str(tmp_path / "models"), "--verify-signature", "--json").stdout)
    assert told["signed_by"] == {"identity": WORKFLOW, "issuer": ISSUER}
    other = program("fetch", REPO, "--dest", str(tmp_path / "other"), "--identity", "you@example.org", status=8)
    assert "signature" in other.stderr
    assert not (tmp_path / "other").exists()

    assert f"signed by {WORKFLOW}" in program("verify", REPO, *by_me).stdout
    assert "fails" in program("verify", REPO, "--identity", "you@example.org", status=9).stderr
    shutil.copy(tmp_path / "models/vocab.json", tmp_path / "kept")
    shutil.rmtree(tmp_path / "models/A.mlpackage")  # not a package that can be read
    for words, signed in ((by_me, True), (("--identity", "you@example.org"), False)):
        findings = json.loads(program("verify", str(tmp_path / "models"), *words, "--json", status=9).stdout)
        assert (SIGNATURE in [one["path"] for one in findings["findings"]]) is not signed
        assert (findings["signed_by"] is not None) is signed

    changed = converted(tmp_path / "one", "original", seed=2)
    program("publish", changed)  # unsigned: the signature of another manifest must not stay
    assert SIGNATURE not in there(hub)
    assert "is not signed" in program("fetch", REPO, "--verify-signature", status=8).stderr
    program("fetch", REPO, "--revision", "v1", "--dest", str(tmp_path / "v1"), "--verify-signature", *by_me)
    program("restore", REPO, "v1")  # with its signature
    program("fetch", REPO, "--dest", str(tmp_path / "v1"), "--verify-signature", *by_me)


def test_a_signed_release_whose_manifest_was_changed_afterwards(
    program: Program, hub: Hub, tmp_path: Path, identity: None
) -> None:
    program("publish", converted(tmp_path / "one", "original"), "--sign")
    state = hub.state(REPO)
    assert state is not None
    text = hub.read(REPO, state.commit, MANIFEST, limit=1 << 20).replace(b"today", b"later")
    hub.api.create_commit(REPO, [CommitOperationAdd(MANIFEST, text)], commit_message="Tampered")
    refused = program("fetch", REPO, "--verify-signature", "--dest", str(tmp_path / "models"), status=8)
    assert "not good" in refused.stderr
    assert not (tmp_path / "models").exists()
    assert "fails" in program("verify", REPO, "--verify-signature", status=9).stderr
    hub.api.create_commit(REPO, [CommitOperationDelete(MANIFEST)], commit_message="Gone")
    program("fetch", REPO, "--verify-signature", status=8)


def test_a_signed_release_in_another_repo(program: Program, hub: Hub, tmp_path: Path, identity: None) -> None:
    """Bytes and signature are good, and not what was asked for."""
    program("publish", converted(tmp_path / "one", "original"), "--sign")
    state = hub.state(REPO)
    assert state is not None
    other = REPO.replace("tiny", "other")
    hub.api.create_repo(other)
    copies = [
        CommitOperationAdd(file.path, hub.read(REPO, state.commit, file.path, limit=file.size))
        for file in state.files
        if file.path != ".gitattributes"
    ]
    hub.api.create_commit(other, copies, commit_message="Taken")
    program("fetch", other, "--dest", str(tmp_path / "models"))
    assert f"was signed for {REPO}" in program("fetch", other, "--verify-signature", status=8).stderr


def test_a_variant_beside_the_signed_manifest(program: Program, hub: Hub, tmp_path: Path, identity: None) -> None:
    """Files that the manifest does not list are not covered by its signature."""
    program("publish", converted(tmp_path / "one", "original"), "--sign")
    stray = CommitOperationAdd("split_einsum/packages/A.mlpackage/Manifest.json", b"{}")
    hub.api.create_commit(REPO, [stray], commit_message="A stray variant")
    program("fetch", REPO, "--variant", "split_einsum/packages", "--dest", str(tmp_path / "stray"))
    refused = program("fetch", REPO, "--variant", "split_einsum/packages", "--verify-signature", status=8)
    assert "not in the manifest that was signed" in refused.stderr


def test_signed_and_offline(
    program: Program, local: LocalHub, tmp_path: Path, identity: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was verified once can be verified again without the Hub."""
    from huggingface_hub import constants

    program("publish", converted(tmp_path / "one", "original"), "--sign")
    program("fetch", REPO, "--dest", str(tmp_path / "models"), "--verify-signature")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = len(local.requests)
    program("fetch", REPO, "--dest", str(tmp_path / "models"), "--verify-signature")
    assert len(local.requests) == seen


def test_nothing_is_published_that_cannot_be_signed(
    program: Program, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = converted(tmp_path / "one", "original")
    monkeypatch.delenv(signing.TOKEN, raising=False)
    assert "no identity" in program("publish", folder, "--sign", status=7).stderr
    monkeypatch.setattr(signing, "find_spec", lambda name: None)
    assert "hubpub[sign]" in program("publish", folder, "--sign", status=4).stderr
    assert hub.state(REPO, missing_ok=True) is None
