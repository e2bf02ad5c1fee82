"""docs/card.md names what a template can use: all of it, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from hubpub.release.card import render, view
from tests.release.test_card import _manifest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "card.md").read_text(encoding="utf-8")


def test_every_name_is_there() -> None:
    listed = set()
    for line in TEXT.splitlines():
        if line.startswith("| `"):
            listed |= set(re.findall(r"`(\w+)(?:\(variant\))?`", line.split(" | ")[0]))
    assert listed == set(view(_manifest()))


def test_the_example_renders(tmp_path: Path) -> None:
    template = tmp_path / "mine.md.j2"
    match = re.search(r"```jinja\n(.*?)```", TEXT, re.DOTALL)
    assert match is not None
    template.write_text(match[1], encoding="utf-8")
    assert "My own words." in render(_manifest(), template=template)
