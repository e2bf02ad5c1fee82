"""What an app needs of a variant: the JSON that it bundles, and lines that work as they are printed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hubpub.cli.app import app
from hubpub.errors import FetchError, NoSuchVariant
from hubpub.files.digest import Digest, FileRef
from hubpub.localhub import LocalHub
from hubpub.release.card import render
from hubpub.release.release import RemoteState
from hubpub.remote.app_config import AppConfig, app_config
from hubpub.remote.destinations import release_files
from hubpub.remote.hub import Hub
from tests.e2e.releases import REPO, release, tree
from tests.support.manifests import manifest

FILES = tree(seed="app", size=3_000_000)
ARCHIVE = "coreml-tiny-palettized_original_compiled.zip"
TOLD = {"specification_version": 8, "image": [512, 768]}


@pytest.fixture
def published(local: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """A release whose manifest says what apps need; the store is this test's own."""
    made = release(tmp_path / "made", FILES)
    made.manifest["settings"].update(TOLD)
    made.manifest.update({"prediction_type": "v_prediction", "scaling_factor": 0.25})  # type: ignore[attr-defined]
    made.manifest["source"] = {"kind": "hub", "name": "a/b"}  # type: ignore[index]
    release_files(made, tmp_path / "made")
    local.storage.import_folder(REPO, tmp_path / "made")
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return local


def invoke(local: LocalHub, *words: str) -> Any:
    return CliRunner().invoke(app, ["fetch", REPO, *words, "--endpoint", local.endpoint, "--token", local.token])


def test_an_app_downloads_what_its_config_says(published: LocalHub, tmp_path: Path) -> None:
    """With nothing but the JSON: the address gives bytes of that size and digest, for good."""
    done = invoke(published, "--variant", "original/compiled", "--app-config", "App/model.json")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "App" / "model.json").read_text())
    with urllib.request.urlopen(told["url"]) as answer:
        archive = answer.read()
    assert (len(archive), hashlib.sha256(archive).hexdigest()) == (told["size"], told["sha256"])
    assert archive == FILES[ARCHIVE]
    assert f"/resolve/{told['commit']}/" in told["url"]
    commit, url, sha256 = told.pop("commit"), told.pop("url"), told.pop("sha256")
    assert url.endswith(f"{commit}/{ARCHIVE}")
    assert told == {
        "format": 1,
        "repo": REPO,
        "variant": "original/zip",
        "attention": "original",
        "size": len(FILES[ARCHIVE]),
        "folder": "coreml-tiny-palettized_original_compiled",
        "compute_units": "cpuAndGPU",
        "minimum_os": ["iOS 17", "macOS 14"],
        "bits": 6,
        "image": [512, 768],
        "batch": 2,
        "prediction_type": "v_prediction",
        "scaling_factor": 0.25,
        "scheduler": None,
        **dict.fromkeys(("swift_pipeline", "steps", "guidance", "guidance_embedding", "controlnets", "refiner")),
    }
    # the Swift that is printed says the same
    assert 'URL(filePath: "models/coreml-tiny-palettized_original_compiled")' in done.stderr
    assert f'let archive = URL(string: "{url}")!' in done.stderr
    assert f'let sha256 = "{sha256}"' in done.stderr
    assert "configuration.computeUnits = .cpuAndGPU" in done.stderr
    assert "// iOS 17, macOS 14 or later" in done.stderr


def test_a_dry_run_writes_the_config_and_nothing_else(published: LocalHub, tmp_path: Path) -> None:
    """Also where packages are fetched: what an app downloads is the archive of the same attention."""
    done = invoke(published, "--variant", "split_einsum_v2/packages", "--dry-run", "--app-config", "model.json")
    assert done.exit_code == 0, done.output
    told = AppConfig.model_validate_json((tmp_path / "model.json").read_text())
    assert (told.variant, told.compute_units) == ("split_einsum_v2/zip", "cpuAndNeuralEngine")
    assert not (tmp_path / "models").exists()
    refused = invoke(published, "--dry-run", "--app-config", "model.json/below.json")
    assert refused.exit_code == 4
    assert "cannot be written" in refused.stderr


