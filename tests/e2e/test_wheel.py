"""The wheel, built and used from where it was unpacked: its templates, graphs and demo come with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, nothing else of this checkout beside them."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("hubpub-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _python(site: Path, *words: str, where: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "HUBPUB_CACHE": str(where / "store")}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_file_that_hubpub_reads_is_in_it(unpacked: Path) -> None:
    inside = {"templates": "_templates", "hubpub/demo_source": "demo_source"}
    for folder, name in inside.items():
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        there = [path for path in files if (unpacked / "hubpub" / name / path.relative_to(ROOT / folder)).is_file()]
        assert files
        assert there == files


@pytest.mark.slow
def test_it_plans_and_writes_from_its_templates(unpacked: Path, tmp_path: Path) -> None:
    found = _python(unpacked, "-c", "import hubpub; print(hubpub.__file__)", where=tmp_path)
    assert Path(found.strip()).is_relative_to(unpacked)
    source = unpacked / "hubpub" / "demo_source"
    (plan,) = json.loads(_python(unpacked, "-m", "hubpub", "plan", str(source), "--json", where=tmp_path))
    assert {step["kind"] for step in plan["steps"]} >= {"weights", "package", "compile", "archive"}
    _python(unpacked, "-m", "hubpub", "init", str(source), "--to", "me/x", "--yes", where=tmp_path)
    assert "me/x" in (tmp_path / "hubpub.toml").read_text(encoding="utf-8")
    assert (tmp_path / ".github" / "workflows" / "hubpub.yml").is_file()
