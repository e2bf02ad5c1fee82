"""The store: wholly there or not at all, whatever happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubpub.engine.store import Store
from hubpub.errors import CannotWrite, Damaged, StoreError
from hubpub.files.copies import clone
from hubpub.files.digests import Digests, sha256

KEY = "ab" * 32


def _write(store: Store, key: str = KEY, text: str = "weights") -> None:
    with store.lock(key):
        payload = store.work_folder(key)
        (payload / "model").mkdir()
        (payload / "model" / "a").write_text(text)
        os.link(payload / "model" / "a", payload / "b")
        store.commit(key, payload, kind="fill", label="unet", measurements={"n": 1}, seconds=0.5)


def test_a_committed_step_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get(KEY) is None
    _write(store)
    entry = store.get(KEY)
    assert entry is not None
    assert [file.path for file in entry.files] == ["b", "model/a"]
    assert entry.files[0].sha256 == entry.files[1].sha256 == sha256(entry.payload / "b")
    assert [name for name, _ in entry.under("model")] == ["a"]
    assert [name for name, _ in entry.under("b")] == [""]
    assert store.damage(entry) is None


def test_payloads_are_read_only(tmp_path: Path) -> None:
    _write(Store(tmp_path))
    entry = Store(tmp_path).get(KEY)
    assert entry is not None
    assert (entry.payload / "b").stat().st_mode & 0o222 == 0


def test_large_files_with_the_same_content_are_one(tmp_path: Path) -> None:
    store, text, other = Store(tmp_path), "weights" * 200_000, "cd" * 32
    _write(store, text=text)
    _write(store, key=other, text=text)
    _write(store, key="ef" * 32, text="small")
    first, second = store.get(KEY), store.get(other)
    assert first is not None
    assert second is not None
    assert all((first.payload / "b").samefile(second.payload / name) for name in ("b", "model/a"))
    store.remove(KEY)
    assert store.damage(second) is None
    assert not any("." in path.name for path in second.payload.rglob("*")), "no name but the files' own"


def test_a_link_to_another_step_stays_one(tmp_path: Path) -> None:
    """A compiled bundle links its package's weights."""
    store, text, other = Store(tmp_path), "weights" * 200_000, "cd" * 32
    _write(store, text=text)
    first = store.get(KEY)
    assert first is not None
    with store.lock(other):
        payload = store.work_folder(other)
        os.link(first.payload / "b", payload / "weight.bin")
        second = store.commit(other, payload, kind="compile", label="unet", measurements={}, seconds=0.5)
    assert [path.name for path in second.payload.iterdir()] == ["weight.bin"]
    assert (second.payload / "weight.bin").samefile(first.payload / "b")


def test_a_large_file_that_has_changed_is_not_shared(tmp_path: Path) -> None:
    store, text, other = Store(tmp_path), "weights" * 200_000, "cd" * 32
    _write(store, text=text)
    first = store.get(KEY)
    assert first is not None
    for name in ("b", "model/a"):
        (first.payload / name).chmod(0o644)
        (first.payload / name).write_text(text.swapcase())
    _write(store, key=other, text=text)
    second = store.get(other)
    assert second is not None
    assert store.damage(second) is None


def test_uncommitted_work_is_invisible_and_cleared(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.work_folder(KEY)
    (folder / "half").write_text("x")
    assert store.get(KEY) is None
    assert list(store.entries()) == []
    store.work_folder(KEY)
    assert not folder.exists()


def test_damage_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _write(store)
    entry = store.get(KEY)
    assert entry is not None
    path = entry.payload / "model" / "a"
    path.chmod(0o644)
    path.write_text("weightz")
    assert store.damage(entry) == "b has changed"
    path.unlink()
    (entry.payload / "b").unlink()
    assert store.damage(entry) == "b is missing"


def test_a_removal_that_is_killed_leaves_no_half_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    _write(store)

    def killed(folder: Path) -> None:
        next(path for path in folder.rglob("*") if path.name == "a").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        store.remove(KEY)
    monkeypatch.undo()
    assert store.get(KEY) is None
    assert len(list((tmp_path / "work").iterdir())) == 1
    store.clean()
    assert not list((tmp_path / "work").iterdir())


def test_nobody_prunes_what_somebody_uses(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    with store.in_use(), other.in_use(), pytest.raises(StoreError, match="at work"), Store(tmp_path).alone():
        pass
    with store.in_use(), pytest.raises(StoreError), other.alone():
        pass
    (tmp_path / "locks" / "use-killed.lock").touch()
    with other.alone():
        pass
    assert [path.name for path in (tmp_path / "locks").glob("use-*")] == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"kind": "weights", "files": [{"path": "a"}]}'])
def test_an_unreadable_entry_is_damaged(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    _write(store)
    (tmp_path / "steps" / KEY[:2] / KEY / "entry.json").write_text(text)
    with pytest.raises(Damaged):
        store.get(KEY)


def test_links_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    payload = store.work_folder(KEY)
    (payload / "link").symlink_to("/etc/hostname")
    with pytest.raises(StoreError):
        store.commit(KEY, payload, kind="fill", label="x", measurements={}, seconds=0)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite) as caught:
        Store(tmp_path / "file")
    assert "HUBPUB_CACHE" in caught.value.hint


def test_an_edit_of_a_clone_does_not_reach_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    _write(store)
    entry = store.get(KEY)
    assert entry is not None
    clone(entry.payload / "b", tmp_path / "copy")
    (tmp_path / "copy").write_text("edited")
    assert store.damage(entry) is None


def test_digests_are_kept_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    digests = Digests(tmp_path / "digests.json")
    first = digests.of(path)
    digests.save()
    again = Digests(tmp_path / "digests.json")
    assert again.of(path) == first
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert again.of(path) != first
