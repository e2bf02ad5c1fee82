"""Publishing with the real client to the embedded Hub: one commit, no byte twice, nothing half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd

from hubpub.errors import (
    AccessDenied,
    CannotWrite,
    CardInvalid,
    ConfigError,
    Conflict,
    HubpubError,
    SourceNotFound,
    UploadFailed,
)
from hubpub.files.digests import Digests
from hubpub.localhub import Fault, LocalHub
from hubpub.release.release import Release
from hubpub.remote.destinations import Receipt, send
from hubpub.remote.destinations.hub import HubDestination
from hubpub.remote.hub import Hub, session
from hubpub.sources.source import Source
from tests.e2e.releases import CARD, REPO, noise, release, tree


def publish(hub: Hub, made: Release, **options: object) -> Receipt:
    destination = HubDestination(hub, REPO, **options)  # type: ignore[arg-type]
    return send(destination, made, base=destination.current())


def commits(hub: Hub, revision: str | None = None) -> list[str]:
    return [commit.title for commit in hub.api.list_repo_commits(REPO, revision=revision)]


def contents(hub: Hub, revision: str | None = None) -> dict[str, str | None]:
    state = hub.state(REPO, revision)
    assert state is not None
    return {file.path: file.digest.value for file in state.files}


def test_one_commit_each_byte_once_then_nothing_to_do(mode: str, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    files = tree(
        seed=(mode, os.urandom(8)), size=8_000_000
    )  # what blocks of 64 kB cost at the edges is little beside it
    heard: list[tuple[int, int, str]] = []
    destination = HubDestination(hub, REPO, tag="v1")
    made = release(tmp_path / "made", files)
    receipt = send(destination, made, base=destination.current(), progress=lambda *told: heard.append(told))

    assert commits(hub) == ["Tiny as Core ML: two attentions", "initial commit"]
    assert set(contents(hub)) == {*files, "README.md", "hubpub.json", ".gitattributes"}
    assert receipt.operations == {"new": len(files) + 2, "changed": 0, "same": 0, "removed": 0, "copied": 0}
    assert not receipt.nothing_to_do
    assert receipt.tag == "v1"
    assert receipt.commit == hub.commit(REPO, "v1")
    assert heard[-1][0] == heard[-1][1] > 0
    # the text encoder is in four places, the archives repeat the bundles
    unique = sum({content: len(content) for content in files.values()}.values())
    zips = sum(len(content) for path, content in files.items() if path.endswith(".zip"))
    expected = unique - zips if mode == "xet" else unique  # xet finds the archives' bytes in the files beside them
    # random bytes, cut into blocks of about 64 kB: where an archive's file begins, one or two are new
    assert local.received(mode) == pytest.approx(expected, rel=0.25 if mode == "xet" else 0.1)
    assert receipt.sent_bytes == pytest.approx(local.received(mode) + local.received("commit"), rel=0.1)
    assert sum(len(content) for content in files.values()) > 1.5 * local.received(mode)

    before = local.received()
    again = publish(hub, release(tmp_path / "made", files, run="tomorrow"), tag="v1")
    assert again.nothing_to_do
    assert again.commit == receipt.commit
    assert len(commits(hub)) == 2
    assert local.received() - before < 1000


def test_other_variants_and_foreign_files_are_kept(mode: str, hub: Hub, tmp_path: Path) -> None:
    seed = os.urandom(8)
    publish(hub, release(tmp_path / "one", tree(("original",), seed=seed)))
    hub.api.create_commit(REPO, [CommitOperationAdd("notes.md", b"mine")], commit_message="A note")
    state = hub.state(REPO)
    assert state is not None
    second = release(tmp_path / "two", tree(("split_einsum_v2",), seed=seed), old=state.manifest)
    receipt = publish(hub, second)
    there = contents(hub)
    assert set(tree(seed=seed)) | {"notes.md"} <= set(there)
    assert receipt.operations["removed"] == 0
    assert receipt.operations["copied"] >= 2  # the text encoder lies there under another attention
    kept = hub.state(REPO)
    assert kept is not None
    assert kept.manifest is not None
    assert set(kept.manifest["variants"]) == {
        f"{attention}/{form}"
        for attention in ("original", "split_einsum_v2")
        for form in ("packages", "compiled", "zip")
    }


def test_files_that_a_variant_no_longer_has_are_removed(lfs: None, hub: Hub, tmp_path: Path) -> None:
    files = tree(("original",), seed=os.urandom(8))
    publish(hub, release(tmp_path / "one", files))
    stale = next(path for path in files if path.endswith("text_encoder.mlmodelc/metadata.json"))
    files.pop(stale)
    receipt = publish(hub, release(tmp_path / "two", files))
    assert receipt.operations["removed"] == 1
    assert stale not in contents(hub)


def test_copies_send_nothing(mode: str, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    content = noise(os.urandom(8), 300_000)
    publish(hub, release(tmp_path / "one", {"original/packages/a.mlpackage/weight.bin": content}))
    before = local.received()
    both = {f"{attention}/packages/a.mlpackage/weight.bin": content for attention in ("original", "split_einsum")}
    receipt = publish(hub, release(tmp_path / "two", both))
    assert receipt.operations["copied"] == 1
    assert receipt.planned_bytes < 5000  # the card and the manifest
    assert local.received() - before < 10_000


def test_killed_in_the_middle_nothing_shows_and_the_next_run_goes_on(
    mode: str, local: LocalHub, hub: Hub, tmp_path: Path
) -> None:
    program = f"""
