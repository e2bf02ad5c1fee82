"""The manifest, what a merge keeps, and which operations lead from one state of a repo to another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import ConfigError
from hubpub.files.digest import Digest, FileRef
from hubpub.plan.names import MANIFEST, SIGNATURE
from hubpub.plan.variant import ATTENTIONS, FORMATS
from hubpub.release.artifact import Artifact
from hubpub.release.release import (
    MAX_MANIFEST_BYTES,
    Operation,
    Release,
    RemoteState,
    diff,
    merge,
    parse_manifest,
    same_manifest,
    variant_of,
)
from hubpub.remote.destinations import changes, planned_bytes, release_files, tally

PLACES = [f"{attention}/{form}/A.{form}/w" for attention in ("original", "split_einsum_v2") for form in FORMATS] + [
    "x_original_compiled.zip",
    "notes.md",
]


def artifact(folder: Path, path: str, content: bytes) -> Artifact:
    place = folder / "blobs" / hashlib.sha256(content).hexdigest()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return Artifact(path=path, source=place, size=len(content), digest=Digest("sha256", place.name))


def remote(
    files: Mapping[str, bytes], manifest: Mapping[str, Any] | None = None, *, small: bool = False
) -> RemoteState:
    """A repo that holds `files`; `small`: it tells blob ids only."""
    return RemoteState(
        repo_id="me/x",
        commit="c" * 40,
        files=tuple(
            FileRef(
                path=path,
                size=len(content),
                digest=Digest("git", hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())
                if small
                else Digest("sha256", hashlib.sha256(content).hexdigest()),
            )
            for path, content in files.items()
        ),
        manifest=manifest,
    )


def manifest_of(files: Mapping[str, bytes], *, bits: int = 6, run: str = "now") -> dict[str, Any]:
    return {
        "format": 1,
        "settings": {"bits": bits, "latent": [64, 64], "batch": 2, "target": "macOS13", "attention": []},
        "components": {f"unet/{name}": {} for name in ATTENTIONS if any(path.startswith(name) for path in files)},
        "variants": {name: {} for name in {variant_of(path) for path in files} if name},
        "files": [
            {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for path, content in sorted(files.items())
            if variant_of(path)
        ],
        "run": {"created": run},
    }


def made(
    folder: Path, files: Mapping[str, bytes], *, old: Mapping[str, Any] | None = None, run: str = "now"
) -> Release:
    return Release(
        repo_id="me/x",
        artifacts=tuple(artifact(folder, path, content) for path, content in files.items() if variant_of(path)),
        manifest=merge(manifest_of(files, run=run), old),
        card="# x\n",
        message="x",
    )


def apply(files: Mapping[str, bytes], operations: list[Operation]) -> dict[str, bytes]:
    """A repo's files after a commit."""
    after = dict(files)
    for operation in operations:
        if operation.action == "removed":
            del after[operation.path]
        elif operation.copy_from is not None:
            after[operation.path] = files[operation.copy_from]
        elif operation.artifact is not None:
            after[operation.path] = operation.artifact.source.read_bytes()
    return after


contents = st.dictionaries(st.sampled_from(PLACES), st.sampled_from([b"", b"one", b"two", b"three" * 99]), max_size=6)


@given(before=contents, now=contents, small=st.booleans())
@settings(max_examples=150)
def test_diff_leads_to_the_release_and_then_finds_nothing(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, bytes], now: dict[str, bytes], small: bool
) -> None:
    folder = tmp_path_factory.mktemp("release")
    old = manifest_of(before)
    there = remote(before, old, small=small)
    new = made(folder, now, old=old)
    files = release_files(new, folder)
    after = apply(before, diff(new, files, there))

    expected = {one.path: one.source.read_bytes() for one in files}
    ours = {variant_of(path) for path in now} - {None}
    kept = {path: content for path, content in before.items() if variant_of(path) not in ours}
    assert after == {**kept, **expected}  # the release, other variants, and foreign files
    state = remote(after, json.loads(after[MANIFEST]), small=small)
    again = made(folder, now, old=state.manifest, run="later")
    assert not changes(diff(again, release_files(again, folder), state))


