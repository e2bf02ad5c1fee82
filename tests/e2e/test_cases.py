"""What users of such tools ran into with their sources: each case is a script that types what they typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Those of cards, names and networks come with what they are about.
CASES = (
    "added_tokens",
    "config_ignored_keys",
    "licence_early",
    "merges_crlf",
    "mid_block_null",
    "stale_fp16",
    "tokenizer_json_only",
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_case_of_users(case: str, shared: Path) -> None:
    script = shared / "cases" / f"{case}.py"
    if not script.is_file():
        pytest.skip("this case is not among the reference facts beside this checkout")
    source = Path(__file__).parents[2] / "hubpub" / "demo_source"
    done = subprocess.run([sys.executable, script, source], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
