"""The command line parses, calls a verb and shows its value: it reaches nothing that a verb is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubpub import cli

MODULES = sorted(Path(cli.__file__).parent.glob("*.py"))
# Besides verbs: how values are shown, what options are made of, and two types that verbs take.
ALLOWED = (
    "hubpub",
    "hubpub.cli",
    "hubpub.errors",
    "hubpub.engine.progress",
    "hubpub.files.sizes",  # bytes for people
    "hubpub.plan.settings",
    "hubpub.plan.config",  # its JSON Schema is printed
    "hubpub.remote.destinations",  # which operations are changes
    "hubpub.runtime.pictures",
    "hubpub.localhub",
)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        yield from _imported(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_command_reaches_verbs_alone(path: Path) -> None:
    own = {name for name in _imported(ast.parse(path.read_bytes())) if name.partition(".")[0] == "hubpub"}
    foreign = {name for name in own if not name.startswith(("hubpub.verbs", "hubpub.cli")) and name not in ALLOWED}
    assert foreign == set()
