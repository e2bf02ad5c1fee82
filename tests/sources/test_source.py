"""Parsing source arguments, and the errors for invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubpub.errors import ConfigError
from hubpub.sources.source import parse


def test_an_existing_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse("org/model").kind == "folder"
    assert parse("org/model").name == "local/model"
    assert parse("hf:org/model").kind == "hub"


def test_a_repo_id() -> None:
    source = parse("prompthero/openjourney-v4", revision="refs/pr/61")
    assert (source.kind, source.name, source.revision) == ("hub", "prompthero/openjourney-v4", "refs/pr/61")


@pytest.mark.parametrize(
    ("text", "location", "revision"),
    [
        ("git+https://example.org/a/model.git", "https://example.org/a/model.git", None),
        ("git+https://example.org/a/model@v1", "https://example.org/a/model", "v1"),
        ("git+git@example.org:a/model.git", "git@example.org:a/model.git", None),
        ("git+file:///srv/model@abc123", "file:///srv/model", "abc123"),
    ],
)
def test_git_sources(text: str, location: str, revision: str | None) -> None:
    source = parse(text)
    assert (source.location, source.revision, source.name) == (location, revision, "local/model")


@pytest.mark.parametrize("text", ["nowhere", "a/b/c", "git+", "git+--upload-pack=touch x", "hf:x", "https://hub/a/b"])
def test_invalid_sources(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.hint


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        parse(str(tmp_path), revision="main")


@pytest.mark.parametrize("text", ["org/model@v2", "hf:org/model@v2"])
def test_a_repo_at_a_revision(text: str) -> None:
    source = parse(text)
    assert (source.location, source.name, source.revision) == ("org/model", "org/model", "v2")
    assert parse(text, revision="main").revision == "main"


def test_a_chosen_name(tmp_path: Path) -> None:
    assert parse(str(tmp_path), name="me/my-model").name == "me/my-model"
    with pytest.raises(ConfigError):
        parse(str(tmp_path), name="my model")


@pytest.mark.parametrize(
    ("text", "kind", "location", "file", "revision", "name"),
    [
        ("hf:org/model/a/b.safetensors", "hub", "org/model", "a/b.safetensors", None, "org/b"),
        ("hf:org/model/b.ckpt@v1", "hub", "org/model", "b.ckpt", "v1", "org/b"),
        ("git+https://x.org/y.git#a/b.safetensors", "git", "https://x.org/y.git", "a/b.safetensors", None, "local/b"),
        ("git+https://x.org/y.git@v1#b.ckpt", "git", "https://x.org/y.git", "b.ckpt", "v1", "local/b"),
    ],
)
def test_a_single_file_in_a_repo(
    text: str, kind: str, location: str, file: str, revision: str | None, name: str
) -> None:
    source = parse(text)
    assert (source.kind, source.location, source.file) == (kind, location, file)
    assert (source.revision, source.name) == (revision, name)


def test_a_single_file_of_this_disk(tmp_path: Path) -> None:
    path = tmp_path / "My Model v2.safetensors"
    path.write_bytes(b"x")
    source = parse(str(path))
    assert (source.kind, source.location, source.file) == ("folder", str(tmp_path), path.name)
    assert source.name == "local/My-Model-v2"
    with pytest.raises(ConfigError, match="is a file; --revision"):
        parse(str(path), revision="main")


@pytest.mark.parametrize(
    "text",
    [
        "hf:org/model/../x.safetensors",
        "hf:org/model/a.txt",
        "git+https://x.org/y.git#../x.ckpt",
        "hf:org/model//x.ckpt",
    ],
)
def test_what_is_no_weight_file_of_a_repo(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)
