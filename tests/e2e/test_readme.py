"""The README's blocks run as they are written, in the order in which they stand, with a source called my-model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sources import make_source

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"<!-- run: my-model -->\n```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)


def _blocks() -> list[tuple[str, str]]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [(match["language"], match["code"]) for match in _BLOCK.finditer(text)]


def test_every_block_runs_or_is_one_that_cannot() -> None:
    """A new block is run, or is one of those that show what the machine's own two commands and the Hub do."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("```") // 2 == len(_blocks()) + 3  # the command of the title, make, the tree


@pytest.mark.slow
def test_the_blocks_run(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="graphs of toy configurations are built with hubpub[convert]")
    make_source(tmp_path / "my-model", "sd15")
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "HUBPUB_CACHE": str(tmp_path / "store"),
        "HUBPUB_HUB": str(tmp_path / "hub"),
    }
    for language, code in _blocks():
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
