"""Pages that follow from the code are current; every command has an example; every flag has a key or a reason."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from hubpub import errors
from hubpub.cli.app import app
from hubpub.plan.config import Config, Fetch, File, effective, read_file, schema

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generator()
HELPS: dict[str, str] = GENERATE.helps()
LEAVES = [name for name, text in HELPS.items() if "\nCommands:" not in text]


PAGES = ("cli.md", "configuration.md", "errors.md", "hubpub.schema.json", "app-config.schema.json")


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_current(page: str) -> None:
    now = GENERATE.pages()[page]
    assert (DOCS / page).read_text(encoding="utf-8") == now, "run `make docs`"


def test_the_generator_writes_all_of_its_pages() -> None:
    assert set(GENERATE.pages()) == set(PAGES)


# -- errors ----------------------------------------------------------------------------------------------------


def _classes() -> list[type[errors.HubpubError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HubpubError)]


def test_every_error_has_a_section_and_a_meaning() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    for kind in _classes():
        assert f"\n## {kind.__name__}\n\nExit status {kind.exit_status}. " in text
        assert kind.__doc__
        assert text.count(f"](#{kind.__name__.lower()})") >= 1


def test_the_drawing_in_errors_py_is_the_tree() -> None:
    drawing = errors.__doc__ or ""
    drawn = re.findall(r"^(?P<indent>[│├└─ ]*)(?P<name>\w+)(?: +(?P<status>\d+))?$", drawing, re.MULTILINE)
    found, stack = [], list[str]()
    for indent, name, status in drawn:
        depth = len(indent) // 3
        stack = [*stack[:depth], name]
        found.append((name, stack[-2] if depth else None, int(status) if status else None))
    for name, parent, status in found:
        kind = getattr(errors, name)
        assert parent is None or kind.__base__.__name__ == parent
        assert status is None or kind.exit_status == status
    assert {name for name, _, _ in found} == {kind.__name__ for kind in _classes()}


# -- commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_one_example_that_it_understands(name: str) -> None:
    """The example is parsed by the command itself: options that do not exist, or values that do not fit, fail."""
    command: Any = typer.main.get_command(app)
    for word in name.split()[1:]:
        command = command.commands[word]
    examples = re.findall(r"^Example: (hubpub .*)$", command.help, re.MULTILINE)
    assert len(examples) == 1, command.help
    assert "Example: hubpub" in " ".join(HELPS[name].split())
    words = shlex.split(examples[0].partition(" > ")[0])
    assert " ".join(words).startswith(name)
    context = command.make_context(name, words[len(name.split()) :])
    assert context.params


@pytest.mark.parametrize("name", HELPS)
def test_help_says_something_of_every_option(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in name.split()[1:]:
        command = command.commands[word]
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"
    assert command.help


def test_the_first_line_of_help_is_what_the_program_prints() -> None:
    printed = CliRunner().invoke(app, ["publish", "--help"], terminal_width=100, prog_name="hubpub").stdout
    assert [line.split() for line in printed.splitlines() if line] == [
        line.split() for line in HELPS["hubpub publish"].splitlines() if line
    ]


def test_completion_for_bash_is_printed_and_completes() -> None:
    program = str(Path(sys.executable).parent / "hubpub")
    script = subprocess.run(
        [program, "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": str(Path(sys.executable).parent), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    ).stdout
    assert "complete -o default -F _hubpub_completion hubpub" in script
    asked = {"_HUBPUB_COMPLETE": "complete_bash", "COMP_WORDS": "hubpub pub", "COMP_CWORD": "1"}
    told = subprocess.run([program], capture_output=True, text=True, check=False, env=asked)
    assert told.stdout.split() == ["publish"]


# -- configuration ---------------------------------------------------------------------------------------------


def test_every_flag_has_a_key_or_a_reason() -> None:
    """Of the commands that hubpub.toml speaks to."""
    keys = {*Config.model_fields, *File.model_fields, *Fetch.model_fields}
    named = {"format": "formats", "prompt": "prompts"}
    for flag in GENERATE.flags_in_help() - set(GENERATE.ONE_RUN):
        assert named.get(flag, flag.replace("-", "_")) in keys, f"--{flag} has no key in hubpub.toml"
    assert set(GENERATE.ONE_RUN) <= GENERATE.flags_in_help()


def test_every_key_has_a_flag() -> None:
    flags = GENERATE.key_flags()
    for key in {*Config.model_fields, *Fetch.model_fields, "jobs", "memory"}:
        assert key in flags


def test_the_example_of_the_page_is_a_config(tmp_path: Path) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "hubpub.toml").write_text(example[1], encoding="utf-8")
    models = _read(tmp_path)
    assert [(model.bits, model.tag) for model in models] == [(6, None), (8, "v2")]


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize(
    "text",
    [
        "",
        'bits = 8\n[[models]]\nsource = "a/b"\nto = "me/x"\ntag = "v1"\n',
        'jobs = 2\nmemory = 4.5\n[fetch]\nvariant = "original/zip"\nzip = true\n',
        '[[models]]\nsource = "a/b"\nfloor = { unet = 30.5 }\nlatent_height = 96\nlatent_width = 64\n',
    ],
)
def test_the_schema_admits_what_hubpub_reads(text: str, validator: Any, tmp_path: Path) -> None:
    (tmp_path / "hubpub.toml").write_text(text, encoding="utf-8")
    assert list(validator.iter_errors(tomllib.loads(text))) == []
    if "[[models]]" in text:
        assert _read(tmp_path)
    else:
        read_file(None, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "bitz = 8",
        "bits = 5",
        'source = "a/b"',
        "jobs = 0",
        '[[models]]\nto = "me/x"',
        '[[models]]\nsource = "a/b"\njobs = 2',
        '[[models]]\nsource = "a/b"\nattention = ["orginal"]',
        '[fetch]\nvarient = "original/zip"',
        '[fetch]\nendpoint = "https://hub.example"',
        'endpoint = "https://hub.example"',
        'token = "hf_secret"',
    ],
)
def test_the_schema_refuses_what_hubpub_refuses(text: str, validator: Any, tmp_path: Path) -> None:
    (tmp_path / "hubpub.toml").write_text(text, encoding="utf-8")
    with pytest.raises(errors.ConfigError):
        _read(tmp_path)
    assert list(validator.iter_errors(tomllib.loads(text)))


def _read(folder: Path) -> list[Config]:
    return [effective(model, {}) for model in read_file(None, folder)]


def test_config_schema_prints_the_file_of_the_docs() -> None:
    printed = CliRunner().invoke(app, ["config", "schema"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout) == json.loads((DOCS / "hubpub.schema.json").read_text(encoding="utf-8"))


def test_config_show_prints_a_config_that_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second round changes nothing: every value and every default is in it."""
    monkeypatch.chdir(tmp_path)
    source = 'odd "name" \\ é'
    (tmp_path / source).mkdir()
    text = f'bits = 4\nmemory = 2.5\n[fetch]\ndest = "here"\n[[models]]\nsource = {json.dumps(source)}\n'
    text += 'floor = { unet = 30.0, vae_decoder = 40.0 }\n[[models]]\nsource = "c/d"\nto = "me/d"\nbits = 16\n'
    (tmp_path / "hubpub.toml").write_text(text, encoding="utf-8")
    runner = CliRunner()
    shown = runner.invoke(app, ["config", "show"])
    assert shown.exit_code == 0, shown.output
    told = json.loads(runner.invoke(app, ["config", "show", "--json"]).stdout)
    assert [(model["source"], model["bits"]) for model in told] == [(source, 4), ("c/d", 16)]
    assert told[0]["floor"] == {"unet": 30.0, "vae_decoder": 40.0}
    assert told[0]["formats"] == ["packages", "compiled", "zip"]
    assert "memory = 2.5" in shown.stdout
    assert 'dest = "here"' in shown.stdout
    (tmp_path / "hubpub.toml").write_text(shown.stdout, encoding="utf-8")
    again = runner.invoke(app, ["config", "show"])
    assert again.stdout == shown.stdout
    assert json.loads(runner.invoke(app, ["config", "show", "--json"]).stdout) == told
    one = json.loads(runner.invoke(app, ["config", "show", "c/d", "--json"]).stdout)
    assert one == told[1:]


def test_config_show_without_a_file_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["config", "show"])
    assert shown.exit_code == 2
    assert "No source was named" in shown.stderr


def test_a_file_of_a_cloned_folder_writes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("/etc/hubpub", "../outside", "a/../../b"):
        (tmp_path / "hubpub.toml").write_text(f'[fetch]\ndest = "{place}"\n', encoding="utf-8")
        refused = CliRunner().invoke(app, ["fetch", "me/x", "--endpoint", "http://127.0.0.1:9"])
        assert refused.exit_code == 2
        assert "is not inside this folder" in refused.stderr