def test_only_what_the_old_manifest_owns_is_removed(tmp_path: Path) -> None:
    before = {"original/packages/A.mlpackage/old": b"1", "original/packages/mine.txt": b"2"}
    there = remote(before, manifest_of({"original/packages/A.mlpackage/old": b"1"}))
    new = made(tmp_path, {"original/packages/A.mlpackage/new": b"3"})
    operations = {operation.path: operation.action for operation in diff(new, new.artifacts, there)}
    assert operations == {"original/packages/A.mlpackage/old": "removed", "original/packages/A.mlpackage/new": "new"}
    without_manifest = replace(there, manifest=None)
    assert all(operation.action != "removed" for operation in diff(new, new.artifacts, without_manifest))


def test_prune_removes_what_the_release_no_longer_names_and_the_old_manifest_claims(tmp_path: Path) -> None:
    ours = {"original/packages/A.mlpackage/w": b"1"}
    gone = {"split_einsum/packages/A.mlpackage/w": b"2", "x_split_einsum_compiled.zip": b"3", "images/0.png": b"4"}
    theirs = {
        "notes.md": b"",
        "split_einsum/packages/mine.txt": b"5",
        "images/mine.png": b"6",
        "split_einsum/packages/edited.json": b"by hand",
        "LICENSE": b"7",
    }
    claims = manifest_of({**ours, **gone, "split_einsum/packages/edited.json": b"as published"})
    claims["files"] += [
        {"path": path, "size": size, "sha256": hashlib.sha256(content).hexdigest()}
        for path, size, content in (("images/0.png", 1, b"4"), ("LICENSE", 1, b"7"), ("../escape", 1, b"8"))
    ]
    there = remote({**ours, **gone, **theirs}, claims)
    kept = made(tmp_path, ours, old=claims)
    assert [one.path for one in changes(diff(kept, kept.artifacts, there))] == ["images/0.png"]
    pruned = replace(kept, manifest=merge(manifest_of(ours), claims, prune=True))
    operations = changes(diff(pruned, pruned.artifacts, there))
    assert {(one.action, one.path) for one in operations} == {("removed", path) for path in gone}


@pytest.mark.parametrize("signature", [None, "{}"])
def test_a_signature_goes_or_changes_with_its_manifest(tmp_path: Path, signature: str | None) -> None:
    files = {"original/packages/A.mlpackage/w": b"1"}
    old = made(tmp_path, files)
    text = old.manifest_text().encode()
    there = remote({**files, MANIFEST: text, SIGNATURE: b"good", "README.md": b"# x\n"}, dict(old.manifest))
    assert not changes(diff(old, release_files(old, tmp_path), there))
    new = replace(made(tmp_path, {"original/packages/A.mlpackage/w": b"2"}), signature=signature)
    actions = {one.path: one.action for one in diff(new, release_files(new, tmp_path), there)}
    assert actions[MANIFEST] == "changed"
    assert actions[SIGNATURE] == ("removed" if signature is None else "changed")


def test_bytes_that_are_there_are_copied_and_planned_once(tmp_path: Path) -> None:
    there = remote({"original/packages/A.mlpackage/w": b"same"})
    files = {
        "original/packages/A.mlpackage/w": b"same",
        "split_einsum/packages/A.mlpackage/w": b"same",
        "original/compiled/A.mlmodelc/w": b"twice",
        "split_einsum/compiled/A.mlmodelc/w": b"twice",
    }
    operations = diff(made(tmp_path, files), made(tmp_path, files).artifacts, there)
    assert tally(operations) == {"new": 3, "changed": 0, "same": 1, "removed": 0, "copied": 1}
    assert planned_bytes(operations) == len(b"twice")


def test_a_manifest_that_differs_in_run_alone_is_a_change_only_beside_others(tmp_path: Path) -> None:
    files = {"original/packages/A.mlpackage/w": b"1"}
    old = made(tmp_path, files)
    there = remote({**files, "README.md": b"# x\n", MANIFEST: old.manifest_text().encode()}, dict(old.manifest))
    later = made(tmp_path, files, run="later")
    assert not changes(diff(later, release_files(later, tmp_path), there))
    card = replace(later, card="# y\n")
    changed = [operation.path for operation in changes(diff(card, release_files(card, tmp_path), there))]
    assert changed == ["README.md", MANIFEST]


