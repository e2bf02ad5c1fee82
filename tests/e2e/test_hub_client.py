"""The real huggingface_hub client against the embedded Hub, with xet and without."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    errors,
)

from hubpub.localhub import Fault, Faults, Limits, LocalHub, running
from hubpub.localhub.faults import Kind

CARD = "---\nlicense: mit\nbase_model: org/source\ntags:\n- core-ml\nlibrary_name: coreml\n---\n# A card\n"
SMALL_LIMITS = Limits(multipart_above=1 << 20, part=400_000)


@pytest.fixture(params=["xet", "lfs"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return str(request.param)


@pytest.fixture
def faults() -> Faults:
    return Faults(seed=1)


@pytest.fixture
def hub(tmp_path: Path, faults: Faults) -> Iterator[LocalHub]:
    with running(tmp_path / "hub", faults=faults, limits=SMALL_LIMITS, namespaces=["team"]) as hub:
        yield hub


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of every kind that matters: small text, pattern-large, binary by content, empty, nested, twice the same."""
    root = tmp_path / "source"
    for name, data in {
        "README.md": CARD.encode(),
        "original/packages/weights.bin": os.urandom(2_500_000),
        "original/packages/copy.bin": b"",
        "original/vocab.json": b'{"a": 1}',
        "original/merges.txt": "größer\n".encode(),
        "picture.png": b"\x89PNG\r\n\x1a\n\0\0" + os.urandom(500),
        "a name with spaces & ümlaut.txt": b"text",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "twice.bin").write_bytes((root / "original/packages/weights.bin").read_bytes())
    return root


def adds(folder: Path) -> list[CommitOperationAdd]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def publish(api: HfApi, folder: Path, repo_id: str = "me/model") -> huggingface_hub.CommitInfo:
    api.create_repo(repo_id, exist_ok=True)
    return api.create_commit(repo_id, adds(folder), commit_message="Publish")


def test_publish_and_fetch_are_bit_identical(
    mode: str, hub: LocalHub, api: HfApi, folder: Path, tmp_path: Path
) -> None:
    assert api.whoami()["name"] == "me"
    url = api.create_repo("me/model")
    assert (url.repo_id, url.namespace) == ("me/model", "me")
    head = api.model_info("me/model").sha
    operations = adds(folder)
    api.preupload_lfs_files("me/model", operations, free_memory=False)
    commit = api.create_commit("me/model", operations, commit_message="v1", parent_commit=head)
    assert api.model_info("me/model").sha == commit.oid
    assert commit.commit_url == f"{hub.endpoint}/me/model/commit/{commit.oid}"

    out = tmp_path / "out"
    api.snapshot_download("me/model", revision=commit.oid, local_dir=out)
    fetched = contents(out)
    assert {name: data for name, data in fetched.items() if name != ".gitattributes"} == contents(folder)
    verified = api.verify_repo_checksums("me/model", local_dir=out)
    assert (verified.mismatches, verified.missing_paths, verified.extra_paths) == ([], [], [])
    assert verified.checked_count == len(fetched)

    usage = hub.storage.usage()
    if mode == "xet":
        assert hub.received("xet") > 2_500_000
        assert (usage.lfs, hub.received("lfs")) == (0, 0)
    else:
        assert usage.xet == 0
        assert usage.lfs == 2_500_000 + len(fetched["picture.png"])
        assert any("/lfs/part/" in seen.path for seen in hub.requests)


