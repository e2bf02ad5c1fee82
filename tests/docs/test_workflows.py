"""Workflows and the action: GitHub's schemas, zizmor, pins, permissions, and that the docs name what they have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubpub import __version__
from hubpub.cli.ci import Inputs
from hubpub.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / ".github" / "actions" / "publish" / "action.yml"
TEMPLATE = ROOT / "templates" / "init" / "hubpub.yml"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), TEMPLATE]
_PINNED = re.compile(r"uses: (?:\$/\S+|[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(?:\.\d+){0,2})$")


def _tool(name: str) -> str:
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def _check(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"])
def test_workflows_fit_githubs_schema(schema: str) -> None:
    _check(_tool("check-jsonschema"), "--builtin-schema", schema, *map(str, WORKFLOWS))


def test_the_action_fits_githubs_schema() -> None:
    _check(_tool("check-jsonschema"), "--builtin-schema", "vendor.github-actions", str(ACTION))


def test_zizmor_finds_nothing(tmp_path: Path) -> None:
    """Template injection, permissions, pins, credentials that stay behind; the template as the workflow it becomes."""
    home = tmp_path / ".github" / "workflows"
    home.mkdir(parents=True)
    shutil.copy(TEMPLATE, home)
    words = (_tool("zizmor"), "--offline", "--no-progress", "--persona", "pedantic", "--strict-collection")
    _check(*words, str(ROOT / ".github"), str(home / TEMPLATE.name))


def test_zizmor_would_find_something(tmp_path: Path) -> None:
    """The check above can fail: an input that reaches the shell is found."""
    text = TEMPLATE.read_text(encoding="utf-8").replace(
        "run: python -m hubpub.cli.ci key", "run: echo ${{ github.event.pull_request.title }}"
    )
    path = tmp_path / ".github" / "workflows" / "bad.yml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    words = [_tool("zizmor"), "--offline", "--no-progress", str(path)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "template-injection" in found.stdout


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: str(path.relative_to(ROOT)))
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: .*", text)
    assert used or "setup-python" not in text
    for line in used:
        assert _PINNED.fullmatch(line), line


def test_the_same_action_has_the_same_pin_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path in [*WORKFLOWS, ACTION]:
        for name, pin in re.findall(r"uses: ([\w.-]+/[\w.-]+)(?:/[\w./-]+)?@(.*)", path.read_text(encoding="utf-8")):
            pins.setdefault(name, set()).add(pin)
    assert {name: len(found) for name, found in pins.items()} == dict.fromkeys(pins, 1)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_the_least_permissions(path: Path) -> None:
    """Nothing may write but the identity that Trusted Publishing needs, and that only where it is published."""
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    tables = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, table in tables.items():
        assert table == {"contents": "read", **({"id-token": "write"} if name == "publish" else {})}
    assert "pull_request_target" not in workflow[True]


@pytest.mark.parametrize("path", [*WORKFLOWS, ACTION], ids=lambda path: str(path.relative_to(ROOT)))
def test_expressions_reach_the_shell_through_the_environment_only(path: Path) -> None:
    data: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    jobs = data["jobs"].values() if "jobs" in data else [data["runs"]]
    for job in jobs:
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")


def test_secrets_are_seen_by_no_job_of_a_pull_request() -> None:
    for path in (ROOT / ".github" / "workflows" / "release.yml", TEMPLATE):
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
        assert "secrets." not in str(jobs["propose"])
        assert "github.event_name != 'pull_request'" in jobs["publish"]["if"]
        seen = re.findall(r"\$\{\{[^}]*secrets[^}]*\}\}", str(jobs["plan"]))
        assert seen
        assert all("github.event_name != 'pull_request' && secrets.HF_TOKEN" in one.replace("\\'", "'") for one in seen)


def test_the_actions_inputs_are_those_of_ci() -> None:
    inputs = set(yaml.safe_load(ACTION.read_text(encoding="utf-8"))["inputs"])
    own = {"extras", "working-directory", "python-version", "cache"}  # of the action's other steps
    assert inputs - own == {name.replace("_", "-") for name in Inputs.__dataclass_fields__}


def test_the_page_names_every_input_and_output() -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    action = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    for name in (*action["inputs"], *action["outputs"]):
        assert f"`{name}`" in text


def test_check_runs_what_make_runs() -> None:
    text = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    assert "run: make test" in text
    for word in re.findall(r"tests/\S+\.py", text):
        assert (ROOT / word).is_file(), word
    assert {"ubuntu-latest", "macos-15", "windows-latest"} <= set(re.findall(r"[a-z]+-(?:latest|\d+)\b", text))


def test_the_template_installs_the_version_that_wrote_it() -> None:
    from hubpub.verbs.init import Answers, files

    written = {file.path.as_posix(): file.text for file in files(Answers(source="a/b"), workflow=True)}
    assert f"HUBPUB: hubpub[numeric]=={__version__}\n" in written[".github/workflows/hubpub.yml"]
    assert "@VERSION@" not in written[".github/workflows/hubpub.yml"]


def test_inputs_are_texts_and_yes_or_no() -> None:
    inputs = Inputs.parse('{"dry-run": true, "bits": 8, "source": " a/b ", "to": null, "unknown": "x"}')
    assert (inputs.truth("dry_run"), inputs.bits, inputs.source, inputs.to) == (True, "8", "a/b", "")
    assert not Inputs.parse("{}").truth("create_pr")
    for text in ("[]", "nonsense", '{"source": ["a"]}'):
        with pytest.raises(ConfigError):
            Inputs.parse(text)
    with pytest.raises(ConfigError, match="create-pr"):
        Inputs.parse('{"create-pr": "yes"}').truth("create_pr")
