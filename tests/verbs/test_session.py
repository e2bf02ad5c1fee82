"""A session opens each thing once and closes it; "local" is the embedded Hub; nobody else opens anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hubpub
from hubpub.engine.store import Store
from hubpub.errors import CannotWrite, StoreError
from hubpub.verbs.session import Session, using
from tests.e2e.releases import converted

PACKAGE = Path(hubpub.__file__).parent
# What opens a store, a cache or a Hub, and the modules that may do so.
OPENERS = {"Store", "FetchCache", "Hub", "HfApi", "default_root", "running"}
ALLOWED = {
    "verbs/session.py",
    "verbs/serve.py",  # the embedded Hub for its own sake
    "engine/worker.py",  # another process, which is told the store's place
    "localhub/__init__.py",
    "remote/hub/client.py",
}


def test_a_session_opens_once_and_closes(tmp_path: Path) -> None:
    with Session.open(root=tmp_path) as session:
        assert session.store is session.store
        assert session.cache is session.cache
        with pytest.raises(StoreError, match="at work"), Store(tmp_path).alone():
            pass
    with Store(tmp_path).alone():
        pass


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    with Session.open(root=tmp_path / "store", endpoint="local"):
        pass
    assert not (tmp_path / "store").exists()


def test_a_session_prunes_its_own_store(tmp_path: Path) -> None:
    with Session.open(root=tmp_path) as session, session.store.alone():
        pass


def test_none_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path))
    session = Session.open(endpoint=None, token=None, jobs=None, memory=None)
    assert session.root == tmp_path
    assert session.jobs >= 1
    assert session.memory > 0


def test_a_verb_keeps_the_session_that_it_was_given_open(tmp_path: Path) -> None:
    with Session.open(root=tmp_path) as session:
        with using(session, endpoint="ignored") as opened:
            assert opened is session
            assert opened.store.root == tmp_path
        with pytest.raises(StoreError, match="at work"), Store(tmp_path).alone():
            pass


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Session.open(token="secret"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Session.open(root=tmp_path / "file") as session:
        for name in ("store", "cache"):
            with pytest.raises(CannotWrite, match="cannot be written") as caught:
                getattr(session, name)
            assert "HUBPUB_CACHE" in caught.value.hint


def _calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_nobody_else_opens_a_store_a_cache_or_a_hub() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): OPENERS & set(_calls(path))
        for path in PACKAGE.rglob("*.py")
        if OPENERS & set(_calls(path))
    }
    assert {name: calls for name, calls in found.items() if name not in ALLOWED} == {}


class TestLocal:
    """`endpoint="local"` in Python, for every verb that takes an endpoint."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        pytest.importorskip("starlette", reason="the embedded Hub needs hubpub[local]")
        monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "store"))
        monkeypatch.setenv("HUBPUB_HUB", str(tmp_path / "hub"))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.fixture
    def repo(self, home: Path) -> str:
        folder = converted(home / "release", "original")
        return hubpub.publish(folder, endpoint="local", tag="v1").repo_id

    def test_each_verb(self, repo: str, home: Path) -> None:
        offers = hubpub.variants(repo, endpoint="local")
        assert "original/packages" in [offer.name for offer in offers]
        folder = hubpub.fetch(repo, endpoint="local", dest="models/x")
        assert folder == Path("models/x")
        assert hubpub.verify(repo, endpoint="local").findings == ()
        assert hubpub.report(repo, home / "page.html", endpoint="local").path.is_file()
        assert hubpub.audit(repo, endpoint="local").target == repo
        assert hubpub.restore(repo, "v1", endpoint="local").nothing_to_do

    def test_one_session_for_several_verbs(self, repo: str) -> None:
        with Session.open(endpoint="local") as session:
            endpoint = session.hub.endpoint
            hubpub.variants(repo, session=session)
            hubpub.fetch(repo, session=session, dest="x")
            assert session.hub.endpoint == endpoint