def test_packages_come_with_the_command_that_draws(published: LocalHub) -> None:
    done = invoke(published, "--variant", "original/packages")
    assert done.stdout == "models/coreml-tiny-palettized_original_packages\n"
    assert "-i models/coreml-tiny-palettized_original_packages -o ." in done.stderr
    assert "--model-version a/b --compute-unit CPU_AND_GPU" in done.stderr
    assert invoke(published, "--variant", "original/packages", "--quiet").stderr == ""


def test_files_that_do_not_belong_are_named(published: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "coreml-tiny-palettized_original_packages"
    (folder / "Old.mlpackage").mkdir(parents=True)
    for name in ("Old.mlpackage/weight.bin", "notes.txt"):
        (folder / name).write_bytes(b"old")
    done = invoke(published, "-q")
    assert (
        "also holds 2 files that original/packages does not have: Old.mlpackage/weight.bin, notes.txt." in done.stderr
    )
    forced = invoke(published, "-q", "--force")
    assert "also holds 1 file that original/packages does not have: notes.txt." in forced.stderr


def _state(*names: str, settings: dict[str, Any] | None = None, sha256: str | None = "0" * 64) -> RemoteState:
    files = tuple(
        FileRef(path=name, size=9, digest=Digest("sha256", sha256) if sha256 else Digest("git", "b" * 40))
        for name in names
    )
    made = {"format": 1, "variants": {}, "files": [], "settings": settings} if settings is not None else None
    return RemoteState(repo_id="apple/coreml-x", commit="c" * 40, files=files, manifest=made)


def test_of_a_repo_that_hubpub_did_not_make() -> None:
    """What it does not tell is null, never guessed."""
    made = app_config(_state("split-einsum/x y.zip"), "split_einsum/compiled", endpoint="https://hub.example")
    assert made.url == f"https://hub.example/apple/coreml-x/resolve/{'c' * 40}/split-einsum/x%20y.zip"
    assert (made.folder, made.bits, made.minimum_os, made.image) == ("x y", None, None, None)


def test_what_cannot_be_described_is_an_error() -> None:
    only_models = _state("original/packages/a_unet.mlpackage/Manifest.json")
    with pytest.raises(NoSuchVariant, match="has none for original/packages"):
        app_config(only_models, "original/packages", endpoint="")
    with pytest.raises(FetchError, match="does not tell the attention"):
        app_config(_state("x_original.zip", sha256=None), "original/zip", endpoint="")
    with pytest.raises(FetchError, match="does not tell the attention"):
        app_config(_state("x.zip"), "zip", endpoint="")
    with pytest.raises(FetchError, match="has bits = 'six'"):
        app_config(_state("x_original.zip", settings={"bits": "six"}), "original/zip", endpoint="")


def test_every_field_is_explained_to_app_developers() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "apps.md").read_text(encoding="utf-8")
    for name in AppConfig.model_fields:
        assert f"`{name}`" in text, name


def test_the_lines_of_the_card_work_as_printed(published: LocalHub, hub: Hub, tmp_path: Path) -> None:
    """Its Python prints a folder that holds the packages; its commands and its pipeline mean the same folder."""
    state = hub.state(REPO, None)
    assert state is not None
    assert state.manifest is not None
    files = state.manifest["files"]
    variants: dict[str, Any] = {name: {"files": 1, "size": 1} for name in state.manifest["variants"]}
    variants["original/zip"]["path"] = variants["split_einsum_v2/zip"]["path"] = ARCHIVE
    card = render(manifest() | {"repo_id": REPO, "variants": variants, "files": files})
    python = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert python is not None
    environment = {**os.environ, "HF_ENDPOINT": published.endpoint, "HF_HOME": str(tmp_path / "hf")}
    printed = subprocess.run(
        [sys.executable, "-c", python[1]], env=environment, capture_output=True, text=True, check=True
    )
    names = {path.name for path in Path(printed.stdout.strip()).iterdir()}
    assert "Stable_Diffusion_version_a_b_unet.mlpackage" in names
    for line in re.findall(r"^hubpub fetch (.*)$", card, re.MULTILINE):
        words = line.split()
        assert words[0] == REPO
        assert invoke(published, *words[1:]).exit_code == 0
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        "coreml-tiny-palettized_original_packages",
        "coreml-tiny-palettized_original_compiled",
    }
    for folder in re.findall(r"models/[\w-]+", card):
        assert (tmp_path / folder).is_dir(), folder
