"""Digest and FileRef: one noun for files that are stored, listed, offered and published."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubpub.files.digest import Digest, FileRef, git_blob_id
from hubpub.files.digests import Digests


@given(st.sampled_from(["sha256", "git"]), st.text("0123456789abcdef", min_size=1, max_size=64))
def test_text_and_back(kind: str, value: str) -> None:
    assert str(Digest.parse(f"{kind}:{value}")) == f"{kind}:{value}"


@pytest.mark.parametrize("text", ["", "sha256", "md5:00", "00", ":"])
def test_other_texts_are_no_digests(text: str) -> None:
    with pytest.raises(ValueError, match="is not a digest"):
        Digest.parse(text)


@pytest.mark.parametrize("content", [b"", b"a", b"x" * 3_000_000])
def test_both_kinds_know_their_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    git = subprocess.run(["git", "hash-object", str(path)], capture_output=True, text=True, check=True).stdout.strip()
    assert git_blob_id(path) == git
    for digest in (Digest("sha256", hashlib.sha256(content).hexdigest()), Digest("git", git)):
        assert digest.is_of(path)
        assert digest.is_of_bytes(content)
        assert not digest.is_of_bytes(content + b"!")
    assert Digest.of_file(path) == Digest.of_bytes(content) == Digest("sha256", hashlib.sha256(content).hexdigest())


def test_digests_of_different_kinds_do_not_contradict() -> None:
    assert Digest("git", "0").contradicts(Digest("git", "1"))
    assert not Digest("git", "0").contradicts(Digest("sha256", "1"))
    assert Digest("git", "0") != Digest("sha256", "0")


def test_a_file_is_at_a_place_with_its_size_and_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    digests = Digests(tmp_path / "digests.json")
    file = FileRef(path="x/file", size=7, digest=Digest("sha256", hashlib.sha256(b"content").hexdigest()))
    assert file.is_at(path)
    assert file.is_at(path, digests)
    assert not file.is_at(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(path)
    assert not file.is_at(tmp_path / "link"), "a link is not a file that was published"
    path.write_bytes(b"c0ntent")
    assert not file.is_at(path, digests)


def test_json_and_back() -> None:
    file = FileRef(path="a", size=1, digest=Digest("git", "0"))
    assert FileRef.from_json(file.to_json()) == file
    for broken in ({}, {"path": "a", "size": 1, "sha256": "0"}, {"path": "a", "size": 1, "digest": "?"}):
        with pytest.raises((KeyError, ValueError)):
            FileRef.from_json(broken)


@pytest.mark.parametrize(
    ("size", "digest", "contradicts"),
    [
        (1, Digest("sha256", "0"), False),
        (2, Digest("sha256", "0"), True),
        (1, Digest("sha256", "1"), True),
        (1, Digest("git", "1"), False),  # only reading the file tells
        (2, Digest("git", "1"), True),
    ],
)
def test_files_with_other_bytes_contradict(size: int, digest: Digest, contradicts: bool) -> None:
    file = FileRef(path="a", size=1, digest=Digest("sha256", "0"))
    assert file.contradicts(FileRef(path="b", size=size, digest=digest)) is contradicts


def test_manifests_and_the_store_list_path_size_and_sha256() -> None:
    file = FileRef(path="a", size=1, digest=Digest("sha256", "0"))
    assert file.to_entry() == {"path": "a", "size": 1, "sha256": "0"}
    assert FileRef.from_entry(file.to_entry()) == file
