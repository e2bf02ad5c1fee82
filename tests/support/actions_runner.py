"""Executes the steps of a GitHub workflow's job or of a composite action here, as GitHub's documentation describes.

`run:` steps run for real, in bash, with GITHUB_OUTPUT, GITHUB_ENV, GITHUB_PATH and GITHUB_STEP_SUMMARY as files.
Of `uses:` steps, actions of this repository run for real; caches and artifacts are folders; checkout and
setup-python find their work done. Anything else is an error: nothing passes because it was skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
_TOKEN = re.compile(
    r"\s*(?:(?P<sign>==|!=|&&|\|\||[!()])|'(?P<text>(?:[^']|'')*)'|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)*))"
)
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


@dataclass(kw_only=True)
class Done:
    """What a job or an action did."""

    outputs: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)  # names of the steps that ran
    log: str = ""
    summary: str = ""
    failed: str | None = None  # name of the step that failed first


@dataclass(kw_only=True)
class Machine:
    """A runner: its folders, its environment, and GitHub's services."""

    temp: Path
    workspace: Path
    env: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    caches: dict[str, Path] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)
    event: str = "workflow_dispatch"
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def context(self, **more: Any) -> dict[str, Any]:
        """What expressions see."""
        github = {"event_name": self.event, "ref": "refs/heads/main", "workspace": str(self.workspace)}
        runner = {"temp": str(self.temp), "os": "Linux"}
        base = {"github": github, "runner": runner, "secrets": self.secrets, "inputs": self.inputs, "steps": {}}
        return {**base, **more}


def load(path: Path) -> dict[str, Any]:
    """A workflow or an action as data (YAML 1.1 reads the key `on` as true)."""
    data: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {("on" if key is True else key): value for key, value in data.items()}


def run_action(path: Path, inputs: Mapping[str, str], machine: Machine) -> Done:
    """A composite action with inputs; those that are not given have their defaults."""
    action = load(path / "action.yml")
    unknown = set(inputs) - set(action["inputs"])
    assert not unknown, f"no inputs of the action: {unknown}"
    given = {name: str(inputs.get(name, told.get("default", ""))) for name, told in action["inputs"].items()}
    context = machine.context(inputs=given, secrets={})
    done = _steps(action["runs"]["steps"], context, machine, {"GITHUB_ACTION_PATH": str(path)})
    done.outputs = {name: _fill(told["value"], context) for name, told in action["outputs"].items()}
    return done


def run_job(workflow: Mapping[str, Any], name: str, machine: Machine, **contexts: Any) -> Done | None:
    """One job of a workflow (of a matrix, one row given as `matrix`); None where its `if` says no."""
    job = workflow["jobs"][name]
    context = machine.context(**contexts)
    if not truth(_condition(job.get("if"), context)):
        return None
    environment = {}
    for table in (workflow.get("env", {}), job.get("env", {})):
        environment |= {key: _fill(value, context) for key, value in table.items()}
    context["env"] = environment
    done = _steps(job["steps"], context, machine, environment)
    done.outputs = {key: _fill(value, context) for key, value in job.get("outputs", {}).items()}
    return done


def _steps(steps: list[dict[str, Any]], context: dict[str, Any], machine: Machine, env: Mapping[str, str]) -> Done:
    done = Done()
    environment = {**machine.env, **env, "RUNNER_TEMP": str(machine.temp)}
    for number, step in enumerate(steps):
        name = step.get("name") or step.get("uses") or f"step {number}"
        context["job"] = {"status": "failure" if done.failed else "success"}
        if not truth(_condition(step.get("if"), context)):
            continue
        done.ran.append(name)
        here = {**environment, **{key: _fill(value, context) for key, value in step.get("env", {}).items()}}
        good, outputs = (_use if "uses" in step else _run)(step, context, machine, here, environment, done)
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": outputs, "outcome": "success" if good else "failure"}
        if not good and done.failed is None:
            done.failed = name
    return done


