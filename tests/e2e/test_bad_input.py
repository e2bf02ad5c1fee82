"""Bad input gets one clear sentence, a hint and its exit status; nothing is lost and no traceback is shown."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from hubpub.cli.app import app
from hubpub.localhub import LocalHub, running
from tests.support.sources import Layout, make_source


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as running_hub:
        yield running_hub


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "tiny", "sd15")


def _refused(*arguments: str, status: int, says: str, hint: str = "") -> str:
    """Run; the error must have that exit status, those words, a hint, and no traceback."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == status, (result.exit_code, result.output)
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert says in result.stderr
    assert "Hint: " in result.stderr
    assert hint in result.stderr
    return result.stderr


def _weights(source: Path, folder: str = "unet") -> Path:
    return next(path for path in (source / folder).iterdir() if path.suffix in (".safetensors", ".bin"))


def test_not_a_diffusers_repo(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"x")
    _refused("plan", str(tmp_path), status=3, says="no model_index.json", hint="one weight file")


def test_a_family_that_is_not_supported_yet(source: Path) -> None:
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionXLPipeline"}))
    _refused("plan", str(source), status=3, says="Stable Diffusion XL", hint="Supported: Stable Diffusion 1.x")


def test_neither_a_folder_nor_a_repo_id() -> None:
    _refused("plan", "no/such/folder", status=2, says="neither an existing folder nor a repo id", hint="ORG/NAME")


def test_a_missing_licence(source: Path) -> None:
    (source / "README.md").write_text("# no front matter\n")
    _refused("plan", str(source), status=3, says="names no licence", hint="--license")


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("--attention", "orginal", "original"),
        ("--bits", "5", "16"),
        ("--format", "zips", "zip"),
        ("--deployment-target", "macOS12", "macOS13"),
        ("--verify", "weight", "weights"),
    ],
)
def test_unknown_values(source: Path, option: str, value: str, near: str) -> None:
    _refused("plan", str(source), option, value, status=2, says=value, hint=near)


def test_a_size_that_the_unet_cannot_take(source: Path) -> None:
    _refused(
        "plan", str(source), "--latent-height", "33", "--latent-width", "32", status=2, says="33×32", hint="multiples"
    )


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Not found</body></html>")


@pytest.mark.parametrize(
    ("damage", "says"), [(_truncated, "truncated"), (_pointer, "git-LFS pointer"), (_web_page, "web page")]
)
def test_damaged_weights(source: Path, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(_weights(source))
    arguments = ["convert", str(source), "-o", str(tmp_path / "out"), "--attention", "original", "--verify", "weights"]
    _refused(*arguments, status=3, says=says)
    assert not (tmp_path / "out").exists()


class _Evil:
    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self._target),))


def test_a_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    source = make_source(tmp_path / "tiny", "sd15", layout=Layout(kind="bin"))
    path, trap = _weights(source), tmp_path / "executed"
    data = io.BytesIO()
    with zipfile.ZipFile(path) as original, zipfile.ZipFile(data, "w") as changed:
        for name in original.namelist():
            content = original.read(name)
            changed.writestr(name, pickle.dumps(_Evil(trap)) if name.endswith("data.pkl") else content)
    path.write_bytes(data.getvalue())
    arguments = ["convert", str(source), "-o", str(tmp_path / "out"), "--attention", "original", "--verify", "weights"]
    _refused(*arguments, status=3, says="mkdir")
    assert not trap.exists()


def test_a_missing_repo(hub: LocalHub) -> None:
    at = ["--endpoint", hub.endpoint, "--token", hub.token]
    _refused("plan", "org/nothing", *at, status=3, says="org/nothing")
    _refused("fetch", "me/nothing", *at, status=8, says="me/nothing")
    _refused("variants", "me/nothing", *at, status=8, says="me/nothing")


def test_a_gated_repo(hub: LocalHub, source: Path) -> None:
    hub.storage.import_folder("org/gated", source, gated=True)
    at = ["--endpoint", hub.endpoint, "--token", hub.token]
    _refused("plan", "org/gated", *at, status=3, says="gated", hint="terms")


def test_a_malformed_destination(source: Path) -> None:
    _refused("plan", str(source), "--to", "no-owner", status=2, says="not a repo id", hint="OWNER/NAME")


def test_no_token_and_no_right(hub: LocalHub, source: Path) -> None:
    at = ["--to", "me/x", "--endpoint", hub.endpoint]
    _refused("publish", str(source), *at, status=4, says="token", hint="hf auth login")
    _refused("publish", str(source), *at, "--token", "hf_" + "wrong" * 7, status=4, says="token")
    told = _refused("publish", str(source), *at, "--token", hub.read_token, status=4, says="writ")
    assert hub.read_token not in told


def test_foreign_files_of_a_destination_are_kept(hub: LocalHub, tmp_path: Path) -> None:
    from hubpub.files.digest import Digest, FileRef
    from hubpub.release.artifact import Artifact
    from hubpub.release.release import Release, RemoteState, diff

    theirs = tuple(
        FileRef(path=path, size=3, digest=Digest("git", "0" * 40))
        for path in ("notes.txt", "original/packages/theirs.mlpackage/x", "other_original_compiled.zip")
    )
    ours = tmp_path / "x"
    ours.write_bytes(b"new")
    artifact = Artifact(
        path="original/packages/ours.mlpackage/x", source=ours, size=3, digest=Digest("sha256", "1" * 64)
    )
    release = Release(
        repo_id="me/x", artifacts=(artifact,), manifest={"files": [], "variants": {}}, card="", message=""
    )
    remote = RemoteState(repo_id="me/x", commit="c", files=theirs)
    operations = diff(release, [artifact], remote)
    assert [(operation.action, operation.path) for operation in operations] == [("new", artifact.path)]


def test_an_unknown_variant_lists_those_there_are(hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "repo" / "original" / "packages" / "Unet.mlpackage"
    folder.mkdir(parents=True)
    (folder / "Manifest.json").write_text("{}")
    hub.storage.import_folder("me/some", tmp_path / "repo")
    at = ["--endpoint", hub.endpoint, "--token", hub.token]
    _refused("fetch", "me/some", "--variant", "split_einsum/packages", *at, status=8, says="original/packages")


def test_too_little_disk_and_memory_are_found_before_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    arguments = ["convert", str(source), "-o", str(tmp_path / "out"), "--verify", "weights"]
    _refused(*arguments, status=4, says="1 B free", hint="hubpub cache prune")
    small = psutil.virtual_memory()._replace(total=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    told = _refused(*arguments, status=4, says="things are in the way")
    assert "memory" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_loses_nothing(source: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HUBPUB_CACHE": str(tmp_path / "store")}
    command = [
        sys.executable,
        "-m",
        "hubpub",
        "convert",
        str(source),
        "-o",
        str(tmp_path / "out"),
        "--verify",
        "weights",
    ]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while not workers and time.monotonic() < deadline:
        time.sleep(0.2)
        workers = psutil.Process(process.pid).children(recursive=True)
    assert workers, "no step was started"
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 130, told
    assert "run the same command again" in told
    assert "Traceback" not in told
    assert not psutil.wait_procs(workers, timeout=5)[1], "a worker outlived its master"
