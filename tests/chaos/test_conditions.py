"""Others at work at the same time, clocks that are wrong, names that are long, releases with many files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from hubpub.engine.store import Store
from hubpub.errors import CannotWrite
from hubpub.localhub import LocalHub, call
from hubpub.localhub.endpoints import cas
from hubpub.remote.cache import FetchCache
from hubpub.remote.destinations import release_files, send
from hubpub.remote.destinations.folder import FolderDestination
from hubpub.remote.destinations.hub import HubDestination
from hubpub.remote.hub import Hub, session
from hubpub.verbs.convert import convert as convert_here
from hubpub.verbs.demo import SOURCE
from hubpub.verbs.fetch import run
from hubpub.verbs.publish import publish
from hubpub.verbs.session import Session
from tests.chaos import scene
from tests.chaos.scene import NEW_BITS, digests, making
from tests.e2e.releases import REPO, noise, release, tree

TEXTS = ("README.md", "hubpub.json")


def convert(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    """One attention of the small source, in a process; all processes of a folder share its store."""
    arguments = (*making(NEW_BITS), "--attention", "original", "--out", str(out), "--quiet")
    return subprocess.Popen(
        scene.command("convert", *arguments),
        env=scene.environment(folder, store=folder / "store"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def models(out: Path) -> dict[str, str]:
    return {path: sha for path, sha in digests(out).items() if path not in TEXTS}


@pytest.mark.slow
def test_two_converts_share_a_store_and_nobody_prunes_it_meanwhile(tmp_path: Path) -> None:
    both = [convert(tmp_path, tmp_path / name) for name in ("one", "two")]
    refused = 0
    while any(process.poll() is None for process in both):
        pruned = subprocess.run(
            scene.command("cache", "prune", "--yes"),
            env=scene.environment(tmp_path, store=tmp_path / "store"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert pruned.returncode == 0 or "Another hubpub is at work" in pruned.stderr
        refused += pruned.returncode != 0
    assert [(process.communicate()[1], process.returncode) for process in both] == [(b"", 0)] * 2
    assert refused
    assert models(tmp_path / "one") == models(tmp_path / "two") != {}
    store = Store(tmp_path / "store")
    assert [store.damage(entry) for entry in store.entries()] == [None] * len(list(store.entries()))
    assert not list((store.root / "work").iterdir())


@pytest.mark.slow
def test_a_store_of_tomorrow(tmp_path: Path) -> None:
    """Somebody has set the clock back."""
    assert convert(tmp_path, tmp_path / "one").communicate() == (None, b"")
    store, future = Store(tmp_path / "store"), time.time() + 86400
    entries = list(store.entries())
    for path in store.root.rglob("*"):
        os.utime(path, (future, future))
    for entry in entries:
        described = entry.payload.parent / "entry.json"
        described.write_text(json.dumps({**json.loads(described.read_text()), "created": future}))
    assert convert(tmp_path, tmp_path / "two").communicate() == (None, b"")
    assert models(tmp_path / "two") == models(tmp_path / "one")
    assert {entry.created for entry in store.entries()} == {future}
    environment = scene.environment(tmp_path, store=store.root)
    subprocess.run(scene.command("cache", "prune", "--yes"), env=environment, check=True, capture_output=True)
    assert not list(store.entries())


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_hub_whose_clock_is_wrong(
    hours: int, mode: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + hours * 3600)
    files = tree(("original",), seed=(hours, mode))
    destination = HubDestination(hub, REPO)
    with monkeypatch.context() as wrong:
        for module in (call, cas):
            wrong.setattr(module, "time", clock)
        receipt = send(destination, release(tmp_path / "made", files), base=destination.current())
        assert receipt.commit == hub.commit(REPO)
        if mode == "lfs":  # files that came by xet are put together by hf_xet, in this process with another clock
            run(REPO, hub=hub, cache=cache, dest=tmp_path / "out")
    fetched = run(REPO, hub=hub, cache=cache, dest=tmp_path / "out")
    for path in fetched.folder.rglob("*"):
        os.utime(path, (2**33, 2**33))  # and files of the year 2242
    assert run(REPO, hub=hub, cache=cache, dest=tmp_path / "out").missing == ()


def test_a_date_to_come_back_at_is_one_of_the_hubs_clock() -> None:
    now = time.time() - 86400
    headers = {"Date": formatdate(now, usegmt=True), "Retry-After": formatdate(now + 5, usegmt=True)}
    request = httpx2.Request("GET", "https://huggingface.co")
    error = HfHubHTTPError("busy", response=httpx2.Response(429, headers=headers, request=request))
    wait = session.wait_before_retry(error, 1.0)
    assert wait is not None
    assert 5 <= wait <= 6


@pytest.mark.slow
def test_names_of_all_the_world(lfs: None, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "модели и  é 模型 🙂" / ("x" * 240)
    home.mkdir(parents=True)
    source = shutil.copytree(SOURCE, home / "цифры 1")
    with Session.open(root=home / "store", endpoint=local.endpoint, token=local.token) as opened:
        settings = {"repo_id": REPO, "attention": ("original",), "verify": "weights"}
        outcome = convert_here(source, **settings, out=home / "out", session=opened)
        assert {artifact.path for artifact in outcome.artifacts} == models(home / "out").keys()
        publish(home / "out", session=opened)
    out = run(REPO, hub=hub, cache=FetchCache(home / "store"), dest=home / "fetched").folder
    assert models(out).items() == {
        (path.removeprefix("original/packages/"), sha)
        for path, sha in models(home / "out").items()
        if path.startswith("original/packages/")
    }


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "/".join(["x" * 200] * 25)], ids=["bytes", "é", "path"])
def test_a_name_that_no_disk_takes(
    name: str, lfs: None, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
) -> None:
    made = release(tmp_path / "made", tree(("original",)))
    release_files(made, tmp_path / "made")
    local.storage.import_folder(REPO, tmp_path / "made")
    with pytest.raises(CannotWrite, match="too long"):
        run(REPO, hub=hub, cache=cache, dest=tmp_path / name)
    with pytest.raises(CannotWrite, match="too long"):
        send(FolderDestination(tmp_path / name), made, base=FolderDestination(tmp_path / name).current())


def test_a_file_in_a_repo_with_the_longest_name(
    lfs: None, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
) -> None:
    name = "é" * 125 + ".bin"  # 254 bytes
    files = {f"original/packages/A.mlpackage/{name}": noise(1, 50_000)}
    destination = HubDestination(hub, REPO)
    send(destination, release(tmp_path / "made", files), base=destination.current())
    out = run(REPO, hub=hub, cache=cache, dest=tmp_path / "out").folder
    assert (out / "A.mlpackage" / name).read_bytes() == next(iter(files.values()))


def test_a_release_of_a_thousand_files_is_one_commit(mode: str, hub: Hub, tmp_path: Path) -> None:
    large = 500 if mode == "xet" else 50  # those that take requests of their own
    files = {
        f"original/packages/A.mlpackage/{number}{'.bin' if number < large else '.json'}": noise((mode, number), 300)
        for number in range(1000)
    }
    destination = HubDestination(hub, REPO)
    send(destination, release(tmp_path / "made", files), base=destination.current())
    assert [commit.title for commit in hub.api.list_repo_commits(REPO)] == [
        "Tiny as Core ML: two attentions",
        "initial commit",
    ]
    state = hub.state(REPO)
    assert state is not None
    assert {file.path for file in state.files} == {*files, "README.md", "hubpub.json", ".gitattributes"}
