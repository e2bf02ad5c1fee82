"""The embedded Hub's data folder: one writer at a time, nothing half done, the same for several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hubpub.errors import CannotWrite, ConfigError, SourceNotFound, StoreError
from hubpub.localhub import Storage, default_root
from hubpub.localhub.refused import Refused
from hubpub.localhub.storage import pulls
from hubpub.localhub.storage.changes import Delete, Put
from hubpub.localhub.storage.repository import check_ref_name


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "hub")


def put(storage: Storage, path: str, text: str) -> Put:
    return Put(path=path, entry=storage.objects.add_blob(text.encode()))


def test_tokens_are_made_once_and_are_private(tmp_path: Path) -> None:
    first, second = Storage(tmp_path / "hub"), Storage(tmp_path / "hub")
    assert (first.token, first.read_token, first.id) == (second.token, second.read_token, second.id)
    assert len({first.token, first.read_token, Storage(tmp_path / "other").token}) == 3
    for name in ("token", "read-token", "key"):
        assert stat.S_IMODE((tmp_path / "hub" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "hub").stat().st_mode) == 0o700


def test_where_data_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HUBPUB_HUB", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("HUBPUB_HUB")
    assert default_root().name == "hub"
    assert default_root().is_absolute()


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match="cannot use"):
        Storage(tmp_path / "file")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hub.json").write_text(json.dumps({"format": 99, "id": "x"}))
    with pytest.raises(StoreError, match="another version"):
        Storage(tmp_path / "hub")


def test_repos_are_made_and_deleted(storage: Storage) -> None:
    repo = storage.create("me/model", private=True)
    assert [commit.title for commit in repo.log(repo.find("main"))] == ["initial commit"]
    assert repo.settings["private"] is True
    with pytest.raises(Refused) as refused:
        storage.create("me/model")
    assert refused.value.status == 409
    storage.create("me/model", repo_type="dataset")
    assert [one.repo_id for one in storage.repos()] == ["me/model"]
    storage.delete("me/model")
    with pytest.raises(Refused) as refused:
        storage.repo("me/model")
    assert refused.value.code == "RepoNotFound"
    assert storage.repo("me/model", repo_type="dataset").refs()


@pytest.mark.parametrize(
    "repo_id", ["model", "a/b/c", "../x", "me/..", "me/a--b", "me/x.git", "me/.x", "me/x y", "/x", ""]
)
def test_names_of_repos(storage: Storage, repo_id: str) -> None:
    with pytest.raises(Refused) as refused:
        storage.create(repo_id)
    assert refused.value.status == 400
    assert list((storage.root / "tmp").iterdir()) == [] if (storage.root / "tmp").exists() else True


@pytest.mark.parametrize(
    "name", ["", "a b", "..", "a..b", "-x", "refs/heads/x", "x.lock", "a/.b", "a:b", "a" * 300, "0" * 40, "@"]
)
def test_names_of_refs(name: str) -> None:
    with pytest.raises(Refused):
        check_ref_name(name)
    check_ref_name("next/v1.0-rc_1")


def test_a_folder_is_imported(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "unet").mkdir(parents=True)
    (source / "unet" / "w.safetensors").write_bytes(b"weights" * 1000)
    (source / "model_index.json").write_text("{}")
    (source / "link").symlink_to(source / "model_index.json")
    commit = storage.import_folder("org/source", source, gated=True)
    repo = storage.repo("org/source")
    tree = repo.tree(commit)
    assert set(tree) == {".gitattributes", "model_index.json", "unet/w.safetensors"}
    weights = tree["unet/w.safetensors"]
    assert weights.sha256 is not None
    assert storage.objects.lfs_path(weights.sha256).read_bytes() == b"weights" * 1000
    assert repo.settings["gated"] == "auto"
    (source / "unet" / "w.safetensors").write_bytes(b"others")  # what was imported is a copy
    assert storage.objects.lfs_path(weights.sha256).read_bytes() == b"weights" * 1000
    again = storage.import_folder("org/source", source)
    assert again.parents == (commit.id,)
    assert repo.settings["gated"] is False
    with pytest.raises(SourceNotFound):
        storage.import_folder("org/source", source / "nothing")
    with pytest.raises(ConfigError):
        storage.import_folder("no-namespace", source)


def test_large_files_without_a_pattern_get_a_line(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "odd name.dat").write_bytes(b"\0binary")
    commit = storage.import_folder("me/model", tmp_path / "source")
    repo = storage.repo("me/model")
    text = repo.text(repo.tree(commit), ".gitattributes")
    assert text.endswith("odd[[:space:]]name.dat filter=lfs diff=lfs merge=lfs -text\n")
    repo.add_commit("heads/main", [put(storage, "x", "y")], title="more", author="me")
    assert repo.text(repo.tree(repo.find("main")), ".gitattributes") == text


def test_history_and_parents(storage: Storage) -> None:
    repo = storage.create("me/model")
    first = repo.find("main")
    second = repo.add_commit("heads/main", [put(storage, "a/b", "1")], title="two", author="me", parent=first.id)
    with pytest.raises(Refused) as refused:
        repo.add_commit("heads/main", [put(storage, "c", "1")], title="late", author="me", parent=first.id)
    assert refused.value.status == 412
    third = repo.add_commit("heads/main", [put(storage, "c", "1")], title="three", author="me")
    assert [one.id for one in repo.log(repo.find("main"))] == [third.id, second.id, first.id]
    newest = repo.last_commits(third, ["a", "a/b", "c", ".gitattributes"])
    assert {path: one.title for path, one in newest.items()} == {
        "a": "two",
        "a/b": "two",
        "c": "three",
        ".gitattributes": "initial commit",
    }
    assert repo.find(second.id) == second
    assert repo.find("refs/heads/main") == third
    for revision in (second.id[:10], "0" * 40, "refs/heads/x", "x"):
        with pytest.raises(Refused) as refused:
            repo.find(revision)
        assert refused.value.code == "RevisionNotFound"


def test_a_commit_without_changes_is_a_commit(storage: Storage) -> None:
    repo = storage.create("me/model")
    before = repo.find("main")
    after = repo.add_commit("heads/main", [], title="empty", author="me")
    assert (after.tree, after.parents) == (before.tree, (before.id,))


def test_pull_requests_merge_and_clash(storage: Storage) -> None:
    repo = storage.create("me/model")
    repo.add_commit("heads/main", [put(storage, "a", "1"), put(storage, "b", "1")], title="base", author="me")
    steps = [put(storage, "a", "2"), Delete(path="b", folder=False), put(storage, "n/ew", "1")]
    row, _ = pulls.start_with_commit(repo, steps, title="v1", message="", author="me", parent=None, base="main")
    clashing, _ = pulls.start_with_commit(
        repo, [put(storage, "a", "3")], title="v2", message="", author="me", parent=None, base="main"
    )
    repo.add_commit("heads/main", [put(storage, "c", "1")], title="meanwhile", author="me")
    merged = pulls.merge(repo, row["num"], author="me")
    assert merged.title == "v1 (#1)"
    tree = repo.tree(merged)
    assert set(tree) == {".gitattributes", "a", "c", "n/ew"}
    assert repo.text(tree, "a") == "2"
    assert pulls.conflicts(repo, clashing) == ["a"]
    with pytest.raises(Refused) as refused:
        pulls.merge(repo, clashing["num"], author="me")
    assert refused.value.status == 409
    with pytest.raises(Refused):
        pulls.merge(repo, row["num"], author="me")


def test_a_refused_pull_request_leaves_nothing(storage: Storage) -> None:
    repo = storage.create("me/model")
    with pytest.raises(Refused):
        pulls.start_with_commit(
            repo, [Delete(path="x", folder=False)], title="v1", message="", author="me", parent=None, base="main"
        )
    assert pulls.listed(repo) == []
    assert set(repo.refs()) == {"heads/main"}


def test_threads_commit_one_after_the_other(storage: Storage) -> None:
    storage.create("me/model")

    def commit(at: int) -> None:
        repo = storage.repo("me/model")
        repo.add_commit("heads/main", [put(storage, f"f{at}", str(at))], title=str(at), author="me")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(24)))
    repo = storage.repo("me/model")
    assert len(list(repo.log(repo.find("main")))) == 25
    assert len(repo.tree(repo.find("main"))) == 25


def _commits(root: Path, name: str, count: int) -> None:
    storage = Storage(root)
    for at in range(count):
        repo = storage.repo("me/model")
        repo.add_commit("heads/main", [put(storage, f"{name}/{at}", str(at))], title=f"{name}{at}", author="me")


def test_processes_commit_one_after_the_other(storage: Storage) -> None:
    storage.create("me/model")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_commits, args=(storage.root, name, 10)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    repo = storage.repo("me/model")
    assert len(list(repo.log(repo.find("main")))) == 31
    assert len(repo.tree(repo.find("main"))) == 31


_ENDLESS = """
import sys
from pathlib import Path
from hubpub.localhub import Storage
from hubpub.localhub.storage.changes import Put
storage = Storage(Path(sys.argv[1]))
for at in range(100000):
    repo = storage.repo("me/model")
    steps = [Put(path=f"f{at}-{n}", entry=storage.objects.add_blob(f"{at} {n}".encode())) for n in range(3)]
    repo.add_commit("heads/main", steps, title=str(at), author="me")
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_writer_leaves_a_whole_repo(storage: Storage) -> None:
    """Killed at any moment: the branch's whole history and all files are there, and others can write."""
    storage.create("me/model")
    for pause in (0.0, 0.02, 0.05):
        repo = storage.repo("me/model")
        before = repo.find("main").id
        process = subprocess.Popen([sys.executable, "-c", _ENDLESS, str(storage.root)])
        end = time.monotonic() + 30
        while repo.find("main").id == before and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        head = repo.find("main")
        assert head.id != before
        for commit in repo.log(head):
            for entry in repo.tree(commit).values():
                path = storage.objects.plain_path(entry)
                assert path is not None
                assert path.stat().st_size == entry.size
        repo.add_commit("heads/main", [put(storage, f"after-{pause}", "x")], title="after", author="me")


def test_left_overs_are_swept(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "hub")
    for old in ("tmp/broken", "parts/upload/1"):
        path = storage.root / old
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    os.utime(storage.root / "parts/upload", (0, 0))
    (storage.root / "tmp" / "fresh").write_bytes(b"under way")
    Storage(tmp_path / "hub")
    assert [path.name for path in (storage.root / "tmp").iterdir()] == ["fresh"]
    assert list((storage.root / "parts").iterdir()) == []