import os
from pathlib import Path
from tests.e2e.test_publish_hub import *
hub = Hub({local.endpoint!r}, {local.token!r})
publish(hub, release(Path({str(tmp_path / "made")!r}), tree(seed=7, size=6_000_000)))
"""
    # The archives come last; by then the unique files are there.
    local.faults.add(Fault(kind="delay", method="POST", path="/preupload/", skip=2, times=None, seconds=4))
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1" if mode == "lfs" else "0", "PYTHONPATH": str(Path.cwd())}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        wait_until(lambda: any("/preupload/" in path for _, _, path in local.faults.fired))
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    local.faults.clear()
    first = local.received(mode)
    assert first > 10_000_000
    assert commits(hub) == ["initial commit"]
    assert set(contents(hub)) == {".gitattributes"}

    publish(hub, release(tmp_path / "made", tree(seed=7, size=6_000_000)))
    assert len(commits(hub)) == 2
    zips = sum(len(content) for path, content in tree(seed=7, size=6_000_000).items() if path.endswith(".zip"))
    assert local.received(mode) - first < (1_000_000 if mode == "xet" else zips * 1.1)


def test_an_interrupt_ends_an_upload_at_once(lfs: None, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    program = f"""
import time
from hubpub.remote.hub import session
class Slow(session._Counted):
    def __iter__(self):
        for block in super().__iter__():
            time.sleep(0.2)
            yield block
