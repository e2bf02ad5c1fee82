"""docs/reliability.md: every complaint names a test that is there, and what it shows of a config file is one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from hubpub.plan.config import read_defaults

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def test_each_complaint_has_a_test_that_is_there() -> None:
    table = PAGE.partition("| complaint |")[2]
    rows = [row for row in table.splitlines() if row.startswith("| ")]
    assert len(rows) == 19
    for row in rows:
        found = re.fullmatch(r"\| .+ \| .+ \| `(?P<file>tests/\S+\.py)::(?P<name>test_\w+)` \|", row)
        assert found is not None, row
        tree = ast.parse((ROOT / found["file"]).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert found["name"] in names, row


def test_the_config_that_it_shows(tmp_path: Path) -> None:
    shown = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    (tmp_path / "hubpub.toml").write_text(shown[1], encoding="utf-8")
    fetch = read_defaults(None, tmp_path).fetch
    assert fetch.identity is not None
    assert fetch.identity.startswith("https://github.com/")
    assert fetch.issuer == "https://token.actions.githubusercontent.com"
