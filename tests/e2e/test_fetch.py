"""Fetching with the real client from the embedded Hub: checked, resumed, flat, and safe against what others wrote."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hubpub.errors import (
    AccessDenied,
    CannotWrite,
    ConfigError,
    DigestMismatch,
    FetchError,
    NoSpace,
    NoSuchVariant,
    UnsafeArchive,
)
from hubpub.localhub import Fault, LocalHub, running
from hubpub.remote import folder_check, offers
from hubpub.remote.cache import FetchCache, look_up
from hubpub.remote.destinations import release_files, send
from hubpub.remote.destinations.hub import HubDestination
from hubpub.remote.hub import Hub, session
from hubpub.verbs.fetch import fetch, run
from tests.e2e.releases import REPO, noise, release, tree, zipped

PACKAGES = "original/packages"
WEIGHT = "Stable_Diffusion_version_a_b_unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
FILES = tree(seed="fetch", size=3_000_000)


@pytest.fixture
def published(local: LocalHub, tmp_path: Path) -> str:
    """The repo id of a release of two attentions; its commit is the head of main."""
    folder = tmp_path / "made"
    release_files(release(folder, FILES), folder)
    local.storage.import_folder(REPO, folder)
    return REPO


@pytest.fixture
def sent(hub: Hub, tmp_path: Path, mode: str) -> str:
    """The same, sent by the client in either mode."""
    destination = HubDestination(hub, REPO)
    send(destination, release(tmp_path / "made", FILES), base=destination.current())
    return REPO


def held(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def wanted(prefix: str, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    files = FILES if files is None else files
    return {
        path.removeprefix(prefix + "/"): content for path, content in files.items() if path.startswith(prefix + "/")
    }


def foreign(
    local: LocalHub, files: dict[str, bytes], tmp_path: Path, repo_id: str = "apple/coreml-x", **how: bool
) -> str:
    """A repo that hubpub did not make."""
    for path, content in files.items():
        place = tmp_path / "foreign" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    local.storage.import_folder(repo_id, tmp_path / "foreign", **how)
    return repo_id


def test_flat_folder_checked_and_then_milliseconds(
    mode: str,
    sent: str,
    local: LocalHub,
    hub: Hub,
    cache: FetchCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    heard: list[tuple[int, int, str]] = []
    fetched = run(sent, hub=hub, cache=cache, progress=lambda *told: heard.append(told))
    assert fetched.folder == Path("models/coreml-tiny-palettized_original_packages")
    assert held(fetched.folder) == wanted(PACKAGES)
    assert not any(path.is_symlink() for path in fetched.folder.rglob("*"))
    assert fetched.commit == hub.commit(sent)
    # files with the same bytes come once
    assert fetched.received == sum(len(content) for content in set(wanted(PACKAGES).values()))
    assert heard[-1][:2] == (fetched.received, fetched.received)
    assert json.loads(json.dumps(fetched.to_json()))["path"] == str(fetched.folder)

    before, started = len(local.requests), time.perf_counter()
    again = run(sent, hub=hub, cache=FetchCache(tmp_path / "store"))
    seconds = time.perf_counter() - started
    assert (again.missing, again.received) == ((), 0)
    assert len(local.requests) - before == 1  # where is main?
    assert seconds < 0.5
    run(sent, hub=hub, cache=cache, revision=fetched.commit)
    assert len(local.requests) - before == 1  # a commit needs no question


@pytest.mark.usefixtures("lfs")
class TestFiles:
    """The files of a variant."""

    def test_public_function(self, published: str, local: LocalHub, tmp_path: Path) -> None:
        folder = fetch(published, "split_einsum_v2/compiled", dest=tmp_path / "out", endpoint=local.endpoint)
        assert folder == tmp_path / "out"
        assert held(folder) == wanted("split_einsum_v2/compiled")

    def test_dry_run_writes_nothing(self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path) -> None:
        fetched = run(published, hub=hub, cache=cache, dest=tmp_path / "out", dry_run=True)
        assert {file.path for file in fetched.missing} == set(wanted(PACKAGES))
        assert fetched.dry_run
        assert not (tmp_path / "out").exists()

    def test_only_what_is_missing_or_changed_comes_again(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        run(published, hub=hub, cache=cache, dest=out)
        (out / "vocab.json").unlink()
        (out / "merges.txt").write_bytes(b"B b\n")  # as long as before
        (out / WEIGHT).write_bytes((out / WEIGHT).read_bytes()[:-1])
        fetched = run(published, hub=hub, cache=cache, dest=out)
        assert {file.path for file in fetched.missing} == {"vocab.json", "merges.txt", WEIGHT}
        assert held(out) == wanted(PACKAGES)

    def test_stale_files_are_told_and_removed_only_inside_models_and_only_with_force(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        for name in ("Old.mlpackage/Data/weight.bin", "notes/mine.txt", "holiday.jpg"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(b"x")
        fetched = run(published, hub=hub, cache=cache, dest=out)
        assert fetched.extra == ("Old.mlpackage/Data/weight.bin", "holiday.jpg", "notes/mine.txt")
        assert (out / "Old.mlpackage/Data/weight.bin").exists()
        forced = run(published, hub=hub, cache=cache, dest=out, force=True)
        assert forced.removed == ("Old.mlpackage/Data/weight.bin",)
        assert forced.extra == ("holiday.jpg", "notes/mine.txt")
        assert not (out / "Old.mlpackage").exists()
        assert (out / "holiday.jpg").exists()
        assert forced.received > 0

    def test_new_commit_brings_the_new_file_alone(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        first = run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        files = {**FILES, f"{PACKAGES}/vocab.json": b'{"b": 2}'}
        destination = HubDestination(hub, REPO)
        send(destination, release(tmp_path / "made2", files), base=destination.current())
        second = run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        assert [file.path for file in second.missing] == ["vocab.json"]
        assert held(tmp_path / "out") == wanted(PACKAGES, files)
        old = run(published, hub=hub, cache=cache, dest=tmp_path / "old", revision=first.commit)
        assert held(old.folder) == wanted(PACKAGES)

    def test_unknown_variant_lists_what_there_is(self, published: str, hub: Hub, cache: FetchCache) -> None:
        with pytest.raises(NoSuchVariant) as caught:
            run(published, "original/package", hub=hub, cache=cache)
        for name in ("original/packages", "original/compiled", "original/zip", "split_einsum_v2/packages"):
            assert name in str(caught.value)
        assert "original/packages" in caught.value.hint

    def test_missing_repo_and_revision(self, published: str, hub: Hub, cache: FetchCache) -> None:
        with pytest.raises(FetchError, match="no repo me/none"):
            run("me/none", hub=hub, cache=cache)
        with pytest.raises(FetchError, match="revision"):
            run(published, hub=hub, cache=cache, revision="v9")

    def test_gated(self, local: LocalHub, cache: FetchCache, tmp_path: Path) -> None:
        foreign(local, {"original/packages/A.mlpackage/x": b"x"}, tmp_path, gated=True)
        with pytest.raises(AccessDenied, match="gated") as caught:
            run("apple/coreml-x", hub=Hub(local.endpoint, local.token), cache=cache, dest=tmp_path / "out")
        assert "hf auth login" in caught.value.hint


@pytest.mark.usefixtures("lfs")
class TestTrouble:
    """What can happen on the way."""

    def test_corrupted_once_is_brought_again(
        self, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        local.faults.add(Fault(kind="corrupt", method="GET", path="/cdn/", at=1_000_000))
        fetched = run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        assert len(local.faults.fired) == 1
        assert held(fetched.folder) == wanted(PACKAGES)

    def test_corrupted_always_never_appears(
        self, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        local.faults.add(Fault(kind="corrupt", method="GET", path="/cdn/", at=1_000_000, times=None))
        with pytest.raises(DigestMismatch, match=r"weight\.bin"):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        assert not (tmp_path / "out" / WEIGHT).exists()
        local.faults.clear()
        assert held(run(published, hub=hub, cache=cache, dest=tmp_path / "out").folder) == wanted(PACKAGES)

    @pytest.mark.parametrize("kind", ["reset", "truncate"])
    def test_connection_that_breaks_is_resumed_where_it_broke(
        self, kind: str, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        (tmp_path / "out" / WEIGHT).unlink()
        before = len(local.requests)
        local.faults.add(Fault(kind=kind, method="GET", path="/cdn/", at=2_000_000))  # type: ignore[arg-type]
        fetched = run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        assert held(fetched.folder) == wanted(PACKAGES)
        sent = [seen.sent for seen in local.requests[before:] if "/cdn/" in seen.path]
        assert len(sent) == 2
        assert sent[1] == pytest.approx(1_000_000, abs=70_000)

    def test_a_partial_file_of_a_killed_process_is_continued(
        self, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        program = f"""