def test_what_came_by_one_way_is_fetched_by_the_other(
    hub: LocalHub, api: HfApi, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode, other in (("xet", "lfs"), ("lfs", "xet")):
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", mode == "lfs")
        (folder / "twice.bin").write_bytes(os.urandom(300_000))  # new to the Hub each time
        publish(api, folder, f"me/by-{mode}")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", other == "lfs")
        out = tmp_path / f"out-{mode}"
        api.snapshot_download(f"me/by-{mode}", local_dir=out)
        assert contents(out)["twice.bin"] == (folder / "twice.bin").read_bytes()
        assert api.verify_repo_checksums(f"me/by-{mode}", local_dir=out).mismatches == []
    assert hub.storage.usage().rebuilt > 0


def test_the_cache_and_patterns(mode: str, api: HfApi, folder: Path, tmp_path: Path) -> None:
    publish(api, folder)
    path = Path(api.hf_hub_download("me/model", "original/vocab.json", cache_dir=tmp_path / "cache"))
    assert path.read_bytes() == b'{"a": 1}'
    out = Path(api.snapshot_download("me/model", allow_patterns=["original/packages/*"], local_dir=tmp_path / "out"))
    assert set(contents(out)) == {"original/packages/weights.bin", "original/packages/copy.bin"}


def test_identical_content_is_sent_once_over_repos(mode: str, hub: LocalHub, api: HfApi, folder: Path) -> None:
    publish(api, folder)
    before, stored = hub.received(mode), hub.storage.usage()
    publish(api, folder, "me/second")
    assert hub.received(mode) - before < 20_000  # a shard at most
    assert hub.storage.usage() == stored


def test_a_second_client_learns_what_need_not_be_sent(hub: LocalHub, api: HfApi, folder: Path, tmp_path: Path) -> None:
    """Another process with an empty xet cache: the Hub itself tells it which chunks are here."""
    publish(api, folder)
    before = hub.received("xet")
    _other_process(hub, folder, tmp_path, "me/second")
    assert hub.received("xet") - before < 20_000


def test_two_clients_at_once(hub: LocalHub, folder: Path, tmp_path: Path) -> None:
    started = [_start_other_process(hub, folder, tmp_path / name, f"me/{name}") for name in ("a", "b")]
    assert [process.wait(60) for process in started] == [0, 0]
    trees = [{path: entry.digest for path, entry in _tree(hub, f"me/{name}").items()} for name in ("a", "b")]
    assert trees[0] == trees[1]
    assert len(trees[0]) == len(contents(folder)) + 1


def test_tree_listing(mode: str, folder: Path, tmp_path: Path) -> None:
    """In pages, recursive or not, with the digests that a client needs to check files."""
    with running(tmp_path / "hub", limits=Limits(page=4, expanded_page=3)) as hub:
        _check_tree(HfApi(endpoint=hub.endpoint, token=hub.token), folder, mode)
        pages = [seen for seen in hub.requests if "/tree/" in seen.path and "recursive=true" in seen.query]
        assert len(pages) > 4


def _check_tree(api: HfApi, folder: Path, mode: str) -> None:
    commit = publish(api, folder)
    rows = {row.path: row for row in api.list_repo_tree("me/model", recursive=True)}
    assert set(rows) == {*contents(folder), ".gitattributes", "original", "original/packages"}
    weights = rows["original/packages/weights.bin"]
    data = (folder / "original/packages/weights.bin").read_bytes()
    assert isinstance(weights, huggingface_hub.hf_api.RepoFile)
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(data).hexdigest()
    assert weights.size == len(data)
    assert (weights.xet_hash is not None) == (mode == "xet")
    flat = [row.path for row in api.list_repo_tree("me/model", "original")]
    assert sorted(flat) == ["original/merges.txt", "original/packages", "original/vocab.json"]
    expanded = list(api.list_repo_tree("me/model", recursive=True, expand=True))
    assert len(expanded) == len(rows)
    # the picture had no pattern, so .gitattributes got a line and belongs to this commit as well
    assert {row.last_commit.oid for row in expanded if row.last_commit} == {commit.oid}
    infos = api.get_paths_info("me/model", ["original", "README.md", "nowhere"])
    assert [info.path for info in infos] == ["original", "README.md"]


def test_what_the_repo_says_of_itself(mode: str, api: HfApi, folder: Path) -> None:
    commit = publish(api, folder)
    info = api.model_info("me/model", files_metadata=True)
    assert info.sha == commit.oid
    assert info.private is False
    assert info.card_data is not None
    assert info.card_data["base_model"] == "org/source"
    assert info.tags is not None
    assert {"core-ml", "license:mit", "coreml"} <= set(info.tags)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    assert siblings["picture.png"].size == len((folder / "picture.png").read_bytes())
    assert api.file_exists("me/model", "picture.png")
    assert not api.file_exists("me/model", "nothing.png")
    assert api.repo_exists("me/model")
    assert not api.repo_exists("me/nothing")
    assert [model.id for model in api.list_models(author="me")] == ["me/model"]
    titles = [commit.title for commit in api.list_repo_commits("me/model")]
    assert titles == ["Publish", "initial commit"]


def test_many_small_files_stay_one_commit(mode: str, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("me/many")
    operations = [CommitOperationAdd(f"d{at % 10}/f{at}.txt", f"number {at}".encode()) for at in range(620)]
    api.preupload_lfs_files("me/many", operations, free_memory=False)
    api.create_commit("me/many", operations, commit_message="620")
    assert len(api.list_repo_commits("me/many")) == 2
    assert len(api.list_repo_files("me/many")) == 621
    assert sum("/preupload/" in seen.path for seen in hub.requests) >= 3


def test_unchanged_files_make_no_commit(mode: str, hub: LocalHub, api: HfApi, folder: Path) -> None:
    first = publish(api, folder)
    sent = hub.received(mode)
    again = publish(api, folder)
    assert again.oid == first.oid
    assert hub.received(mode) - sent < 20_000
    assert len(api.list_repo_commits("me/model")) == 2


def test_tags_and_branches(api: HfApi, folder: Path) -> None:
    commit = publish(api, folder)
    api.create_tag("me/model", tag="v1.0", revision=commit.oid, tag_message="first")
    with pytest.raises(errors.HfHubHTTPError) as refused:
        api.create_tag("me/model", tag="v1.0")
    assert refused.value.response.status_code == 409
    api.create_tag("me/model", tag="v1.0", exist_ok=True)
    api.create_branch("me/model", branch="next/try", revision="v1.0")
    api.create_commit("me/model", [CommitOperationAdd("n.txt", b"n")], commit_message="on next", revision="next/try")
    refs = api.list_repo_refs("me/model")
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1.0": commit.oid}
    assert {ref.name for ref in refs.branches} == {"main", "next/try"}
    assert api.file_exists("me/model", "n.txt", revision="next/try")
    assert not api.file_exists("me/model", "n.txt")
    assert not api.file_exists("me/model", "n.txt", revision="v1.0")
    api.delete_branch("me/model", branch="next/try")
    api.delete_tag("me/model", tag="v1.0")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info("me/model", revision="v1.0")
    with pytest.raises(errors.HfHubHTTPError):
        api.delete_branch("me/model", branch="main")


def test_delete_copy_and_squash(mode: str, api: HfApi, folder: Path) -> None:
    publish(api, folder)
    api.create_commit(
        "me/model",
        [
            CommitOperationDelete("original/", is_folder=True),
            CommitOperationDelete("picture.png"),
            CommitOperationCopy("twice.bin", "thrice.bin"),
            CommitOperationCopy("README.md", "docs/README.md"),
        ],
        commit_message="Tidy",
    )
    names = set(api.list_repo_files("me/model"))
    assert names == {
        ".gitattributes",
        "README.md",
        "a name with spaces & ümlaut.txt",
        "docs/README.md",
        "thrice.bin",
        "twice.bin",
    }
    with pytest.raises(errors.EntryNotFoundError):
        api.delete_file("nothing.txt", "me/model")
    api.super_squash_history("me/model", commit_message="One")
    assert [commit.title for commit in api.list_repo_commits("me/model")] == ["One"]
    assert set(api.list_repo_files("me/model")) == names


def test_copies_between_repos(hub: LocalHub, api: HfApi, folder: Path) -> None:
    publish(api, folder)
    api.create_repo("me/second")
    sent = hub.received("xet")
    source = {"src_repo_id": "me/model", "src_repo_type": "model"}
    copies = [CommitOperationCopy(path, f"copy/{path}", **source) for path in ("twice.bin", "README.md")]
    api.create_commit("me/second", copies, commit_message="Copy")
    assert {"copy/twice.bin", "copy/README.md"} <= set(api.list_repo_files("me/second"))
    path = api.hf_hub_download("me/second", "copy/twice.bin")
    assert Path(path).read_bytes() == (folder / "twice.bin").read_bytes()
    assert hub.received("xet") == sent


def test_a_stale_parent_is_refused(mode: str, api: HfApi, folder: Path, faults: Faults) -> None:
    api.create_repo("me/model")
    head = api.model_info("me/model").sha
    faults.add(Fault(kind="stale", method="POST", path="/commit/main"))
    with pytest.raises(errors.HfHubHTTPError) as refused:
        api.create_commit("me/model", adds(folder), commit_message="late", parent_commit=head)
    assert refused.value.response.status_code == 412
    assert set(api.list_repo_files("me/model")) == {".gitattributes", "somebody-else.txt"}


def test_pull_requests(mode: str, api: HfApi, folder: Path) -> None:
    api.create_repo("me/model")
    opened = api.create_commit("me/model", adds(folder), commit_message="Proposal", create_pr=True)
    assert (opened.pr_num, opened.pr_revision) == (1, "refs/pr/1")
    assert api.list_repo_files("me/model") == [".gitattributes"]
    assert "README.md" in api.list_repo_files("me/model", revision="refs/pr/1")
    more = [CommitOperationAdd("more.txt", b"more")]
    api.create_commit("me/model", more, commit_message="more", revision="refs/pr/1")
    details = api.get_discussion_details("me/model", 1)
    assert (details.status, details.target_branch, details.conflicting_files) == ("open", "refs/heads/main", [])
    assert [one.num for one in api.get_repo_discussions("me/model")] == [1]
    refs = api.list_repo_refs("me/model", include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]
    api.merge_pull_request("me/model", 1)
    assert {"more.txt", "README.md"} <= set(api.list_repo_files("me/model"))
    assert api.get_discussion_details("me/model", 1).status == "merged"

    draft = api.create_pull_request("me/model", "Draft of mine")
    assert (draft.num, draft.status, draft.git_reference) == (2, "draft", "refs/pr/2")
    comment = api.comment_discussion("me/model", 2, "hello")
    assert comment.content == "hello"
    assert api.change_discussion_status("me/model", 2, "closed").new_status == "closed"


def test_upload_folder_as_the_client_does_it(mode: str, api: HfApi, folder: Path) -> None:
    api.create_repo("me/model")
    api.upload_folder(repo_id="me/model", folder_path=folder, commit_message="folder", delete_patterns="*.old")
    assert set(api.list_repo_files("me/model")) == {*contents(folder), ".gitattributes"}


def test_who_may_see_and_write_what(mode: str, hub: LocalHub, api: HfApi, folder: Path) -> None:
    hub.storage.import_folder("other/secret", folder, private=True)
    hub.storage.import_folder("other/gated", folder, gated=True)
    hub.storage.import_folder("me/secret", folder, private=True)
    hub.storage.import_folder("other/open", folder)
    reader, nobody = HfApi(endpoint=hub.endpoint, token=hub.read_token), HfApi(endpoint=hub.endpoint, token=False)
    for who in (api, reader, nobody):
        with pytest.raises(errors.RepositoryNotFoundError):
            who.model_info("other/secret")
        with pytest.raises(errors.RepositoryNotFoundError):
            who.model_info("me/nothing")
        assert who.model_info("other/gated").gated == "auto"
        with pytest.raises(errors.GatedRepoError):
            who.hf_hub_download("other/gated", "twice.bin")
        with pytest.raises(errors.GatedRepoError):
            who.auth_check("other/gated")
        assert Path(who.hf_hub_download("other/open", "twice.bin")).stat().st_size == 2_500_000
    with pytest.raises(errors.RepositoryNotFoundError):
        nobody.model_info("me/secret")
    assert reader.model_info("me/secret").private is True
    operations = [CommitOperationAdd("x.txt", b"x")]
    for who, repo_id in ((reader, "me/secret"), (api, "other/open"), (nobody, "other/open")):
        with pytest.raises(errors.HfHubHTTPError) as refused:
            who.create_commit(repo_id, operations, commit_message="no")
        assert refused.value.response.status_code in (401, 403)
    for who, repo_id in ((reader, "me/new"), (api, "other/new")):
        with pytest.raises(errors.HfHubHTTPError) as refused:
            who.create_repo(repo_id)
        assert refused.value.response.status_code == 403
    assert api.create_repo("team/new").repo_id == "team/new"
    with pytest.raises(errors.HfHubHTTPError) as wrong:
        HfApi(endpoint=hub.endpoint, token="hf_wrong").whoami()
    assert wrong.value.response.status_code == 401
    api.delete_repo("me/secret")
    assert not api.repo_exists("me/secret")


def test_error_classes_of_downloads(mode: str, api: HfApi, folder: Path) -> None:
    publish(api, folder)
    with pytest.raises(errors.RevisionNotFoundError):
        api.hf_hub_download("me/model", "README.md", revision="v9")
    with pytest.raises(errors.EntryNotFoundError):
        api.hf_hub_download("me/model", "nothing.md")
    with pytest.raises(errors.EntryNotFoundError):
        list(api.list_repo_tree("me/model", "nothing"))


def test_cards_are_checked(api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", api.endpoint)  # cards are checked there, whatever the api's endpoint
    ModelCard(CARD).validate()
    for line in (
        "license: my-own",
        "license: mit\nbase_model: [a/b/c]",
        "license: mit\ntags: core-ml",
        "a: [",
        "license: 3",
    ):
        with pytest.raises(ValueError, match=r"must|not valid|cannot be read"):
            _validate(api, f"---\n{line}\n---\n# x\n")
    api.create_repo("me/model")
    bad = [CommitOperationAdd("README.md", b"---\nlicense: nonsense\n---\n")]
    with pytest.raises(ValueError, match="license"):
        api.create_commit("me/model", bad, commit_message="no")
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        api.create_commit("me/model", [CommitOperationAdd("README.md", b"# no front matter\n")], commit_message="yes")
    card = ModelCard(CARD.replace("mit", "apache-2.0"))
    api.upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="me/model")
    assert api.model_info("me/model").card_data.license == "apache-2.0"  # type: ignore[union-attr]


def test_ranges_and_resume(mode: str, hub: LocalHub, api: HfApi, folder: Path, tmp_path: Path) -> None:
    from huggingface_hub.file_download import http_get

    publish(api, folder)
    data = (folder / "twice.bin").read_bytes()
    session = huggingface_hub.get_session()
    url = huggingface_hub.hf_hub_url("me/model", "twice.bin", endpoint=hub.endpoint)
    part = session.get(url, headers={"Range": "bytes=100-199"}, follow_redirects=True)
    assert (part.status_code, part.content) == (206, data[100:200])
    tail = session.get(url, headers={"Range": "bytes=-5"}, follow_redirects=True)
    assert (tail.status_code, tail.content) == (206, data[-5:])
    beyond = session.get(url, headers={"Range": f"bytes={len(data)}-"}, follow_redirects=True)
    assert beyond.status_code == 416
    small = huggingface_hub.hf_hub_url("me/model", "README.md", endpoint=hub.endpoint)
    assert session.get(small, headers={"Range": "bytes=0-2"}).content == b"---"
    with (tmp_path / "resumed").open("wb+") as file:
        file.write(data[:1_000_000])
        http_get(url, file, resume_size=1_000_000, expected_size=len(data))
    assert (tmp_path / "resumed").read_bytes() == data


def test_metadata_of_a_large_file(mode: str, hub: LocalHub, api: HfApi, folder: Path) -> None:
    """HEAD tells digest, size and commit; the bytes are on another host name, so that no token goes there."""
    commit = publish(api, folder)
    url = huggingface_hub.hf_hub_url("me/model", "twice.bin", endpoint=hub.endpoint)
    meta = api.get_hf_file_metadata(url=url)
    assert meta.etag == hashlib.sha256((folder / "twice.bin").read_bytes()).hexdigest()
    assert (meta.size, meta.commit_hash) == (2_500_000, commit.oid)
    assert meta.location.startswith("http://localhost:")
    assert (meta.xet_file_data is not None) == (mode == "xet")


def test_a_lost_answer_leaves_the_commit(mode: str, api: HfApi, folder: Path, faults: Faults) -> None:
    api.create_repo("me/model")
    faults.add(Fault(kind="lost", method="POST", path="/commit/"))
    with pytest.raises(Exception, match=r"disconnect|reset|closed|peer"):
        api.create_commit("me/model", adds(folder), commit_message="lost")
    assert [commit.title for commit in api.list_repo_commits("me/model")] == ["lost", "initial commit"]
    assert api.create_commit("me/model", adds(folder), commit_message="again").oid == api.model_info("me/model").sha


def test_the_client_rides_out_what_passes(
    api: HfApi, folder: Path, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many requests, a cut upload, a cut download: retried by the client, and all arrives."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    faults.add(Fault(kind="status", status=429, retry_after=0, path="/preupload/"))
    faults.add(Fault(kind="refuse", method="PUT", path="/lfs/"))
    faults.add(Fault(kind="truncate", method="GET", path="/cdn/", at=300_000))
    publish(api, folder)
    api.snapshot_download("me/model", local_dir=tmp_path / "out", max_workers=1)
    assert api.verify_repo_checksums("me/model", local_dir=tmp_path / "out").mismatches == []
    assert [fault.kind for fault, _, _ in faults.fired] == ["status", "refuse", "truncate"]


def test_a_reset_download_fails_and_is_taken_up_again(
    api: HfApi, hub: LocalHub, folder: Path, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is reset within a body is not retried by the client; a second run fetches what is missing."""
    import httpx2

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    publish(api, folder)
    faults.add(Fault(kind="reset", method="GET", path="/cdn/", at=200, skip=1))
    with pytest.raises(httpx2.ReadError):
        api.snapshot_download("me/model", local_dir=tmp_path / "out", max_workers=1)
    before = len(hub.requests)
    api.snapshot_download("me/model", local_dir=tmp_path / "out", max_workers=1)
    assert api.verify_repo_checksums("me/model", local_dir=tmp_path / "out").mismatches == []
    # of the three large files, those that had arrived before stay
    assert sum(seen.path.startswith("/cdn/") for seen in hub.requests[before:]) in (1, 2)


@pytest.mark.parametrize("kind", ["refuse", "truncate", "status"])
def test_xet_rides_out_what_passes(kind: Kind, api: HfApi, folder: Path, faults: Faults, tmp_path: Path) -> None:
    """hf-xet retries on its own: uploads of xorbs and shards, and downloads."""
    for method, path in (
        ("POST", "/xorbs/"),
        ("POST", "/v1/shards"),
        ("GET", "/data/"),
        ("GET", "/v1/reconstructions/"),
    ):
        faults.add(Fault(kind=kind, method=method, path=path, at=1000 if method == "GET" and path == "/data/" else 0))
    publish(api, folder)
    api.snapshot_download("me/model", local_dir=tmp_path / "out", max_workers=1)
    assert api.verify_repo_checksums("me/model", local_dir=tmp_path / "out").mismatches == []
    assert len(faults.fired) == 4


def test_damage_in_transit_is_found(
    api: HfApi, folder: Path, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped bit of an upload is refused by the Hub; one of a download is found by verifying."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    (folder / "twice.bin").unlink()
    faults.add(Fault(kind="corrupt-upload", method="PUT", path="/lfs/", at=300))
    with pytest.raises(RuntimeError, match="Error while uploading"):
        publish(api, folder)
    assert api.list_repo_files("me/model") == [".gitattributes"]
    publish(api, folder)
    faults.add(Fault(kind="corrupt", method="GET", path="/cdn/", at=300))
    out = tmp_path / "out"
    api.snapshot_download("me/model", local_dir=out)  # the client itself looks at the size alone
    assert len(api.verify_repo_checksums("me/model", local_dir=out).mismatches) == 1


def test_another_data_folder_on_the_same_port_is_another_hub(
    api: HfApi, hub: LocalHub, folder: Path, tmp_path: Path
) -> None:
    """hf-xet remembers what a store has; it must not believe that an empty one has it too."""
    publish(api, folder)
    with running(tmp_path / "other") as other:
        fresh = HfApi(endpoint=other.endpoint, token=other.token)
        publish(fresh, folder)
        assert other.received("xet") > 2_500_000
        fresh.snapshot_download("me/model", local_dir=tmp_path / "out")
    assert contents(tmp_path / "out")["twice.bin"] == (folder / "twice.bin").read_bytes()


def test_data_outlives_the_server(tmp_path: Path, folder: Path) -> None:
    with running(tmp_path / "kept") as hub:
        token = hub.token
        commit = publish(HfApi(endpoint=hub.endpoint, token=hub.token), folder)
    with running(tmp_path / "kept") as hub:
        assert hub.token == token
        assert HfApi(endpoint=hub.endpoint, token=token).model_info("me/model").sha == commit.oid


def _validate(api: HfApi, content: str) -> None:
    """As ModelCard.validate does, for text that ModelCard itself would not take."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api._validate_yaml(content)


def _tree(hub: LocalHub, repo_id: str) -> dict[str, huggingface_hub.hf_api.RepoFile]:
    repo = hub.storage.repo(repo_id)
    return dict(repo.tree(repo.find("main")))  # type: ignore[arg-type]


_PUBLISH = """
import sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi
endpoint, token, folder, repo_id = sys.argv[1:]
api = HfApi(endpoint=endpoint, token=token)
api.create_repo(repo_id)
files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
api.create_commit(repo_id, operations, commit_message="from elsewhere")
"""


def _start_other_process(hub: LocalHub, folder: Path, home: Path, repo_id: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HF_HOME": str(home / "hf")}
    arguments = [hub.endpoint, hub.token, str(folder), repo_id]
    return subprocess.Popen([sys.executable, "-c", _PUBLISH, *arguments], env=environment)


def _other_process(hub: LocalHub, folder: Path, home: Path, repo_id: str) -> None:
    assert _start_other_process(hub, folder, home, repo_id).wait(60) == 0
