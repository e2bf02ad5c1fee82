"""docs/python.md: what it shows works as shown, and it names every public function."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

import hubpub
from hubpub.verbs.demo import SOURCE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette", reason="the embedded Hub needs hubpub[local]")
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "store"))
    monkeypatch.setenv("HUBPUB_HUB", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SOURCE, tmp_path / "digits")
    done = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert done.attempted
    assert not done.failed


def test_every_public_name_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in set(hubpub.__all__) - {"__version__"}:
        assert f"`hubpub.{name}" in text