def _run(
    step: Mapping[str, Any],
    context: Mapping[str, Any],
    machine: Machine,
    here: Mapping[str, str],
    environment: dict[str, str],
    done: Done,
) -> tuple[bool, dict[str, str]]:
    """A `run:` step in bash, as GitHub calls it."""
    assert step.get("shell", "bash") == "bash", "this runner has bash only"
    assert "${{" not in step["run"], f"an expression reaches the shell: {step['run']}"
    files = {name: machine.temp / f"{name.lower()}-{os.urandom(4).hex()}" for name in _FILES}
    for path in files.values():
        path.touch()
    script = machine.temp / "step.sh"
    script.write_text(step["run"], encoding="utf-8")
    folder = machine.workspace / _fill(step.get("working-directory", "."), context)
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=folder,
        env={**here, **{name: str(path) for name, path in files.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    done.log += ran.stdout
    done.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
    environment |= _pairs(files["GITHUB_ENV"])
    added = files["GITHUB_PATH"].read_text(encoding="utf-8").split()
    environment["PATH"] = os.pathsep.join([*reversed(added), environment["PATH"]])
    return ran.returncode == 0, _pairs(files["GITHUB_OUTPUT"])


_FILES = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")


def _use(
    step: Mapping[str, Any],
    context: Mapping[str, Any],
    machine: Machine,
    here: Mapping[str, str],
    environment: dict[str, str],
    done: Done,
) -> tuple[bool, dict[str, str]]:
    """A `uses:` step."""
    given = {key: _fill(value, context) for key, value in step.get("with", {}).items()}
    name = step["uses"].partition("@")[0]
    if name.startswith("$/"):
        inner = run_action(ROOT / name.removeprefix("$/"), given, machine)
        done.log += inner.log
        done.summary += inner.summary
        done.ran += inner.ran
        return inner.failed is None, inner.outputs
    match name:
        case "actions/checkout" | "actions/setup-python":
            return True, {}
        case "actions/cache/restore":
            return True, _restore(machine, machine.workspace / given["path"], given["key"], given["restore-keys"])
        case "actions/cache/save":
            kept = machine.temp / f"cache-{os.urandom(4).hex()}"
            if (machine.workspace / given["path"]).is_dir():
                shutil.copytree(machine.workspace / given["path"], kept)
                machine.caches[given["key"]] = kept
            return True, {}
        case "actions/upload-artifact":
            assert Path(given["path"]).is_file(), given
            machine.artifacts[given["name"]] = Path(given["path"])
            return True, {}
    raise AssertionError(f"this runner does not know {step['uses']}")


def _restore(machine: Machine, path: Path, key: str, restore_keys: str) -> dict[str, str]:
    prefixes = [line.strip() for line in restore_keys.splitlines() if line.strip()]
    found = key if key in machine.caches else None
    for prefix in prefixes:
        found = found or next((name for name in reversed(machine.caches) if name.startswith(prefix)), None)
    if found is None:
        return {"cache-hit": ""}
    shutil.copytree(machine.caches[found], path, dirs_exist_ok=True)
    return {"cache-hit": str(found == key).lower(), "cache-matched-key": found}


def _pairs(path: Path) -> dict[str, str]:
    """KEY=VALUE lines. The form with a delimiter is not used here, so its beginning is an error."""
    pairs = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        assert equals, f"GitHub refuses this line: {line!r}"
        pairs[key] = value
    return pairs


# -- expressions -----------------------------------------------------------------------------------------------


def _condition(text: Any, context: Mapping[str, Any]) -> Any:
    """An `if:`; without a status function it holds only while nothing has failed."""
    failed = context.get("job", {}).get("status") == "failure"
    if text is None:
        return not failed
    body = str(text).strip()
    if body.startswith("${{"):
        body = body[3:-2]
    asks = re.search(r"\b(always|failure|success|cancelled)\(\)", body)
    return evaluate(body, context) if asks or not failed else False


def _fill(value: Any, context: Mapping[str, Any]) -> str:
    """A text with its expressions evaluated."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return _EXPRESSION.sub(lambda match: shown(evaluate(match[1], context)), text)


def shown(value: Any) -> str:
    """A value as GitHub writes it into a text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def truth(value: Any) -> bool:
    """GitHub's truth: false, 0, "" and null are not."""
    return bool(value) or isinstance(value, dict | list)


def evaluate(text: str, context: Mapping[str, Any]) -> Any:
    """An expression: names, texts, numbers, == != && || ! ( ), and the functions that are used here."""
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match, f"cannot read {text[at:]!r}"
        tokens.append(match)
        at = match.end()
    value, rest = _either(tokens, context)
    assert not rest, f"cannot read all of {text!r}"
    return value


def _either(tokens: list[Any], context: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    value, tokens = _both(tokens, context)
    while tokens and tokens[0]["sign"] == "||":
        other, tokens = _both(tokens[1:], context)
        value = value if truth(value) else other
    return value, tokens


def _both(tokens: list[Any], context: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    value, tokens = _compare(tokens, context)
    while tokens and tokens[0]["sign"] == "&&":
        other, tokens = _compare(tokens[1:], context)
        value = other if truth(value) else value
    return value, tokens


def _compare(tokens: list[Any], context: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    value, tokens = _one(tokens, context)
    while tokens and tokens[0]["sign"] in ("==", "!="):
        sign = tokens[0]["sign"]
        other, tokens = _one(tokens[1:], context)
        value = _same(value, other) == (sign == "==")
    return value, tokens


def _same(left: Any, right: Any) -> bool:
    """Texts without case; of different kinds, as numbers."""
    if isinstance(left, str) and isinstance(right, str):
        return left.lower() == right.lower()
    if type(left) is type(right):
        return bool(left == right)
    return _number(left) == _number(right)


def _number(value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return float("nan")


def _one(tokens: list[Any], context: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    first, tokens = tokens[0], tokens[1:]
    if first["sign"] == "!":
        value, tokens = _one(tokens, context)
        return not truth(value), tokens
    if first["sign"] == "(":
        value, tokens = _either(tokens, context)
        assert tokens[0]["sign"] == ")"
        return value, tokens[1:]
    if first["text"] is not None:
        return first["text"].replace("''", "'"), tokens
    if first["number"] is not None:
        return float(first["number"]), tokens
    if tokens and tokens[0]["sign"] == "(":
        return _call(first["name"], tokens[1:], context)
    return _name(first["name"], context), tokens


def _call(name: str, tokens: list[Any], context: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    failed = context.get("job", {}).get("status") == "failure"
    if tokens[0]["sign"] == ")":
        return {"always": True, "success": not failed, "failure": failed}[name], tokens[1:]
    value, tokens = _either(tokens, context)
    assert tokens[0]["sign"] == ")"
    return {"toJSON": json.dumps, "fromJSON": json.loads}[name](value), tokens[1:]


def _name(name: str, context: Mapping[str, Any]) -> Any:
    if name in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[name]
    value: Any = context
    parts = name.split(".")
    assert parts[0] in context, f"no such context: {parts[0]}"
    for part in parts:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def python_path() -> str:
    """PATH with this interpreter's programs first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
