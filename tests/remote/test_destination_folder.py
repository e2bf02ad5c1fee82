"""A folder as a destination: the same tree, nothing else touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubpub.errors import CannotWrite, Conflict, NoSpace, UnsafeArchive
from hubpub.files.digests import Digests
from hubpub.release.release import Operation
from hubpub.remote.destinations import send
from hubpub.remote.destinations.folder import FolderDestination
from hubpub.remote.download import PARTIAL
from hubpub.remote.folder_check import check_release
from tests.e2e.releases import release, tree

FILES = tree(size=1000)


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tree_then_nothing_then_what_changed(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    destination = FolderDestination(out, digests=Digests(tmp_path / "digests.json"))
    heard: list[tuple[int, int, str]] = []
    receipt = send(
        destination,
        release(tmp_path / "made", FILES),
        base=destination.current(),
        progress=lambda *told: heard.append(told),
    )
    assert set(held(out)) == {*FILES, "README.md", "hubpub.json"}
    assert receipt.operations["new"] == len(FILES) + 2
    assert receipt.url == str(out)
    assert heard[-1][0] == heard[-1][1]
    assert check_release(out) == ()

    (out / "notes.md").write_text("mine")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = send(destination, release(tmp_path / "made", FILES, run="later"), base=destination.current())
    assert again.nothing_to_do
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    files = {**FILES, "original/packages/vocab.json": b"changed"}
    gone = next(path for path in files if path.endswith("text_encoder.mlmodelc/metadata.json"))
    del files[gone]
    third = send(destination, release(tmp_path / "made2", files), base=destination.current())
    assert (third.operations["changed"], third.operations["removed"]) == (2, 1)
    assert {path: content for path, content in held(out).items() if path in files} == files
    assert not (out / gone).exists()
    assert (out / "notes.md").read_text() == "mine"
    untouched = out / "original/packages/merges.txt"
    assert untouched.stat().st_mtime_ns == times[untouched]


def test_files_are_copies(tmp_path: Path) -> None:
    made = release(tmp_path / "made", {"original/packages/vocab.json": b"{}"})
    made.artifacts[0].source.chmod(0o444)  # as the store keeps them
    destination = FolderDestination(tmp_path / "out")
    send(destination, made, base=destination.current())
    place = tmp_path / "out/original/packages/vocab.json"
    place.write_bytes(b"edited")
    assert made.artifacts[0].source.read_bytes() == b"{}"


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    out = tmp_path / "out"
    (out / "original/packages").mkdir(parents=True)
    (out / "original/packages/vocab.json").symlink_to(outside)
    destination = FolderDestination(out)
    send(destination, release(tmp_path / "made", FILES), base=destination.current())
    assert outside.read_text() == "mine"
    assert not (out / "original/packages/vocab.json").is_symlink()

    other = tmp_path / "other"
    (tmp_path / "elsewhere").mkdir()
    other.mkdir()
    (other / "original").symlink_to(tmp_path / "elsewhere")
    destination = FolderDestination(other)
    with pytest.raises(Conflict, match="original"):
        send(destination, release(tmp_path / "made", FILES), base=destination.current())
    assert not list((tmp_path / "elsewhere").iterdir())
    assert [path.name for path in other.iterdir()] == ["original"]


def test_what_stands_in_the_way(tmp_path: Path) -> None:
    for place in ("original", "original/packages/vocab.json/x"):
        out = tmp_path / place.replace("/", "-")
        (out / place).parent.mkdir(parents=True)
        (out / place).write_text("mine")
        destination = FolderDestination(out)
        before = held(out)
        with pytest.raises(Conflict):
            send(destination, release(tmp_path / "made", FILES), base=destination.current())
        assert held(out) == before


def test_no_space_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubpub.files.disk.SPARE", 1 << 60)
    destination = FolderDestination(tmp_path / "out")
    with pytest.raises(NoSpace):
        send(destination, release(tmp_path / "made", FILES), base=destination.current())
    assert held(tmp_path / "out") == {}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the permission bits do not bind this user")
def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    destination = FolderDestination(tmp_path / "out")
    with pytest.raises(CannotWrite):
        send(destination, release(tmp_path / "made", FILES), base=destination.current())


def test_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    destination = FolderDestination(tmp_path / "out")
    with pytest.raises(CannotWrite):
        send(destination, release(tmp_path / "made", FILES), base=destination.current())


def test_a_failure_in_the_middle_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubpub.remote.destinations import folder as module

    calls = []

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        target.write_bytes(source.read_bytes()[:1])
        if len(calls) == 5:
            raise OSError(5, "Input/output error")
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(module, "clone", failing)
    destination = FolderDestination(tmp_path / "out")
    made = release(tmp_path / "made", FILES)
    with pytest.raises(CannotWrite, match="Input/output"):
        send(destination, made, base=destination.current())
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    send(destination, made, base=destination.current())
    assert held(tmp_path / "out").keys() == {*FILES, "README.md", "hubpub.json"}
    assert check_release(tmp_path / "out") == ()


def test_what_a_killed_run_left_behind_goes_away(tmp_path: Path) -> None:
    destination = FolderDestination(tmp_path / "out")
    made = release(tmp_path / "made", FILES)
    send(destination, made, base=destination.current())
    (tmp_path / "out" / PARTIAL).mkdir()
    (tmp_path / "out" / PARTIAL / "0").write_bytes(b"half")
    assert send(destination, made, base=destination.current()).nothing_to_do
    assert not (tmp_path / "out" / PARTIAL).exists()


def test_operation_that_would_leave_the_folder(tmp_path: Path) -> None:
    destination = FolderDestination(tmp_path / "out")
    made = release(tmp_path / "made", {"original/packages/vocab.json": b"{}"})
    evil = Operation(action="removed", path="../made/original/packages/vocab.json", size=2)
    with pytest.raises(UnsafeArchive):
        destination.deliver(made, [evil], base=destination.current())
    assert (tmp_path / "made/original/packages/vocab.json").exists()


def test_check_release_finds_what_is_wrong(tmp_path: Path) -> None:
    destination = FolderDestination(tmp_path / "out")
    send(destination, release(tmp_path / "made", FILES), base=destination.current())
    out = tmp_path / "out"
    weight = next(path for path in FILES if path.endswith("weight.bin"))
    (out / weight).write_bytes(bytes(len(FILES[weight])))
    (out / "original/packages/merges.txt").unlink()
    (out / "original/packages/Stray.mlpackage").mkdir()
    (out / "original/packages/Stray.mlpackage/x").write_text("")
    (out / "thesis.tex").write_text("not ours")
    findings = check_release(out)
    assert findings is not None
    assert {(finding.path, finding.problem) for finding in findings} == {
        (weight, "has other bytes"),
        ("original/packages/merges.txt", "is missing"),
        ("original/packages/Stray.mlpackage/x", "does not belong to it"),
    }
    assert check_release(tmp_path) is None
    (out / "hubpub.json").write_text('{"format": 1, "variants": {}, "files": [{"path": "../x", "size": 1}]}')
    assert [finding.path for finding in check_release(out) or ()] == ["hubpub.json"]
