"""init: asks little, writes what hubpub reads, overwrites nothing unasked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hubpub.cli.app import app
from hubpub.plan.config import effective, read_defaults, read_file
from hubpub.verbs.init import WORKFLOW, Answers, files


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _init(*words: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["init", *words], input=typed)


def _folder(home: Path, name: str, card: str = "---\nlicense: mit\n---\n") -> None:
    (home / name).mkdir()
    (home / name / "model_index.json").write_text("{}", encoding="utf-8")
    (home / name / "README.md").write_text(card, encoding="utf-8")


def test_yes_asks_nothing_and_what_it_writes_is_read(home: Path) -> None:
    done = _init("prompthero/openjourney-v4", "--to", "me/coreml-openjourney", "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == ["hubpub.toml", WORKFLOW.as_posix()]
    (model,) = (effective(entry, {}) for entry in read_file(None, home))
    assert (model.source, model.to, model.bits) == ("prompthero/openjourney-v4", "me/coreml-openjourney", 6)
    assert model.attention == ("original", "split_einsum_v2")
    assert read_defaults(None, home).fetch.variant == "original/packages"
    assert (home / WORKFLOW).is_file()


def test_without_a_destination_publish_chooses_it(home: Path) -> None:
    assert _init("a/b", "--yes", "--no-workflow").exit_code == 0
    assert effective(read_file(None, home)[0], {}).to is None
    assert not (home / WORKFLOW).exists()


def test_the_one_source_here_is_taken(home: Path) -> None:
    _folder(home, "my-model")
    (home / "other").mkdir()
    assert _init("--yes").exit_code == 0
    assert effective(read_file(None, home)[0], {}).source == "./my-model"


def test_of_two_sources_one_must_be_named(home: Path) -> None:
    _folder(home, "one")
    _folder(home, "two")
    refused = _init("--yes")
    assert refused.exit_code == 2
    assert "No source was named" in refused.stderr
    assert not (home / "hubpub.toml").exists()


def test_it_asks_three_things(home: Path) -> None:
    _folder(home, "my-model")
    done = _init(typed="\nme/coreml-mine\nn\n")
    assert done.exit_code == 0, done.output
    assert done.output.count("]: ") + done.output.count("token: ") == 3
    model = effective(read_file(None, home)[0], {})
    assert (model.source, model.to, model.license) == ("./my-model", "me/coreml-mine", None)
    assert not (home / WORKFLOW).exists()


def test_it_asks_for_a_licence_only_where_the_source_names_none(home: Path) -> None:
    _folder(home, "my-model", card="no front matter")
    done = _init(typed="\n\ncreativeml-openrail-m\ny\n")
    assert done.exit_code == 0, done.output
    model = effective(read_file(None, home)[0], {})
    assert (model.to, model.license) == (None, "creativeml-openrail-m")


@pytest.mark.parametrize("taken", ["hubpub.toml", WORKFLOW.as_posix()])
def test_nothing_is_overwritten_unasked(home: Path, taken: str) -> None:
    path = home / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    refused = _init("a/b", "--yes")
    assert refused.exit_code == 2
    assert f"{taken} is there already; nothing was written." in refused.stderr
    asked = _init("a/b", "--to", "me/b", "--workflow", typed="n\n")
    assert asked.exit_code == 2
    assert path.read_text(encoding="utf-8") == "mine"
    assert {file.name for file in home.rglob("*") if file.is_file()} == {path.name}
    asked = _init("a/b", "--to", "me/b", "--workflow", typed="y\n")
    assert asked.exit_code == 0, asked.output
    assert path.read_text(encoding="utf-8") != "mine"
    path.write_text("mine", encoding="utf-8")
    assert _init("a/b", "--yes", "--force").exit_code == 0
    assert path.read_text(encoding="utf-8") != "mine"


def test_again_with_the_same_answers_is_no_conflict(home: Path) -> None:
    for _ in range(2):
        assert _init("a/b", "--yes").exit_code == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nonsense",), "neither an existing folder nor a repo id"),
        (("a/b", "--to", "nonsense"), "is not a repo id"),
    ],
)
def test_bad_answers_are_refused_before_anything_is_written(home: Path, words: tuple[str, ...], sentence: str) -> None:
    refused = _init(*words, "--yes")
    assert refused.exit_code == 2
    assert sentence in refused.stderr
    assert not list(home.iterdir())


def test_answers_are_quoted_as_toml_asks(home: Path) -> None:
    name = 'my "model" \\ é'
    _folder(home, name)
    assert _init(f"./{name}", "--yes").exit_code == 0
    assert effective(read_file(None, home)[0], {}).source == f"./{name}"


def test_the_owner_is_asked_of_the_hub(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from hubpub.localhub import running

    with running(tmp_path_factory.mktemp("hub")) as hub:
        done = _init("a/b", "--yes", "--endpoint", hub.endpoint, "--token", hub.token)
    assert done.exit_code == 0, done.output
    assert effective(read_file(None, home)[0], {}).to == "me/coreml-b-palettized"


@pytest.mark.skipif(sys.platform == "win32", reason="folders are closed in another way there")
def test_a_folder_that_cannot_be_written_is_an_error_of_ours(home: Path) -> None:
    (home / ".github").write_text("a file", encoding="utf-8")
    refused = _init("a/b", "--yes")
    assert refused.exit_code == 4
    assert "cannot be written" in refused.stderr


def test_a_destination_that_is_not_known_is_shown_as_a_comment() -> None:
    (written,) = files(Answers(source="org/my-model"), workflow=False)
    assert '\n# to = "OWNER/coreml-my-model-palettized"  # by default' in written.text
