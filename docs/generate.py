"""Writes the pages that follow from the code: errors.md, cli.md, configuration.md, and the JSON Schemas.

`make docs` writes them; tests/docs/test_docs.py fails where one is not what this would write.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main

from hubpub import errors
from hubpub.cli.app import app
from hubpub.plan.config import FILE, Config, Fetch, File, schema
from hubpub.remote.app_config import AppConfig

HERE = Path(__file__).resolve().parent
_NOTE = "<!-- Written by docs/generate.py from {origin}; edit that. -->\n"
_WIDTH = 100


def pages() -> dict[str, str]:
    """File name → text of every generated page."""
    return {
        "cli.md": cli_page(),
        "configuration.md": configuration_page(),
        "errors.md": errors_page(),
        "hubpub.schema.json": json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
        "app-config.schema.json": json.dumps(app_config_schema(), indent=1, ensure_ascii=False) + "\n",
    }


def app_config_schema() -> dict[str, Any]:
    """The JSON Schema of what `hubpub fetch --app-config` writes."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **AppConfig.model_json_schema()}


# -- errors ----------------------------------------------------------------------------------------------------


def errors_page() -> str:
    """Every class of hubpub.errors: its exit status, and what it means."""
    lines = [
        "# Errors",
        "",
        _NOTE.format(origin="hubpub/errors.py"),
        "An error is one sentence on stderr, and a hint that says what to do next. The exit status says what kind",
        "it is; `--debug` shows the traceback. From Python they are exceptions of `hubpub.errors`, with `message` and",
        "`hint`. The exit status of success is 0, of Ctrl-C 130, of wrong options 2;",
        "`--dry-run --exit-code` answers 11 where something would change.",
        "",
        "| exit status | error | meaning |",
        "|---:|---|---|",
    ]
    classes = list(_tree(errors.HubpubError))
    for depth, kind in classes:
        lines.append(f"| {kind.exit_status} | {'· ' * depth}[`{kind.__name__}`](#{_anchor(kind)}) | {_meaning(kind)} |")
    for _, kind in classes:
        lines += ["", f"## {kind.__name__}", "", f"Exit status {kind.exit_status}. {_whole(kind)}"]
        fields = _fields(kind)
        if fields:
            lines += ["", f"From Python it also has {', '.join(f'`{name}`' for name in fields)}."]
        narrower = [f"[`{one.__name__}`](#{_anchor(one)})" for one in kind.__subclasses__()]
        if narrower:
            lines += ["", f"Narrower: {', '.join(narrower)}."]
    return "\n".join(lines) + "\n"


def _tree(kind: type[errors.HubpubError], depth: int = 0) -> Iterator[tuple[int, type[errors.HubpubError]]]:
    yield depth, kind
    for narrower in kind.__subclasses__():
        if narrower.__module__ == errors.__name__ and narrower.__base__ is kind:  # once, by its exit status
            yield from _tree(narrower, depth + 1)


def _anchor(kind: type) -> str:
    return kind.__name__.lower()


def _whole(kind: type) -> str:
    return " ".join((inspect.getdoc(kind) or "").split())


def _meaning(kind: type) -> str:
    return _whole(kind).partition(". ")[0].rstrip(".").replace("|", "\\|")


def _fields(kind: type[errors.HubpubError]) -> list[str]:
    """What an instance holds besides message and hint."""
    return [name for name in vars(kind("")) if name not in ("message", "hint")]


# -- commands --------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """--help of every command."""
    lines = [
        "# Commands",
        "",
        _NOTE.format(origin="the commands' own help"),
        "Data goes to stdout, talk and progress to stderr; `--json` prints JSON and nothing else. Shell completion:",
        "`hubpub --install-completion`. Flags that say what to make and how to deliver it have keys in hubpub.toml,",
        "see [configuration.md](configuration.md); exit statuses are in [errors.md](errors.md).",
    ]
    for name, text in helps().items():
        lines += ["", f"## {name}", "", "```text", text, "```"]
    return "\n".join(lines) + "\n"


def helps() -> dict[str, str]:
    """Full name of every command → what its --help prints, at a fixed width."""
    return dict(_helps(typer.main.get_command(app), "hubpub", None))


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=_WIDTH, **command.context_settings
    )
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield name, text
    for word, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, f"{name} {word}", context)


# -- configuration ---------------------------------------------------------------------------------------------

_EXAMPLE = """\
bits = 6
license = "creativeml-openrail-m"

[[models]]
source = "prompthero/openjourney-v4"
to = "me/coreml-openjourney-v4-palettized"

[[models]]
source = "./my-model"
name = "me/my-model"
to = "me/coreml-my-model-8bit"
bits = 8
tag = "v2"

[fetch]
variant = "split_einsum_v2/compiled"
dest = "Resources"
"""

