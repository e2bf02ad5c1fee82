"""Blocks of the README and of docs/ run as they are written, page by page, with a source called my-model.

A comment before each block says what becomes of it: `run`, `file: PATH` (it is that file), `append: PATH`,
`tested: WHERE`, or `not run: WHY`. Pages share the embedded Hub and the store; each has a folder of its own, in which
its blocks follow each other as in one shell.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = Path("hubpub", "demo_source")
# Written by docs/generate.py, and tested with it.
_GENERATED = {"cli.md", "configuration.md", "errors.md"}
_FENCE = re.compile(
    r"(?:<!-- (?P<what>[\w ]+?)(?:: (?P<detail>.*?))? -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block, and what the comment before it says."""

    what: str | None
    detail: str | None
    language: str
    code: str


def _pages() -> list[Path]:
    """The README first: what it publishes, the others fetch."""
    return [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in _GENERATED)]


def _blocks(page: Path) -> list[Block]:
    return [Block(**match.groupdict()) for match in _FENCE.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_says_what_becomes_of_it(page: Path) -> None:
    blocks = _blocks(page)
    assert page.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks)
    for block in blocks:
        match block.what:
            case "run":
                assert block.language in ("bash", "python"), block.code
            case "file" | "append" | "not run":
                assert block.detail, block.code
            case "tested":
                assert (ROOT / str(block.detail)).is_file(), block.detail
            case _:
                pytest.fail(f"nothing says what becomes of this block:\n{block.code}")


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [*_pages(), ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / name for name in sorted(_GENERATED))]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_index_of_docs_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, f"docs/README.md lacks {page.name}"


@pytest.mark.slow
def test_the_blocks_run(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="reports are drawn with hubpub[report]")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HUBPUB_CACHE": str(tmp_path / "store"),
        "HUBPUB_HUB": str(tmp_path / "hub"),
    }
    for page in _pages():
        folder = tmp_path / page.relative_to(ROOT).with_suffix("")
        if page.parent == ROOT:  # whose reader has a clone, and makes my-model of it
            shutil.copytree(ROOT / DEMO, folder / DEMO)
        else:
            shutil.copytree(ROOT / DEMO, folder / "my-model")
        for block in _blocks(page):
            folder = _do(block, folder, environment)


def _do(block: Block, folder: Path, environment: dict[str, str]) -> Path:
    """Do what the comment says in `folder`; the folder where a reader's shell is then."""
    if block.what in ("file", "append"):
        file = folder / str(block.detail)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w" if block.what == "file" else "a", encoding="utf-8") as target:
            target.write(block.code)
    if block.what != "run":
        return folder
    # what stands on stderr last is where the shell is
    shell = ["bash", "-euo", "pipefail", "-c", f"{block.code}\npwd >&2"]
    command = shell if block.language == "bash" else [sys.executable, "-c", block.code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
    return Path(done.stderr.splitlines()[-1]) if block.language == "bash" else folder
