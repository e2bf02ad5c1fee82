"""What answers at once must load nothing heavy; what is public must be there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hubpub
from hubpub import errors
from tests.support.sources import make_source

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "coremltools", "diffusers", "transformers", "scipy", "sklearn")


def _loaded(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` ran in a fresh interpreter."""
    script = (
        textwrap.dedent(code) + "\nimport sys; print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


def _command(*arguments: str) -> str:
    return f"""
        from typer.testing import CliRunner
        from hubpub.cli import app
        result = CliRunner().invoke(app, {list(arguments)!r})
        assert result.exit_code == 0, result.output
    """


def test_import_hubpub_loads_nothing() -> None:
    loaded = _loaded("import hubpub")
    assert not loaded & {*HEAVY, "numpy", "typer", "huggingface_hub", "pydantic"}


def test_help_loads_nothing() -> None:
    loaded = _loaded(_command("--help"))
    assert not loaded & {*HEAVY, "numpy", "huggingface_hub", "pydantic", "rich"}


def test_plan_loads_neither_torch_nor_coremltools(tmp_path: Path) -> None:
    source = make_source(tmp_path / "tiny", "sd15")
    assert not _loaded(_command("plan", str(source))) & set(HEAVY)


def test_fetch_loads_neither_torch_nor_coremltools() -> None:
    loaded = _loaded("import hubpub.verbs.fetch, hubpub.cli.fetch, hubpub.remote.destinations.hub")
    assert not loaded & {*HEAVY, "numba"}


@pytest.mark.parametrize("name", hubpub.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(hubpub, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        _ = hubpub.nothing


def test_the_drawing_of_the_errors_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = {
        word.strip("├└─│ ")
        for line in errors.__doc__.splitlines()
        if line.startswith(("Hubpub", "├", "└", "│", " "))
        for word in [line.rstrip("0123456789 ")]
    }
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert drawn == classes


def test_deciding_loads_no_machinery() -> None:
    loaded = _loaded("import hubpub.plan.planner, hubpub.architectures, hubpub.steps, hubpub.release.outcome")
    assert not loaded & {*HEAVY, "numba", "huggingface_hub", "git"}


def test_the_map_names_every_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = [path.name for path in (ROOT / "hubpub").iterdir() if not path.name.startswith(("__", "."))]
    missing = [name for name in listed if name not in text and name != "py.typed"]
    assert not missing, f"CONTRIBUTING.md's map lacks {missing}"


def test_every_module_says_what_it_is_for() -> None:
    for path in (ROOT / "hubpub").rglob("*.py"):
        if path.name == "schema_pb2.py":
            continue
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no first line"


def test_the_cli_is_whole() -> None:
    assert importlib.import_module("hubpub.cli").main is not None
