"""Opened sources: which files they list and read, and what is pinned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hubpub.engine.store import Digests
from hubpub.errors import SourceNotFound
from hubpub.sources.resolve import FolderSource, Opened, open_source
from hubpub.sources.source import parse

CONFIG = b'{"a": 1}'


def opened(folder: Path, digests: Path) -> Opened:
    """The folder as an opened source; a Hub connection would fail the test."""

    def no_hub() -> None:
        pytest.fail("a folder needs no Hub")

    return open_source(parse(str(folder)), digests=Digests(digests), clones=digests.parent / "clones", hub=no_hub)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path) -> Opened:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_bytes(b"{}")
    (folder / "unet" / "config.json").write_bytes(CONFIG)
    return opened(folder, tmp_path / "digests.json")


def test_a_folder_lists_and_reads_its_files(source: Opened) -> None:
    assert source.paths() == ("model_index.json", "unet/config.json")
    assert source.read("unet/config.json") == CONFIG
    assert source.read("unet/missing.json") is None
    assert source.read("model_index.json/config.json") is None
    assert source.commit is None


def test_pin_records_size_and_digest(source: Opened) -> None:
    snapshot = source.pin(["unet/config.json", "unet/config.json"])
    (file,) = snapshot.files
    assert (file.path, file.size) == ("unet/config.json", 8)
    assert str(file.digest) == "sha256:" + hashlib.sha256(CONFIG).hexdigest()
    assert (snapshot.commit, snapshot.dirty, snapshot.remote) == (None, False, None)


def test_pin_reports_a_missing_file(source: Opened) -> None:
    with pytest.raises(SourceNotFound, match=r"gone\.json"):
        source.pin(["gone.json"])


def test_the_folder_is_used_in_place(source: Opened, tmp_path: Path) -> None:
    assert source.folder(["model_index.json"], None) == tmp_path / "model"


def test_files_too_large_for_a_config_are_not_read(source: Opened, tmp_path: Path) -> None:
    with (tmp_path / "model" / "config.json").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(SourceNotFound, match="too many for a config"):
        source.read("config.json")


def test_a_checkout_has_a_commit_and_refuses_links_that_leave_it(tmp_path: Path) -> None:
    git = pytest.importorskip("git")
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (tmp_path / "secret.json").write_bytes(b"{}")
    with git.Repo.init(folder) as repo:
        repo.index.add(["config.json"])
        author = git.Actor("A", "a@example.org")
        commit = repo.index.commit("first", author=author, committer=author).hexsha
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    source = opened(folder, tmp_path / "digests.json")
    assert isinstance(source, FolderSource)
    assert source.commit == commit
    assert source.read("config.json") == b"{}"
    assert not any(path.startswith(".git/") for path in source.paths())
    assert source.pin(["config.json"]).dirty  # the link is not committed
    for use in (source.read, lambda path: source.pin([path]), lambda path: source.folder([path], None)):
        with pytest.raises(SourceNotFound, match="leaves the checkout"):
            use("link.json")
