"""Disks that are full or read-only: a sentence, nothing half done, and the next run goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hubpub.engine.store import Store
from hubpub.errors import CannotWrite, NoSpace, UploadFailed
from hubpub.localhub import LocalHub, running
from hubpub.remote.cache import FetchCache
from hubpub.remote.destinations import release_files, send
from hubpub.remote.destinations.hub import HubDestination
from hubpub.remote.hub import Hub, session
from hubpub.verbs.convert import convert
from hubpub.verbs.demo import SOURCE
from hubpub.verbs.fetch import run
from hubpub.verbs.session import Session
from tests.chaos.scene import digests
from tests.e2e.releases import REPO, release, tree

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file system in memory of its own."""

    path: Path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Two megabytes."""
    if sys.platform != "linux":
        pytest.skip("needs tmpfs")
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this user may not mount: {mounted.stderr.strip()}")
    yield Disk(path=path)
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk had space when it was asked for: it fills up later."""
    for name in ("files.disk.SPARE", "verbs.preparation._SPARE_DISK"):
        monkeypatch.setattr(f"hubpub.{name}", -(1 << 60))


@pytest.fixture
def published(local: LocalHub, tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "made"
    files = tree(("original",), size=3 * MB)
    release_files(release(folder, files), folder)
    local.storage.import_folder(REPO, folder)
    return files


def test_fetch_to_a_disk_that_fills_up(
    lfs: None, published: dict[str, bytes], unforeseen: None, disk: Disk, local: LocalHub, hub: Hub, cache: FetchCache
) -> None:
    out = disk.path / "out"
    with pytest.raises(NoSpace, match="full") as caught:
        run(REPO, hub=hub, cache=cache, dest=out)
    assert "Free some space" in caught.value.hint
    assert [path for path in digests(out) if not path.startswith(".hubpub-partial/")] == []
    kept = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert kept > MB
    disk.remount("size=50m")
    fetched = run(REPO, hub=hub, cache=cache, dest=out)
    assert fetched.received <= sum(len(content) for content in set(published.values())) - kept
    assert set(digests(out)) == {file.path for file in fetched.files}


def test_fetch_to_a_disk_that_is_read_only(
    lfs: None, published: dict[str, bytes], disk: Disk, hub: Hub, cache: FetchCache
) -> None:
    disk.remount("size=50m,ro")
    with pytest.raises(CannotWrite, match="Read-only"):
        run(REPO, hub=hub, cache=cache, dest=disk.path / "out")


def test_a_store_on_a_disk_that_is_read_only(disk: Disk) -> None:
    disk.remount("ro")
    with pytest.raises(CannotWrite, match="Read-only") as caught:
        Store(disk.path / "store")
    assert "HUBPUB_CACHE" in caught.value.hint


def test_publish_to_a_hub_whose_disk_fills_up(
    lfs: None, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PATIENCE", 1.0)
    with running(disk.path / "hub") as local:
        hub = Hub(local.endpoint, local.token)
        made = release(tmp_path / "made", tree(("original",), size=3 * MB))
        destination = HubDestination(hub, REPO)
        with pytest.raises(UploadFailed, match="room"):
            send(destination, made, base=destination.current())
        assert [commit.title for commit in hub.api.list_repo_commits(REPO)] == ["initial commit"]
        disk.remount("size=50m")
        receipt = send(destination, made, base=destination.current())
        assert receipt.commit == hub.commit(REPO)


@pytest.mark.slow
def test_convert_with_a_store_and_a_folder_that_fill_up(unforeseen: None, disk: Disk, tmp_path: Path) -> None:
    def made(store: Path, out: Path) -> set[str]:
        settings = {"repo_id": REPO, "name": "org/digits", "attention": ("original",), "verify": "weights"}
        with Session.open(root=store) as session:
            convert(SOURCE, **settings, out=out, session=session)
        return set(digests(out))

    with pytest.raises(NoSpace):
        made(disk.path / "store", tmp_path / "out")
    store = Store(disk.path / "store")
    before = {entry.key: entry.created for entry in store.entries()}
    assert before
    assert [store.damage(entry) for entry in store.entries()] == [None] * len(before)
    disk.remount("size=9m")
    with pytest.raises(NoSpace):
        made(disk.path / "store", disk.path / "out")
    assert digests(disk.path / "out") == {}
    disk.remount("size=50m")
    assert made(disk.path / "store", disk.path / "out") == made(disk.path / "store", tmp_path / "out")
    assert before.items() <= {entry.key: entry.created for entry in store.entries()}.items()
