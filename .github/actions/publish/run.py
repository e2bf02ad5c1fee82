"""The publish action's own two steps, `key` and `publish`: inputs come as JSON in INPUTS, results go to GitHub's files.

Words of a command line are a list here, never a line that a shell reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Inputs = Mapping[str, str]

LOCK = Path(__file__).resolve().parents[3] / "constraints.txt"


def main(step: str) -> int:
    """Run one step; the exit status of the hubpub that it called."""
    inputs: Inputs = json.loads(os.environ["INPUTS"])
    return {"key": key, "publish": publish}[step](inputs)


def key(inputs: Inputs) -> int:
    """Outputs `key` and `restore-key`: what is cached is known by the lock, the sources' commits and the plan."""
    done = hubpub(["plan", "--json", *settings(inputs), *source(inputs)], environment(inputs))
    if done.returncode:
        return done.returncode
    plans: list[dict[str, Any]] = json.loads(done.stdout)
    steps = sorted(step["key"] for plan in plans for step in plan["steps"])
    commits = [plan["source"]["commit"] or "folder" for plan in plans]
    machine = f"{platform.system()}-{platform.machine()}".lower()
    start = f"hubpub-{machine}-{digest([LOCK.read_text(encoding='utf-8')])}-{digest(commits)}"
    outputs({"key": f"{start}-{digest(steps)}", "restore-key": f"{start}-"})
    return 0


def publish(inputs: Inputs) -> int:
    """Publish, and hand on outputs and summary, also those of a failure."""
    report = Path(tempfile.mkdtemp(prefix="hubpub-report-", dir=os.environ.get("RUNNER_TEMP")))
    words = ["publish", "--quiet", "--report", str(report), *settings(inputs), *delivery(inputs), *source(inputs)]
    done = hubpub(words, {**environment(inputs), **trusted(inputs)}, shown=True)
    for name, variable in (("outputs.txt", "GITHUB_OUTPUT"), ("summary.md", "GITHUB_STEP_SUMMARY")):
        if (report / name).is_file():
            append(variable, (report / name).read_text(encoding="utf-8"))
    return done.returncode


def settings(inputs: Inputs) -> list[str]:
    """The flags that plan and publish share."""
    words = []
    for flag in ("to", "bits", "verify", "compiler", "config"):
        if inputs[flag]:
            words += [f"--{flag}", inputs[flag]]
    for name, flag in (("attention", "--attention"), ("formats", "--format")):
        for value in inputs[name].split():
            words += [flag, value]
    if inputs["endpoint"] == "local":
        words += ["--endpoint", "local"]
    return words


def delivery(inputs: Inputs) -> list[str]:
    """The flags of publish alone."""
    words = [f"--{flag}" for flag in ("create-pr", "dry-run") if truth(inputs, flag)]
    if inputs["tag"]:
        words += ["--tag", inputs["tag"]]
    return words + [word for line in inputs["extra-args"].splitlines() if (word := line.strip())]


def source(inputs: Inputs) -> list[str]:
    """The argument, which no leading dash makes a flag of."""
    return ["--", inputs["source"]] if inputs["source"] else []


def environment(inputs: Inputs) -> dict[str, str]:
    """What hubpub and the Hub's client read: the token, and the Hub's address where it is another."""
    given = {}
    if inputs["token"]:
        given["HF_TOKEN"] = inputs["token"]
    if inputs["endpoint"] not in ("", "local"):
        given["HF_ENDPOINT"] = inputs["endpoint"]
    return given


def trusted(inputs: Inputs) -> dict[str, str]:
    """Trusted Publishing first: HF_OIDC_RESOURCE where this job has an identity and the Hub gives a token for it.

    Where the Hub refuses and there is a token, that one is used, and the job says so.
    """
    if truth(inputs, "dry-run") or not os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"):
        return {}
    repo = destination(inputs)
    if repo is None:
        print("::notice::Trusted Publishing needs one destination that is named with `to`.")
        return {}
    found = {"HF_OIDC_RESOURCE": repo}
    if inputs["token"]:
        asked = [sys.executable, "-c", "import huggingface_hub; huggingface_hub.get_token()"]
        exchange = subprocess.run(
            asked, env={**os.environ, **environment(inputs), **found}, check=False, capture_output=True
        )
        if exchange.returncode:
            print(f"::warning::The Hub does not trust this workflow to publish to {repo}; the token is used.")
            return {}
    return found


def destination(inputs: Inputs) -> str | None:
    """The one repo that is published to, where inputs or config file name it."""
    if inputs["to"]:
        return inputs["to"]
    config = ["--config", inputs["config"]] if inputs["config"] else []
    shown = hubpub(["config", "show", "--json", *config, *source(inputs)], {})
    models = json.loads(shown.stdout) if shown.returncode == 0 else []
    return models[0]["to"] if len(models) == 1 else None


def hubpub(words: Sequence[str], given: Mapping[str, str], *, shown: bool = False) -> subprocess.CompletedProcess[str]:
    """Call the program; its stdout is returned, or shown. Errors are always shown."""
    sys.stdout.flush()
    command = [sys.executable, "-m", "hubpub", *words]
    out = None if shown else subprocess.PIPE
    return subprocess.run(command, env={**os.environ, **given}, stdout=out, check=False, text=True)


def truth(inputs: Inputs, name: str) -> bool:
    """A yes-or-no input; anything but true and false ends the step, so that a typing error publishes nothing."""
    value = inputs[name].strip().lower()
    if value not in ("true", "false", ""):
        sys.exit(f"::error::Input {name} is {inputs[name]!r}; it can be true or false.")
    return value == "true"


def digest(texts: Sequence[str]) -> str:
    """16 hex digits of some texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def outputs(values: Mapping[str, str]) -> None:
    """Outputs of the step."""
    append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in values.items()))


def append(variable: str, text: str) -> None:
    """Add to the file that GitHub names in a variable."""
    with Path(os.environ[variable]).open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