def test_merge_keeps_other_variants_and_what_they_need() -> None:
    old = manifest_of({"original/packages/A.mlpackage/w": b"1", "split_einsum/packages/A.mlpackage/w": b"2"})
    new = manifest_of({"split_einsum/packages/A.mlpackage/v": b"3"})
    merged = merge(new, old)
    assert set(merged["variants"]) == {"original/packages", "split_einsum/packages"}
    assert [file["path"] for file in merged["files"]] == [
        "original/packages/A.mlpackage/w",
        "split_einsum/packages/A.mlpackage/v",
    ]
    assert merged["settings"]["attention"] == ["original", "split_einsum"]
    assert "unet/original" in merged["components"]
    assert new["settings"]["attention"] == []  # the argument is not changed


@pytest.mark.parametrize("key", ["bits", "latent", "batch", "target"])
def test_merge_refuses_two_widths_in_one_repo(key: str) -> None:
    old = manifest_of({"original/packages/A.mlpackage/w": b"1"})
    old["settings"][key] = "other"
    new = manifest_of({"split_einsum/packages/A.mlpackage/w": b"1"})
    with pytest.raises(ConfigError, match=key):
        merge(new, old)
    merge(manifest_of({"original/packages/A.mlpackage/w": b"1"}), old)  # nothing is kept: no conflict


def test_variant_of_names_what_folder_writes() -> None:
    for attention in ATTENTIONS:
        for form in FORMATS:
            assert variant_of(f"{attention}/{form}/A/b") == f"{attention}/{form}"
        assert variant_of(f"coreml-x_{attention}_compiled.zip") == f"{attention}/zip"
    for path in (
        "README.md",
        "original/README.md",
        "original/packages",
        "x.zip",
        "a/original/packages/x",
        "original_compiled.zip",
    ):
        assert variant_of(path) is None


@given(st.text())
def test_variant_of_takes_any_path(path: str) -> None:
    name = variant_of(path)
    assert name is None or name.partition("/")[0] in ATTENTIONS


@given(st.binary(max_size=300))
def test_parse_manifest_takes_any_bytes(data: bytes) -> None:
    assert parse_manifest(data) is None


json_values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
tables = st.dictionaries(st.text(max_size=3), json_values, max_size=2) | json_values
file_entries = st.fixed_dictionaries(
    {
        "path": st.text(max_size=9) | json_values,
        "size": st.integers() | json_values,
        "sha256": st.sampled_from(["a" * 64, "A" * 64, "é" * 64, "a" * 63, "a" * 64 + "\n"]) | json_values,
    }
)


@given(
    st.fixed_dictionaries(
        {
            "format": st.sampled_from([1, 1, 2, "1", None]),
            "variants": tables,
            "files": st.lists(file_entries | json_values),
        },
        optional={"settings": tables, "components": tables, "other": json_values},
    )
)
def test_parse_manifest_takes_any_json_and_merge_takes_what_it_gives(value: Any) -> None:
    manifest = parse_manifest(json.dumps(value).encode())
    if manifest is None:
        return
    for file in manifest["files"]:
        assert isinstance(file["path"], str)
        assert int(file["sha256"], 16) >= 0
        assert file["size"] >= 0
    with suppress(ConfigError):
        merge(manifest_of({"original/packages/A.mlpackage/w": b"1"}), manifest)


def test_parse_manifest_round_trips_and_is_bounded(tmp_path: Path) -> None:
    text = made(tmp_path, {"original/packages/A.mlpackage/w": b"1"}).manifest_text()
    manifest = parse_manifest(text.encode())
    assert manifest is not None
    assert same_manifest(manifest, json.loads(text))
    assert parse_manifest(text.encode() + b" " * MAX_MANIFEST_BYTES) is None
    assert parse_manifest(b"[" * 100_000) is None
    assert not same_manifest(None, manifest)


def test_a_merged_manifest_reads_back_as_it_was() -> None:
    """A card is rendered from it before and after: the order of keys must not depend on which."""
    made = {"variants": {}, "files": [], "settings": {}, "components": {"unet/original": {}, "text_encoder": {}}}
    merged = merge({**made, "format": 1}, None)
    assert json.dumps(merged) == json.dumps(merged, sort_keys=True)