session._Counted = Slow
from tests.e2e.test_publish_hub import *
hub = Hub({local.endpoint!r}, {local.token!r})
publish(hub, release(Path({str(tmp_path / "made")!r}), tree(seed=9, size=6_000_000)))  # would take 20 s
"""
    environment = {**os.environ, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(Path.cwd())}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("/objects/batch" in seen.path for seen in local.requests))
    time.sleep(0.5)
    time.monotonic()
    child.send_signal(signal.SIGINT)
    child.wait()
    assert commits(hub) == ["initial commit"]


def test_somebody_else_commits_in_between(lfs: None, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    files = tree(("original",), seed=os.urandom(8))
    publish(hub, release(tmp_path / "one", files))
    files["original/packages/vocab.json"] = b"{}"
    local.faults.add(Fault(kind="stale", method="POST", path="/commit/"))
    with pytest.raises(Conflict) as caught:
        publish(hub, release(tmp_path / "two", files))
    assert "changed" in str(caught.value)
    assert "again" in caught.value.hint
    receipt = publish(hub, release(tmp_path / "two", files))  # again, on what is there now
    assert receipt.operations["changed"] == 2  # that file and the manifest
    assert contents(hub)["original/packages/vocab.json"] != ""


@pytest.mark.parametrize("kind", ["lost", "status", "refuse"])
def test_an_open_answer_to_the_commit_makes_no_second_commit(
    lfs: None, kind: str, local: LocalHub, hub: Hub, tmp_path: Path
) -> None:
    local.faults.add(Fault(kind=kind, method="POST", path="/commit/", status=503))  # type: ignore[arg-type]
    receipt = publish(hub, release(tmp_path, tree(("original",), seed=os.urandom(8))))
    assert commits(hub) == ["Tiny as Core ML: two attentions", "initial commit"]
    assert receipt.commit == hub.commit(REPO)
    posted = sum("/commit/" in seen.path for seen in local.requests)
    assert posted == (1 if kind == "lost" else 2)


def test_transient_errors_are_tried_again(lfs: None, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    for fault in (
        Fault(kind="status", path="/api/models/", method="GET", status=500),
        Fault(kind="status", path="/preupload/", status=429, retry_after=1),
        Fault(kind="refuse", path="/lfs/put/"),
        Fault(kind="status", path="/tree/", status=502),
        Fault(kind="status", path="/tag/", status=503),
    ):
        local.faults.add(fault)
    receipt = publish(hub, release(tmp_path, tree(("original",), seed=os.urandom(8))), tag="v1")
    assert len(local.faults.fired) == 5
    assert hub.commit(REPO, "v1") == receipt.commit


def test_storage_of_chunks_that_fails_once_is_tried_again(local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    local.faults.add(Fault(kind="status", method="POST", path="/xorbs/", status=503))
    local.faults.add(Fault(kind="refuse", method="POST", path="/shards"))
    receipt = publish(hub, release(tmp_path, tree(("original",), seed=os.urandom(8))))
    assert len(local.faults.fired) == 2
    assert receipt.commit == hub.commit(REPO)


def test_a_hub_without_xet(local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    local.faults.add(Fault(kind="status", path="/xet-write-token/", status=404, times=None))
    with pytest.raises(UploadFailed, match="xet") as caught:
        publish(hub, release(tmp_path, tree(("original",), seed=os.urandom(8))))
    assert "HF_HUB_DISABLE_XET=1" in caught.value.hint


def test_a_hub_that_stays_down_ends_in_a_sentence(
    lfs: None, local: LocalHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "PATIENCE", 2.0)
    publish(hub, release(tmp_path / "one", tree(("original",), seed=os.urandom(8))))
    local.faults.add(Fault(kind="status", path="/commit/", times=None, status=503))
    time.monotonic()
    with pytest.raises(UploadFailed, match="503"):
        publish(hub, release(tmp_path / "two", tree(("original",), seed=os.urandom(8))))
    assert len(commits(hub)) == 2


def test_a_long_retry_after_is_told_not_waited_for(lfs: None, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    local.faults.add(Fault(kind="status", path="/preupload/", status=429, retry_after=3600, times=None))
    time.monotonic()
    with pytest.raises(UploadFailed, match="60 min"):
        publish(hub, release(tmp_path, tree(("original",))))


def test_an_upload_that_is_damaged_on_the_way_is_not_committed(
    lfs: None, local: LocalHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.faults.add(Fault(kind="corrupt-upload", path="/lfs/put/", at=100, times=None))
    with pytest.raises(HubpubError):
        publish(hub, release(tmp_path, tree(("original",), seed=os.urandom(8))))
    assert commits(hub) == ["initial commit"]


def test_pull_request_is_opened_once_and_continued(mode: str, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    seed = os.urandom(8)
    publish(hub, release(tmp_path / "one", {"original/packages/vocab.json": b"{}"}))
    main = contents(hub)
    files = tree(("original",), seed=seed)
    first = publish(hub, release(tmp_path / "two", files), create_pr=True)
    assert first.pull_request == f"{local.endpoint}/{REPO}/discussions/1"
    assert first.url == first.pull_request
    assert contents(hub) == main
    assert set(files) <= set(contents(hub, "refs/pr/1"))

    again = publish(hub, release(tmp_path / "two", files, run="tomorrow"), create_pr=True)
    assert again.nothing_to_do
    files["original/packages/merges.txt"] = b"b c\n"
    third = publish(hub, release(tmp_path / "three", files), create_pr=True)
    assert third.pull_request == first.pull_request
    assert third.operations["changed"] == 2
    assert [pull.num for pull in hub.api.get_repo_discussions(REPO)] == [1]
    assert contents(hub) == main


def test_pull_request_whose_answer_was_lost_is_found(lfs: None, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    publish(hub, release(tmp_path / "one", {"original/packages/vocab.json": b"{}"}))
    local.faults.add(Fault(kind="lost", method="POST", path="/commit/"))
    receipt = publish(hub, release(tmp_path / "two", tree(("original",), seed=1)), create_pr=True)
    assert receipt.pull_request is not None
    assert receipt.pull_request.endswith("/1")
    assert len(list(hub.api.get_repo_discussions(REPO))) == 1


def test_a_pull_request_cannot_be_tagged(hub: Hub) -> None:
    with pytest.raises(ConfigError, match="pull request"):
        HubDestination(hub, REPO, create_pr=True, tag="v1")


def test_branch_starts_at_main_and_leaves_it_alone(lfs: None, hub: Hub, tmp_path: Path) -> None:
    publish(hub, release(tmp_path / "one", {"original/packages/vocab.json": b"{}"}))
    main = contents(hub)
    files = tree(("original",), seed=os.urandom(8))
    receipt = publish(hub, release(tmp_path / "two", files), branch="staging")
    assert contents(hub) == main
    assert set(files) <= set(contents(hub, "staging"))
    assert receipt.commit == hub.commit(REPO, "staging")
    assert publish(hub, release(tmp_path / "two", files), branch="staging").nothing_to_do


def test_tag_on_another_commit_is_a_conflict_before_anything_is_sent(
    lfs: None, local: LocalHub, hub: Hub, tmp_path: Path
) -> None:
    publish(hub, release(tmp_path / "one", {"original/packages/vocab.json": b"{}"}), tag="v1")
    before = local.received()
    with pytest.raises(Conflict, match="v1"):
        publish(hub, release(tmp_path / "two", tree(("original",), seed=os.urandom(8))), tag="v1")
    assert local.received() - before < 1000
    assert len(commits(hub)) == 2


def test_tag_that_a_killed_run_left_out_is_made(lfs: None, hub: Hub, tmp_path: Path) -> None:
    made = release(tmp_path, {"original/packages/vocab.json": b"{}"})
    publish(hub, made)
    receipt = publish(hub, made, tag="v1")
    assert not receipt.nothing_to_do
    assert hub.commit(REPO, "v1") == receipt.commit
    assert len(commits(hub)) == 2


@pytest.mark.parametrize(
    "card",
    [
        "---\nlicense: [unclosed\n---\n",
        "---\nlicense: mit\n",
        "---\n- a list\n---\n",
        "---\nlicense: no-such-licence\n---\n",
    ],
)
def test_invalid_card_before_anything_is_sent(card: str, lfs: None, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CardInvalid):
        publish(hub, release(tmp_path, tree(("original",)), card=card))
    assert not any("/preupload/" in seen.path or "/repos/create" in seen.path for seen in local.requests)


def test_who_may_not_write_is_told_so(lfs: None, local: LocalHub, tmp_path: Path) -> None:
    made = release(tmp_path, {"original/packages/vocab.json": b"{}"})
    reader = Hub(local.endpoint, local.read_token)
    assert reader.whoami().can_write is False
    with pytest.raises(CannotWrite, match=REPO) as caught:
        publish(reader, made)
    assert local.read_token not in "".join([str(caught.value), caught.value.hint, *caught.value.__notes__])
    assert caught.value.__suppress_context__
    assert local.read_token not in str(caught.value.__context__)
    with pytest.raises(CannotWrite, match="token"):
        Hub(local.endpoint).whoami()
    with pytest.raises(CannotWrite) as caught:
        Hub(local.endpoint, "hf_wrongwrongwrong").whoami()
    assert "wrongwrong" not in "".join([str(caught.value), *caught.value.__notes__])


def test_gitignore_that_swallows_files_is_noticed(lfs: None, hub: Hub, tmp_path: Path) -> None:
    hub.api.create_repo(REPO)
    hub.api.create_commit(REPO, [CommitOperationAdd(".gitignore", b"*.txt\n")], commit_message="Ignore")
    with pytest.raises(UploadFailed, match=r"merges\.txt"):
        publish(hub, release(tmp_path, {"original/packages/merges.txt": b"a"}))


class TestSources:
    """What a source repo is read for."""

    def test_snapshot_and_download(self, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
        folder = tmp_path / "source"
        (folder / "unet").mkdir(parents=True)
        (folder / "unet/model [fp16].safetensors").write_bytes(noise(os.urandom(8), 500_000))
        (folder / "model_index.json").write_text("{}")
        (folder / "other.bin").write_bytes(b"\0" * 1000)
        (folder / "README.md").write_text(CARD)
        local.storage.import_folder("them/model", folder)
        source = Source(kind="hub", location="them/model", name="them/model")
        snapshot = hub.snapshot(source)
        assert snapshot.commit == hub.commit("them/model")
        digests = {file.path: file.digest.kind for file in snapshot.files}
        assert digests["unet/model [fp16].safetensors"] == "sha256"
        assert digests["model_index.json"] == "git"
        assert hub.card_data("them/model")["license"] == "creativeml-openrail-m"

        wanted = ["unet/model [fp16].safetensors", "model_index.json"]
        heard: list[tuple[int, int, str]] = []
        cache = Digests(tmp_path / "digests.json")
        place = hub.download_source(snapshot, wanted, digests=cache, progress=lambda *told: heard.append(told))
        assert [(place / path).read_bytes() for path in wanted] == [(folder / path).read_bytes() for path in wanted]
        assert not (place / "other.bin").exists()
        assert heard[-1][:2] == (500_002, 500_002)

        weight = (place / wanted[0]).resolve()  # damaged in the client's cache
        weight.chmod(0o644)
        weight.write_bytes(b"\0" * 500_000)
        assert (hub.download_source(snapshot, wanted) / wanted[0]).read_bytes() == (folder / wanted[0]).read_bytes()

    def test_gated_and_missing(self, local: LocalHub, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source/model_index.json").write_text("{}")
        local.storage.import_folder("them/gated", tmp_path / "source", gated=True)
        for repo in (hub, Hub(local.endpoint)):
            source = Source(kind="hub", location="them/gated", name="them/gated")
            with pytest.raises(AccessDenied, match="gated") as caught:
                repo.download_source(repo.snapshot(source), ["model_index.json"])
            assert f"{local.endpoint}/them/gated" in caught.value.hint
            assert "hf auth login" in caught.value.hint
        for location, revision in (("them/none", None), ("them/gated", "v9")):
            source = Source(kind="hub", location=location, name=location, revision=revision)
            with pytest.raises(SourceNotFound):
                hub.snapshot(source)


def wait_until(true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
