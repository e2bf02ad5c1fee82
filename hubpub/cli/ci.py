"""`python -m hubpub.cli.ci key|publish`: what a CI job does around `hubpub publish`. Used by the action and workflows.

Inputs come as one JSON object in INPUTS (the keys of `Inputs`; others are ignored), results go to the files
that GITHUB_OUTPUT and GITHUB_STEP_SUMMARY name. Words of a command line are a list here, never a line that a
shell reads.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path

from hubpub.errors import ConfigError, HubpubError


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The action's inputs: text, as CI systems have them; "" is not given."""

    source: str = ""
    to: str = ""
    attention: str = ""
    bits: str = ""
    formats: str = ""
    verify: str = ""
    compiler: str = ""
    config: str = ""
    create_pr: str = ""
    tag: str = ""
    dry_run: str = ""
    endpoint: str = ""
    token: str = ""
    extra_args: str = ""

    @classmethod
    def parse(cls, text: str) -> Inputs:
        """Inputs from JSON; keys may have dashes. ConfigError when it is no object of texts."""
        try:
            given = {str(key).replace("-", "_"): value for key, value in json.loads(text).items()}
        except (ValueError, AttributeError) as error:
            raise ConfigError("INPUTS is no JSON object.", hint="Set it to ${{ toJSON(inputs) }}.") from error
        return cls(**{field.name: _text(given.get(field.name)) for field in fields(cls)})

    def truth(self, name: str) -> bool:
        """A yes-or-no input. ConfigError for anything else: a typing error publishes nothing."""
        value = str(getattr(self, name))
        if value.lower() not in ("true", "false", ""):
            raise ConfigError(f"Input {name.replace('_', '-')} is {value!r}.", hint="It can be true or false.")
        return value.lower() == "true"


def main(arguments: Sequence[str]) -> int:
    """Run one step; its exit status is that of the `hubpub` that it called."""
    steps = {"key": key, "publish": publish}
    try:
        if len(arguments) != 1 or arguments[0] not in steps:
            raise ConfigError("Say `python -m hubpub.cli.ci key` or `python -m hubpub.cli.ci publish`.")
        return steps[arguments[0]](Inputs.parse(os.environ.get("INPUTS", "{}")))
    except HubpubError as error:
        print(f"::error::{error.message} {error.hint}".rstrip())
        return error.exit_status


def key(inputs: Inputs) -> int:
    """Outputs `key` and `restore-key` of the cache: machine, versions of tools, commits of sources, plan."""
    os.environ.update(environment(inputs))
    status, output = hubpub(["plan", "--json", *settings(inputs), *source(inputs)])
    if status:
        return status
    from hubpub.verbs.ci import cache_keys

    append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in cache_keys(json.loads(output)).items()))
    return 0


def publish(inputs: Inputs) -> int:
    """Publish; outputs and summary are handed on also when it fails."""
    report = Path(tempfile.mkdtemp(prefix="hubpub-report-", dir=os.environ.get("RUNNER_TEMP")))
    words = ["publish", "--quiet", "--report", str(report), *settings(inputs), *delivery(inputs), *source(inputs)]
    os.environ.update(environment(inputs))
    trust(inputs)
    status, _ = hubpub(words, shown=True)
    for name, variable in (("outputs.txt", "GITHUB_OUTPUT"), ("summary.md", "GITHUB_STEP_SUMMARY")):
        if (report / name).is_file():
            append(variable, (report / name).read_text(encoding="utf-8"))
    return status


def settings(inputs: Inputs) -> list[str]:
    """The flags that plan and publish share."""
    words = []
    for flag in ("to", "bits", "verify", "compiler", "config"):
        if value := str(getattr(inputs, flag)):
            words += [f"--{flag}", value]
    for flag, values in (("--attention", inputs.attention), ("--format", inputs.formats)):
        for value in values.split():
            words += [flag, value]
    return words + (["--endpoint", "local"] if inputs.endpoint == "local" else [])


def delivery(inputs: Inputs) -> list[str]:
    """The flags of publish alone."""
    words = ["--create-pr"] if inputs.truth("create_pr") else []
    words += ["--dry-run"] if inputs.truth("dry_run") else []
    words += ["--tag", inputs.tag] if inputs.tag else []
    return words + [word for line in inputs.extra_args.splitlines() if (word := line.strip())]


def source(inputs: Inputs) -> list[str]:
    """The argument, of which no leading dash makes a flag."""
    return ["--", inputs.source] if inputs.source else []


def environment(inputs: Inputs) -> dict[str, str]:
    """What the Hub's client reads: the token, and the Hub's address where it is another."""
    given = {"HF_TOKEN": inputs.token} if inputs.token else {}
    if inputs.endpoint not in ("", "local"):
        given["HF_ENDPOINT"] = inputs.endpoint
    return given


def trust(inputs: Inputs) -> None:
    """Trusted Publishing first: set HF_OIDC_RESOURCE where this job has an identity and the Hub gives a token for it.

    Where the Hub refuses and there is a token, that one is used, and the job says so.
    """
    if inputs.truth("dry_run") or not os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"):
        return
    repo = destination(inputs)
    if repo is None:
        print("::notice::Trusted Publishing needs one destination, named by `to`; the token is used.", flush=True)
        return
    from hubpub.verbs.ci import trust_for

    if (refusal := trust_for(repo)) is not None:
        print(f"::warning::{refusal} The token is used.", flush=True)


def destination(inputs: Inputs) -> str | None:
    """The one repo that is published to, where inputs or config file name it."""
    if inputs.to:
        return inputs.to
    words = ["--config", inputs.config] if inputs.config else []
    status, output = hubpub(["config", "show", "--json", *words, *source(inputs)])
    models = json.loads(output) if status == 0 else []
    return models[0]["to"] if len(models) == 1 else None


def hubpub(words: Sequence[str], *, shown: bool = False) -> tuple[int, str]:
    """Call the program in this process: its exit status, and its stdout unless that is shown."""
    from hubpub.cli.app import app

    output = StringIO()
    try:
        with redirect_stdout(sys.stdout if shown else output):
            app(list(words), prog_name="hubpub")
    except SystemExit as end:
        return (end.code if isinstance(end.code, int) else int(bool(end.code))), output.getvalue()
    return 0, output.getvalue()


def append(variable: str, text: str) -> None:
    """Add to the file that a variable of the CI names; nothing where it names none."""
    if path := os.environ.get(variable):
        with Path(path).open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return str(value).strip()
    raise ConfigError(f"An input is {value!r}.", hint="Inputs are texts.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
