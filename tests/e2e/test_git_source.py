"""A git repository as a source: cloned, pinned to a commit, its dirty state recorded."""

from __future__ import annotations

from pathlib import Path

import git
import pytest

from hubpub.errors import ConfigError, SourceNotFound
from hubpub.plan.config import effective
from hubpub.sources.git import describe
from hubpub.verbs.convert import run_facts
from hubpub.verbs.preparation import Prepared, prepare
from hubpub.verbs.session import Session
from tests.support.sources import make_source


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = make_source(tmp_path / "my-model", "sd15")
    with git.Repo.init(folder, initial_branch="main") as made:
        made.git.add(all=True)
        author = git.Actor("A", "a@example.org")
        made.index.commit("first", author=author, committer=author)
        made.create_tag("v1")
        (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
        made.git.add(all=True)
        made.index.commit("second", author=author, committer=author)
    return folder


def _prepare(source: str, tmp_path: Path, **given: str) -> Prepared:
    session = Session.open(root=tmp_path / "store")
    return prepare(effective({}, {"source": source, "verify": "weights", **given}), session, owner=None)


def test_a_clone_is_pinned(repo: Path, tmp_path: Path) -> None:
    prepared = _prepare(f"git+file://{repo}", tmp_path)
    with git.Repo(repo) as origin:
        assert prepared.plan.snapshot.commit == origin.head.commit.hexsha
    assert not prepared.plan.snapshot.dirty
    assert prepared.plan.snapshot.source.name == "local/my-model"
    assert prepared.facts["model"].card["license"] == "mit"


def test_a_revision_of_it(repo: Path, tmp_path: Path) -> None:
    prepared = _prepare(f"git+file://{repo}@v1", tmp_path)
    assert prepared.facts["model"].card["license"] == "creativeml-openrail-m"
    with pytest.raises(SourceNotFound, match="no revision"):
        _prepare(f"git+file://{repo}@v9", tmp_path)


def test_a_clone_follows_its_origin(repo: Path, tmp_path: Path) -> None:
    first = _prepare(f"git+file://{repo}", tmp_path).plan.snapshot.commit
    with git.Repo(repo) as origin:
        author = git.Actor("A", "a@example.org")
        origin.index.commit("third", author=author, committer=author)
    assert _prepare(f"git+file://{repo}", tmp_path).plan.snapshot.commit != first


def test_a_checkout_that_is_dirty_says_so(repo: Path, tmp_path: Path) -> None:
    assert not _prepare(str(repo), tmp_path).plan.snapshot.dirty
    (repo / "note.txt").write_text("changed")
    prepared = _prepare(str(repo), tmp_path)
    assert prepared.plan.snapshot.dirty
    assert prepared.plan.snapshot.commit is not None


def test_the_same_weights_are_the_same_steps(repo: Path, tmp_path: Path) -> None:
    cloned = _prepare(f"git+file://{repo}", tmp_path)
    local = _prepare(str(repo), tmp_path)
    assert [step.key for step in cloned.plan.steps] == [step.key for step in local.plan.steps]


def test_what_cannot_be_cloned(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="cannot clone"):
        _prepare(f"git+file://{tmp_path}/nothing", tmp_path)
    with pytest.raises(ConfigError):
        _prepare("git+ext::sh -c touch% x", tmp_path)


@pytest.mark.parametrize("name", ["tokenizer/vocab.json", "unet/config.json", "README.md", "tokenizer"])
@pytest.mark.parametrize("cloned", [True, False])
def test_a_link_that_leaves_the_checkout_is_refused(repo: Path, tmp_path: Path, name: str, cloned: bool) -> None:
    """Else a repository of others could have a secret of this machine published."""
    outside = tmp_path / "outside"
    (repo / name).rename(outside)
    (repo / name).symlink_to(outside)
    with git.Repo(repo) as made:
        made.git.add("--all")
        made.index.commit("A link")
    with pytest.raises(SourceNotFound, match="leaves the checkout"):
        _prepare(f"git+file://{repo}" if cloned else str(repo), tmp_path)


def test_a_config_that_is_too_large_is_not_read(repo: Path, tmp_path: Path) -> None:
    with (repo / "README.md").open("ab") as card:
        card.truncate(1 << 40)  # a terabyte, of holes
    with pytest.raises(SourceNotFound, match="too many for a config or card"):
        _prepare(str(repo), tmp_path)


@pytest.mark.parametrize(
    ("remote", "told"),
    [
        ("https://user:secret@example.org/a/b.git", "https://example.org/a/b.git"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
        ("/home/me/secret-project", None),
        ("file:///home/me/secret-project", None),
    ],
)
def test_a_remote_is_told_without_password_or_place(repo: Path, remote: str, told: str | None) -> None:
    with git.Repo(repo) as made:
        made.create_remote("origin", remote)
    assert describe(repo).remote == told


def test_a_manifest_says_where_it_was_made(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / "below").mkdir()
    monkeypatch.chdir(repo / "below")
    with git.Repo(repo) as made:
        made.create_remote("origin", "https://example.org/a/b.git")
        commit = made.head.commit.hexsha
    facts = run_facts()
    assert facts["working_repo"] == {"commit": commit, "dirty": False, "remote": "https://example.org/a/b.git"}
    assert {"python", "numpy", "huggingface_hub"} <= set(facts["versions"])
    monkeypatch.chdir(tmp_path)
    assert "working_repo" not in run_facts()
