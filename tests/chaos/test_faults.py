"""Every kind of fault at every endpoint: one strike, and publish and fetch get over it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from hubpub.errors import HubpubError
from hubpub.localhub import Fault, LocalHub, running
from hubpub.release.release import Release
from hubpub.remote.cache import FetchCache
from hubpub.remote.destinations import Receipt, release_files, send
from hubpub.remote.destinations.hub import HubDestination
from hubpub.remote.hub import Hub, session
from hubpub.verbs.fetch import run
from tests.e2e.releases import noise, release

# One strike of each; what is not said is in `Fault`.
KINDS = {
    "500": Fault(kind="status", status=500),
    "503": Fault(kind="status", status=503),
    "429": Fault(kind="status", status=429, retry_after=1),
    "refuse": Fault(kind="refuse"),
    "reset": Fault(kind="reset", at=10),
    "reset-upload": Fault(kind="reset-upload", at=10),
    "truncate": Fault(kind="truncate", at=10),
    "lost": Fault(kind="lost"),
    "delay": Fault(kind="delay", seconds=0.2),
}
PUBLISH = {
    "whoami": ("GET", "/api/whoami-v2"),
    "card": ("POST", "/api/validate-yaml"),
    "create": ("POST", "/api/repos/create"),
    "info": ("GET", r"^/api/models/[^/]+/[^/]+$"),
    "tree": ("GET", "/tree/"),
    "preupload": ("POST", "/preupload/"),
    "commit": ("POST", "/commit/"),
    "refs": ("GET", "/refs"),
    "tag": ("POST", "/tag/"),
}
LFS = {"batch": ("POST", "/objects/batch"), "put": ("PUT", "/lfs/put/")}
XET = {
    "token": ("GET", "/xet-write-token/"),
    "xorb": ("POST", "/xorbs/"),
    "shard": ("POST", "/shards"),
}
FETCH = {
    "info": ("GET", r"^/api/models/[^/]+/[^/]+$"),
    "tree": ("GET", "/tree/"),
    "manifest": ("GET", r"/resolve/.*/hubpub\.json"),
    "small file": ("GET", r"/resolve/.*/vocab\.json"),
    "large file": ("GET", r"/resolve/.*/weight\.bin"),
    "its bytes": ("GET", "/cdn/"),
}
WEIGHT = "original/packages/A.mlpackage/Data/weights/weight.bin"
FILES = {
    WEIGHT: noise("faults", 300_000),
    "original/packages/vocab.json": b'{"a": 1}',
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as started:
        yield started


@pytest.fixture
def local(shared: LocalHub) -> Iterator[LocalHub]:
    """One Hub for all tests, as a start takes longer than they do; each has a repo of its own."""
    shared.faults.clear()
    shared.faults.fired.clear()
    yield shared
    shared.faults.clear()


@pytest.fixture
def repo() -> str:
    return f"me/coreml-{uuid4().hex}"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of each pause before another attempt, of ours, the client's and hf_xet's."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "30ms")


def publish(hub: Hub, made: Release) -> Receipt:
    hub.whoami()
    destination = HubDestination(hub, made.repo_id, tag="v1")
    return send(destination, made, base=destination.current())


def strike(local: LocalHub, kind: str, endpoint: tuple[str, str]) -> None:
    method, path = endpoint
    fault = KINDS[kind]
    local.faults.add(Fault(**{**vars(fault), "method": method, "path": path}))


def check_main(local: LocalHub, repo_id: str, files: dict[str, bytes]) -> None:
    """main is one commit more than a new repo, has these files, and a tag."""
    repo = local.storage.repo(repo_id)
    head = repo.find("main")
    assert [commit.title for commit in repo.log(head)] == ["Tiny as Core ML: two attentions", "initial commit"]
    assert repo.tree(head).keys() == {*files, "README.md", "hubpub.json", ".gitattributes"}
    assert repo.refs()["tags/v1"] == head.id


def fresh() -> dict[str, bytes]:
    """The files, with a weight that the Hub has not."""
    return {**FILES, WEIGHT: noise(uuid4().hex, 300_000)}


def cases(endpoints: dict[str, tuple[str, str]], *kinds: str) -> Iterator[object]:
    for name, endpoint in endpoints.items():
        for kind in kinds or KINDS:
            if kind == "reset-upload" and endpoint[0] == "GET":
                continue
            yield pytest.param(kind, endpoint, id=f"{name}-{kind}")


class TestPublish:
    """One commit and its tag, whatever happened on the way."""

    @pytest.mark.parametrize(("kind", "endpoint"), cases({**PUBLISH, **LFS}))
    def test_lfs(
        self,
        kind: str,
        endpoint: tuple[str, str],
        lfs: None,
        local: LocalHub,
        hub: Hub,
        repo: str,
        tmp_path: Path,
    ) -> None:
        files = fresh()
        strike(local, kind, endpoint)
        receipt = publish(hub, release(tmp_path, files, repo_id=repo))
        assert len(local.faults.fired) == 1
        assert receipt.commit == hub.commit(repo)
        check_main(local, repo, files)

    @pytest.mark.parametrize(("kind", "endpoint"), cases(XET, "503", "refuse", "reset-upload", "truncate", "lost"))
    def test_xet(
        self, kind: str, endpoint: tuple[str, str], local: LocalHub, hub: Hub, repo: str, tmp_path: Path
    ) -> None:
        files = fresh()
        strike(local, kind, endpoint)
        receipt = publish(hub, release(tmp_path, files, repo_id=repo))
        assert len(local.faults.fired) == 1
        assert receipt.commit == hub.commit(repo)
        check_main(local, repo, files)

    @pytest.mark.parametrize("byte", [5, 50_000, 250_000])
    def test_bytes_that_change_on_the_way_to_xet_are_no_file_of_anybody(
        self,
        byte: int,
        local: LocalHub,
        hub: Hub,
        cache: FetchCache,
        repo: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(session, "PATIENCE", 0.5)
        local.faults.add(Fault(kind="corrupt-upload", path="/xorbs/", at=byte, times=None))

        def publish_and_fetch() -> None:
            publish(hub, release(tmp_path / "made", fresh(), repo_id=repo))
            run(repo, hub=hub, cache=cache, dest=tmp_path / "out")

        with pytest.raises(HubpubError):
            publish_and_fetch()
        assert not (tmp_path / "out" / WEIGHT.removeprefix("original/packages/")).exists()


@pytest.mark.usefixtures("lfs")
class TestFetch:
    """The files as they were published, whatever happened on the way."""

    @pytest.fixture
    def published(self, local: LocalHub, repo: str, tmp_path: Path) -> str:
        folder = tmp_path / "made"
        release_files(release(folder, FILES), folder)
        local.storage.import_folder(repo, folder)
        return repo

    @pytest.mark.parametrize(("kind", "endpoint"), cases(FETCH))
    def test_files(
        self,
        kind: str,
        endpoint: tuple[str, str],
        published: str,
        local: LocalHub,
        hub: Hub,
        cache: FetchCache,
        tmp_path: Path,
    ) -> None:
        strike(local, kind, endpoint)
        out = run(published, hub=hub, cache=cache, dest=tmp_path / "out").folder
        assert len(local.faults.fired) == 1
        held = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert held == {path.removeprefix("original/packages/"): content for path, content in FILES.items()}