import hubpub
hubpub.fetch({published!r}, endpoint={local.endpoint!r}, token={local.token!r}, dest={str(out)!r})
"""
        # the connection breaks at two thirds and what comes after it hangs
        digest = hashlib.sha256(FILES[f"{PACKAGES}/{WEIGHT}"]).hexdigest()
        local.faults.add(Fault(kind="truncate", method="GET", path=f"/cdn/{digest}", at=2_000_000))
        local.faults.add(Fault(kind="delay", method="GET", path=f"/cdn/{digest}", times=None, seconds=4))
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HUBPUB_CACHE": str(tmp_path / "other")}
        child = subprocess.Popen([sys.executable, "-c", program], env=environment)
        partial = out / ".hubpub-partial" / digest
        try:
            wait_until(lambda: partial.exists() and partial.stat().st_size >= 1_900_000)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        wait_until(lambda: any(f"/cdn/{digest}" in seen.path for seen in local.requests))  # logged at its end
        local.faults.clear()
        assert not (out / WEIGHT).exists()
        have = partial.stat().st_size
        assert have < 3_000_000
        before = len(local.requests)
        run(published, hub=hub, cache=cache, dest=out)
        assert held(out) == wanted(PACKAGES)
        sent = [seen.sent for seen in local.requests[before:] if f"/cdn/{digest}" in seen.path]
        assert sent == [3_000_000 - have]

    def test_a_partial_file_with_wrong_bytes_is_thrown_away(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        for size in (1_000_000, 3_000_000, 4_000_000):
            partial = out / ".hubpub-partial" / hashlib.sha256(FILES[f"{PACKAGES}/{WEIGHT}"]).hexdigest()
            partial.parent.mkdir(parents=True)
            partial.write_bytes(b"\0" * size)
            (out / WEIGHT).unlink(missing_ok=True)
            run(published, hub=hub, cache=cache, dest=out)
            assert held(out) == wanted(PACKAGES)

    def test_login_page_instead_of_a_file(
        self, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        local.faults.add(Fault(kind="status", method="GET", path="/cdn/", status=200, times=None))
        time.monotonic()
        with pytest.raises(DigestMismatch, match="bytes"):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")

    def test_down_for_good_ends_in_a_sentence(
        self,
        published: str,
        local: LocalHub,
        hub: Hub,
        cache: FetchCache,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(session, "PATIENCE", 1.5)
        local.faults.add(Fault(kind="status", method="GET", path="/cdn/", status=503, times=None))
        with pytest.raises(FetchError, match="503"):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")

    def test_no_space_is_found_before_the_first_byte(
        self,
        published: str,
        local: LocalHub,
        hub: Hub,
        cache: FetchCache,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("hubpub.files.disk.SPARE", 1 << 60)
        with pytest.raises(NoSpace, match="GB"):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        assert not any("/cdn/" in seen.path for seen in local.requests)

    def test_two_at_once_share_the_work(
        self, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        results = []
        threads = [
            threading.Thread(
                target=lambda: results.append(
                    run(published, hub=hub, cache=FetchCache(tmp_path / "store"), dest=tmp_path / "out")
                )
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(result.received > 0 for result in results) == [False, False, True]
        assert held(tmp_path / "out") == wanted(PACKAGES)

    def test_links_in_the_folder_are_not_followed(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside.txt"
        outside.write_bytes(b"mine")
        out = tmp_path / "out"
        out.mkdir()
        (out / "merges.txt").symlink_to(outside)
        run(published, hub=hub, cache=cache, dest=out)
        assert outside.read_bytes() == b"mine"
        assert not (out / "merges.txt").is_symlink()
        other = tmp_path / "other"
        other.mkdir()
        (tmp_path / "elsewhere").mkdir()
        (other / WEIGHT.partition("/")[0]).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UnsafeArchive, match="link"):
            run(published, hub=hub, cache=cache, dest=other)
        assert not any((tmp_path / "elsewhere").iterdir())

    def test_dest_that_is_a_file(self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("x")
        with pytest.raises(CannotWrite, match="no folder"):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")


@pytest.mark.usefixtures("lfs")
class TestOffline:
    """HF_HUB_OFFLINE=1."""

    @pytest.fixture
    def offline(self, monkeypatch: pytest.MonkeyPatch, local: LocalHub) -> object:
        from huggingface_hub import constants

        return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def test_complete_returns_at_once(
        self, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path, offline: object
    ) -> None:
        run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        before = len(local.requests)
        offline()  # type: ignore[operator]
        assert run(published, hub=hub, cache=cache, dest=tmp_path / "out").missing == ()
        assert len(local.requests) == before

    def test_incomplete_says_what_is_missing(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path, offline: object
    ) -> None:
        run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        (tmp_path / "out/vocab.json").unlink()
        offline()  # type: ignore[operator]
        with pytest.raises(FetchError, match=r"vocab\.json"):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        with pytest.raises(FetchError, match="not been looked up"):
            run(published, hub=hub, cache=cache, revision="other")


@pytest.mark.usefixtures("lfs")
class TestArchives:
    """--zip."""

    def test_unpacked_flat_then_nothing(
        self,
        published: str,
        local: LocalHub,
        hub: Hub,
        cache: FetchCache,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        fetched = run(published, hub=hub, cache=cache, archive=True)
        assert fetched.folder == Path("models/coreml-tiny-palettized_original_compiled")
        assert held(fetched.folder) == wanted("original/compiled")
        assert [path.name for path in Path("models").iterdir()] == [fetched.folder.name]
        before = len(local.requests)
        assert run(published, "original/compiled", archive=True, hub=hub, cache=cache).missing == ()
        assert len(local.requests) - before == 1

    def test_ours_is_replaced_and_others_are_not(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        run(published, hub=hub, cache=cache, archive=True, dest=out)
        (out / "vocab.json").write_bytes(b"changed!")
        with pytest.raises(FetchError, match="not what the archive"):
            run(published, hub=hub, cache=cache, archive=True, dest=out)
        run(published, hub=hub, cache=cache, archive=True, dest=out, force=True)
        assert held(out) == wanted("original/compiled")
        files = tree(seed="newer", size=3_000_000)
        destination = HubDestination(hub, REPO)
        send(destination, release(tmp_path / "newer", files), base=destination.current())
        run(published, hub=hub, cache=cache, archive=True, dest=out)  # ours and unchanged: replaced
        assert held(out) == wanted("original/compiled", files)
        (out / "thesis.tex").write_text("years of work")
        with pytest.raises(FetchError, match=r"thesis\.tex"):
            run(published, hub=hub, cache=cache, archive=True, dest=out, force=True)
        assert (out / "thesis.tex").exists()

    def test_killed_while_unpacking_then_from_what_is_here(
        self,
        published: str,
        local: LocalHub,
        hub: Hub,
        cache: FetchCache,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        out = tmp_path / "models/out"

        def killed(archive: Path, folder: Path) -> None:
            (folder / "half").mkdir(parents=True)
            raise KeyboardInterrupt

        monkeypatch.setattr("hubpub.verbs.fetch.unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            run(published, hub=hub, cache=cache, archive=True, dest=out)
        assert not out.exists()
        monkeypatch.undo()
        before = len(local.requests)
        assert run(published, hub=hub, cache=cache, archive=True, dest=out).received == 0
        assert not any("/cdn/" in seen.path for seen in local.requests[before:])
        assert held(out) == wanted("original/compiled")
        assert [path.name for path in out.parent.iterdir()] == ["out"]

    def test_disk_that_fills_up(
        self, published: str, hub: Hub, cache: FetchCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(archive: Path, folder: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("hubpub.verbs.fetch.unpack", full)
        with pytest.raises(NoSpace):
            run(published, hub=hub, cache=cache, archive=True, dest=tmp_path / "out")

    def test_unsafe_archive_leaves_nothing(self, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path) -> None:
        bad = zipped("a", {"../../escaped.txt": b"x", "Unet.mlmodelc/x": b"y"})
        foreign(local, {"coreml-x_original_compiled.zip": bad}, tmp_path)
        with pytest.raises(UnsafeArchive):
            run("apple/coreml-x", hub=hub, cache=cache, archive=True, dest=tmp_path / "in/models/out")
        assert not list((tmp_path / "in/models").iterdir())
        assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.usefixtures("lfs")
class TestReposOfOthers:
    """No manifest, or one that lies."""

    def test_apple_layout_without_manifest(self, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path) -> None:
        files = {
            "original/packages/A_unet.mlpackage/Data/weights/weight.bin": noise(1, 50_000),
            "original/packages/A_unet.mlpackage/Manifest.json": b"{}",
            "original/.DS_Store": b"x",
            "split_einsum/compiled/Unet.mlmodelc/metadata.json": b"[]",
            "split_einsum/compiled/vocab.json": b"{}",
            "README.md": b"---\nlicense: other\n---\n",
        }
        repo = foreign(local, files, tmp_path)
        assert [offer.name for offer in offers.offers(look_up(repo, hub=hub, revision=None, cache=cache))] == [
            "original/packages",
            "split_einsum/compiled",
        ]
        fetched = run(repo, "split_einsum/compiled", hub=hub, cache=cache, dest=tmp_path / "out")
        assert held(fetched.folder) == wanted("split_einsum/compiled", files)
        run(repo, hub=hub, cache=cache, dest=tmp_path / "two")
        assert held(tmp_path / "two") == wanted(PACKAGES, files)

    def test_small_files_without_manifest_are_checked_by_blob_id(
        self, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        repo = foreign(local, {"original/packages/A.mlpackage/Manifest.json": b'{"a": "abcdef"}'}, tmp_path)
        local.faults.add(Fault(kind="corrupt", method="GET", path=r"/resolve/.*Manifest\.json", at=5, times=None))
        with pytest.raises(DigestMismatch):
            run(repo, hub=hub, cache=cache, dest=tmp_path / "out")

    def test_manifest_that_does_not_fit_its_repo(
        self, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        from huggingface_hub import CommitOperationAdd

        changed = CommitOperationAdd(f"{PACKAGES}/{WEIGHT}", noise("other", 3_000_000))
        hub.api.create_commit(published, [changed], commit_message="By hand")
        with pytest.raises(DigestMismatch, match=r"weight\.bin"):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        hub.api.delete_file(f"{PACKAGES}/vocab.json", published)
        with pytest.raises(DigestMismatch):
            run(published, hub=hub, cache=cache, dest=tmp_path / "out")

    @pytest.mark.parametrize("name", ["A.mlpackage/CON", "A.mlpackage/a:b", "A.mlpackage/x "])
    def test_unsafe_names_in_a_repo(
        self, name: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
    ) -> None:
        foreign(local, {f"original/packages/{name}": b"x"}, tmp_path)
        with pytest.raises(UnsafeArchive):
            run("apple/coreml-x", hub=hub, cache=cache, dest=tmp_path / "out")

    def test_names_that_coincide(self, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path) -> None:
        foreign(local, {"original/packages/A.mlpackage/x": b"x", "original/packages/A.mlpackage/X": b"y"}, tmp_path)
        with pytest.raises(UnsafeArchive, match="same file"):
            run("apple/coreml-x", hub=hub, cache=cache, dest=tmp_path / "out")


@pytest.mark.usefixtures("lfs")
def test_check_of_a_folder_fetched_long_ago(published: str, hub: Hub, cache: FetchCache, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(published, hub=hub, cache=cache, dest=out)
    known = FetchCache(tmp_path / "store").fetched(out)
    assert known is not None
    assert (known["repo_id"], known["variant"]) == (published, PACKAGES)
    assert folder_check.check(out, known) == ()
    status = (out / WEIGHT).stat()
    content = bytearray((out / WEIGHT).read_bytes())
    content[5] ^= 1
    (out / WEIGHT).write_bytes(content)
    os.utime(out / WEIGHT, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk would
    (out / "merges.txt").unlink()
    (out / "vocab.json").write_bytes(b"")
    (out / "more.txt").write_bytes(b"")
    assert {(finding.path, finding.problem) for finding in folder_check.check(out, known)} == {
        (WEIGHT, "has other bytes"),
        ("merges.txt", "is missing"),
        ("vocab.json", "has 0 bytes instead of 8"),
        ("more.txt", "does not belong to it"),
    }


@pytest.mark.usefixtures("lfs")
def test_embedded_hub_and_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`endpoint="local"` starts the embedded Hub on its folder; hubpub.toml names the repo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUBPUB_HUB", str(tmp_path / "data"))
    release_files(release(tmp_path / "made", FILES), tmp_path / "made")
    with running(tmp_path / "data") as started:
        started.storage.import_folder(REPO, tmp_path / "made")
    with pytest.raises(ConfigError, match="No repo"):
        fetch(endpoint="local")
    Path("hubpub.toml").write_text(f'[[models]]\nsource = "a/b"\nto = "{REPO}"\n')
    folder = fetch(endpoint="local", zip=True)
    assert folder == Path("models/coreml-tiny-palettized_original_compiled")
    assert held(folder) == wanted("original/compiled")


def test_no_network_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_reached", threading.Event())
    monkeypatch.setattr(session, "_FIRST_PATIENCE", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        fetch("a/b", endpoint=f"http://127.0.0.1:{port}", dest=tmp_path / "out")
    assert "network" in caught.value.hint


def test_listing_is_pinned(
    lfs: None, published: str, local: LocalHub, hub: Hub, cache: FetchCache, tmp_path: Path
) -> None:
    """What is fetched is of one commit, even when main moves while it is downloaded."""
    state = look_up(published, hub=hub, revision=None, cache=cache)
    local.faults.add(Fault(kind="stale", method="GET", path="/tree/"))
    fetched = run(published, hub=hub, cache=FetchCache(tmp_path / "fresh"), dest=tmp_path / "out")
    assert fetched.commit == state.commit
    assert held(fetched.folder) == wanted(PACKAGES)


def test_no_heavy_imports(published: str, local: LocalHub, tmp_path: Path) -> None:
    program = f"""
import sys
import hubpub
hubpub.fetch({published!r}, dest={str(tmp_path / "out")!r}, endpoint={local.endpoint!r})
heavy = {{"torch", "coremltools", "diffusers", "transformers", "numba", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HUBPUB_CACHE": str(tmp_path / "other")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def wait_until(true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
