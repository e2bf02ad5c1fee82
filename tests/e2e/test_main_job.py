"""The main job with real parts: a source goes in, a published repo comes out, a variant comes back."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hubpub.cli.app import app
from hubpub.engine.store import Store, default_root
from hubpub.localhub import LocalHub, running
from hubpub.release.release import variant_of
from tests.support.sources import make_source

REPO = "me/coreml-tiny-palettized"
COMMON = ["--verify", "weights", "--name", "org/tiny", "--to", REPO]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as running_hub:
        yield running_hub


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "tiny", "sd15")


def _hubpub(hub: LocalHub, *arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments, "--endpoint", hub.endpoint, "--token", hub.token])
    assert result.exit_code == status, result.output
    return result.stdout


@pytest.fixture(scope="module")
def published(hub: LocalHub, source: Path) -> dict[str, Any]:
    """The first publish, both attentions."""
    answer: dict[str, Any] = json.loads(_hubpub(hub, "publish", str(source), *COMMON, "--tag", "v1", "--json"))
    return answer


def _manifest(hub: LocalHub, folder: Path) -> dict[str, Any]:
    from hubpub.remote.hub import Hub

    state = Hub(hub.endpoint, hub.token).state(REPO)
    assert state is not None
    assert state.manifest is not None
    return dict(state.manifest)


@pytest.mark.slow
def test_everything_is_in_one_commit(hub: LocalHub, published: dict[str, Any], tmp_path: Path) -> None:
    assert published["tag"] == "v1"
    manifest = _manifest(hub, tmp_path)
    assert sorted(manifest["variants"]) == [
        f"{attention}/{kind}"
        for attention in ("original", "split_einsum_v2")
        for kind in ("compiled", "packages", "zip")
    ]
    listed = {file["path"] for file in manifest["files"]}
    assert {operation["path"] for operation in published["operations"]} == listed | {"README.md", "hubpub.json"}
    compiled = {path.split("/")[2] for path in listed if path.startswith("original/compiled/")}
    assert compiled == {
        "TextEncoder.mlmodelc",
        "Unet.mlmodelc",
        "VAEDecoder.mlmodelc",
        "VAEEncoder.mlmodelc",
        "SafetyChecker.mlmodelc",
        "vocab.json",
        "merges.txt",
    }


@pytest.mark.slow
def test_steps_take_no_more_memory_than_was_planned(hub: LocalHub, source: Path, published: dict[str, Any]) -> None:
    [plan] = json.loads(_hubpub(hub, "plan", str(source), *COMMON, "--json"))
    store = Store(default_root())
    entries = {step["key"]: store.get(step["key"]) for step in plan["steps"]}
    peaks = {step["label"]: (entries[step["key"]], step["memory"]) for step in plan["steps"]}
    assert len(peaks) > 20
    over = [label for label, (entry, planned) in peaks.items() if entry.measurements["peak_memory"] > planned]
    assert not over, "the memory budget counts on it"


@pytest.mark.slow
def test_apps_find_what_they_look_for(hub: LocalHub, published: dict[str, Any]) -> None:
    audited = json.loads(_hubpub(hub, "audit", REPO, "--json"))
    assert [finding for finding in audited["findings"] if finding["severity"] == "error"] == []
    for path, told in audited["bundles"].items():
        attention = path.partition("/")[0]
        assert told.startswith("hubpub ")
        assert f"from {attention}/packages/Stable_Diffusion_version_org_tiny_" in told


@pytest.mark.slow
def test_again_does_no_step_and_sends_no_byte(hub: LocalHub, source: Path, published: dict[str, Any]) -> None:
    before = len(hub.requests)
    answer = json.loads(_hubpub(hub, "publish", str(source), *COMMON, "--json"))
    assert answer["nothing_to_do"]
    assert answer["sent_bytes"] == 0
    assert answer["operations"] == []
    assert not [seen for seen in hub.requests[before:] if "/commit/" in seen.path]
    assert "Nothing to do" in _hubpub(hub, "publish", str(source), *COMMON)
    dry = _hubpub(hub, "publish", str(source), *COMMON, "--dry-run", "--exit-code")
    assert "Nothing would change: " in dry


@pytest.mark.slow
def test_fetch_brings_a_variant_back_flat_and_checked(hub: LocalHub, published: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    out = _hubpub(hub, "fetch", REPO, "--variant", "original/packages", "--dest", str(folder))
    assert out.strip() == str(folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        f"Stable_Diffusion_version_org_tiny_{part}.mlpackage"
        for part in ("safety_checker", "text_encoder", "unet", "vae_decoder", "vae_encoder")
    ]
    assert "all as published" in _hubpub(hub, "verify", str(folder))
    assert "all as published" in _hubpub(hub, "verify", REPO)
    weights = next(folder.rglob("weight.bin"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    _hubpub(hub, "verify", str(folder), status=9)


@pytest.mark.slow
def test_the_archive_is_what_apps_unzip(hub: LocalHub, published: dict[str, Any], tmp_path: Path) -> None:
    out = _hubpub(hub, "fetch", REPO, "--variant", "original/compiled", "--dest", str(tmp_path / "compiled"))
    archive = _hubpub(hub, "fetch", REPO, "--variant", "original/compiled", "--zip", "--dest", str(tmp_path / "zip"))
    tree = {path.relative_to(out.strip()).as_posix() for path in Path(out.strip()).rglob("*") if path.is_file()}
    unzipped = {
        path.relative_to(archive.strip()).as_posix() for path in Path(archive.strip()).rglob("*") if path.is_file()
    }
    assert tree == unzipped


@pytest.mark.slow
def test_a_changed_card_alone_sends_card_and_manifest_alone(
    hub: LocalHub, source: Path, published: dict[str, Any]
) -> None:
    answer = json.loads(_hubpub(hub, "publish", str(source), *COMMON, "--license", "mit", "--json", "--dry-run"))
    # the licence is inside the packages as well, so take something that is not: the template
    assert answer["dry_run"]
    template = source.parent / "own.md.j2"
    template.write_text("\n# {{ repo_name }}, my words\n", encoding="utf-8")
    answer = json.loads(_hubpub(hub, "publish", str(source), *COMMON, "--template", str(template), "--json"))
    assert {operation["path"] for operation in answer["operations"]} == {"README.md"}
    answer = json.loads(_hubpub(hub, "publish", str(source), *COMMON, "--json"))
    assert {operation["path"] for operation in answer["operations"]} == {"README.md"}


@pytest.mark.slow
def test_one_attention_leaves_the_others_in_place(
    hub: LocalHub, source: Path, published: dict[str, Any], tmp_path: Path
) -> None:
    _hubpub(hub, "publish", str(source), *COMMON, "--attention", "split_einsum")
    manifest = _manifest(hub, tmp_path)
    assert manifest["settings"]["attention"] == ["original", "split_einsum", "split_einsum_v2"]
    assert {variant_of(file["path"]) for file in manifest["files"]} == set(manifest["variants"])
    assert len(manifest["variants"]) == 9
    refused = CliRunner().invoke(
        app, ["publish", str(source), *COMMON, "--attention", "split_einsum", "--bits", "8",
              "--endpoint", hub.endpoint, "--token", hub.token],
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "another repo" in refused.stderr


@pytest.mark.slow
def test_convert_writes_the_tree_that_publish_uploads(hub: LocalHub, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    arguments = ["--verify", "weights", "--name", "org/tiny", "--to", "me/coreml-folder", "--attention", "original"]
    written = json.loads(_hubpub(hub, "convert", str(source), "-o", str(folder), *arguments, "--json"))
    with zipfile.ZipFile(folder / "coreml-folder_original_compiled.zip") as archive:
        assert archive.testzip() is None
        assert {name.split("/")[0] for name in archive.namelist()} == {"coreml-folder_original_compiled"}
    assert "all as published" in _hubpub(hub, "verify", str(folder))
    answer = json.loads(_hubpub(hub, "publish", str(folder), "--json"))
    tree = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {operation["path"] for operation in answer["operations"]} == tree
    assert written["path"] == str(folder)
    assert written["files"] == len(tree - {"README.md", "hubpub.json"})
    again = json.loads(_hubpub(hub, "publish", str(source), *arguments, "--json"))
    assert again["nothing_to_do"]
    # the card of the folder, and of the source whose steps are done: what is published
    published = (folder / "README.md").read_text(encoding="utf-8")
    assert _card(str(folder)).stdout == published
    assert _card(str(source), *arguments).stdout == published
    (tmp_path / "mine.md.j2").write_text("# {{ repo_name }}, mine\n", encoding="utf-8")
    assert "# coreml-folder, mine\n" in _card(str(folder), "--template", str(tmp_path / "mine.md.j2")).stdout
    # what a converted folder cannot hear is refused, not ignored
    refused = _card(str(folder), "--bits", "4")
    assert (refused.exit_code, "--bits would mean nothing" in refused.stderr) == (2, True)
    assert "--attention, --bits would mean nothing" in CliRunner().invoke(
        app, ["publish", str(folder), "--bits", "4", "--attention", "original", "--endpoint", hub.endpoint]
    ).stderr  # fmt: skip
    undone = _card(str(source), *arguments, "--bits", "4")
    assert undone.exit_code == 2
    assert "are not made yet" in undone.stderr


def _card(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["card", *arguments])