# Flags without a key: what one run is about, what it shows, and what no file may say.
ONE_RUN: Mapping[str, str] = {
    "dry-run": "of one run",
    "exit-code": "of one run",
    "report": "of one run",
    "out": "of one run",
    "force": "of one run",
    "app-config": "of one run",
    "model": "chooses among the models of the file",
    "config": "chooses the file",
    "json": "how it is shown",
    "quiet": "how it is shown",
    "debug": "how it is shown",
    "token": "a secret is no part of a file",
    "endpoint": "the token goes there, so no file of a folder that somebody cloned may choose it; set HF_ENDPOINT",
}


def configuration_page() -> str:
    """Every key of hubpub.toml."""
    flags = key_flags()
    told: dict[str, Any] = schema()
    model = told["$defs"]["Model"]
    lines = [
        "# hubpub.toml",
        "",
        _NOTE.format(origin="hubpub/plan/config.py"),
        f"`hubpub init` writes a `{FILE}`; `[tool.hubpub]` of a pyproject.toml is read alike. Settings at the top hold",
        "for every model, a model's own settings win over them, and flags win over both. `hubpub config show` prints",
        "what all of it comes to; `hubpub config schema` prints the [JSON Schema](hubpub.schema.json) for editors. A",
        "key that means nothing is an error that names the nearest one that does.",
        "",
        "```toml",
        _EXAMPLE + "```",
        "",
        "With several models, `hubpub publish` publishes each in turn and ends with a table. One that fails does not",
        "stop the others; the exit status is that of the first that failed. `hubpub fetch --model SOURCE` chooses one.",
        "",
        "## Of a model, under `[[models]]`",
        "",
        *_table({name: model["properties"][name] for name in ("source", "to", "name", "revision")}, flags),
        "",
        "## Settings, of all models or of one",
        "",
        *_table({name: told["properties"][name] for name in told["properties"] if name in Config.model_fields}, flags),
        "",
        "## Of this project",
        "",
        *_table({name: told["properties"][name] for name in File.model_fields if name in ("jobs", "memory")}, flags),
        "",
        "## Fetching, under `[fetch]`",
        "",
        *_table({name: told["$defs"]["Fetch"]["properties"][name] for name in Fetch.model_fields}, flags),
        "",
        "## Flags without a key",
        "",
        *(f"- `--{name}`: {reason}." for name, reason in ONE_RUN.items()),
    ]
    return "\n".join(lines) + "\n"


def key_flags() -> dict[str, str]:
    """Key of hubpub.toml → the flags of `publish` and `fetch` that say the same."""
    command: Any = typer.main.get_command(app)
    found = {}
    for name in ("fetch", "publish"):
        for parameter in command.commands[name].params:
            flags = " / ".join([*parameter.opts, *parameter.secondary_opts])
            found[{"archive": "zip"}.get(parameter.name, parameter.name)] = (
                flags if flags.startswith("-") else f"{parameter.name.upper()} (argument)"
            )
    return found


def _table(properties: Mapping[str, Any], flags: Mapping[str, str]) -> list[str]:
    lines = ["| key | values | default | flag | meaning |", "|---|---|---|---|---|"]
    for name, told in properties.items():
        default = json.dumps(told["default"], ensure_ascii=False) if told.get("default") is not None else ""
        meaning = told["description"].replace("<", "&lt;")
        cells = (f"`{name}`", _type(told), f"`{default}`" if default else "", f"`{flags[name]}`", meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _type(told: Mapping[str, Any]) -> str:
    """A key's values in words."""
    if "anyOf" in told:
        return " or ".join(_type(one) for one in told["anyOf"] if one.get("type") != "null")
    if "enum" in told:
        return ", ".join(f"`{json.dumps(value)}`" for value in told["enum"])
    match told.get("type"):
        case "array":
            return f"list of {_type(told['items'])}"
        case "object":
            return f"table of {_type(told['additionalProperties'])}s"
        case "string":
            return "text"
        case "boolean":
            return "`true`, `false`"
        case kind:
            return str(kind)


def flags_in_help() -> set[str]:
    """Every flag of `publish`, `convert`, `plan` and `fetch`, by its long name."""
    texts = helps()
    found: set[str] = set()
    for name in ("publish", "convert", "plan", "fetch"):
        found |= set(re.findall(r"^  (?:-\w, )?--([a-z][\w-]*)", texts[f"hubpub {name}"], re.MULTILINE))
    return found - {"help"}


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        (HERE / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
