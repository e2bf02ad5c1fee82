"""Several models in one go: each is tried, each is told of, the first failure is the exit status; and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hubpub.cli.app import app
from hubpub.errors import CannotWrite, ConfigError, ParityTooLow, SourceNotFound
from hubpub.plan.config import Config, Delivery
from hubpub.release.release import Operation
from hubpub.remote.destinations import Receipt
from hubpub.verbs import publish as verb
from hubpub.verbs import settings
from hubpub.verbs.batch import Attempt, Work, attempts
from hubpub.verbs.ci_summary import markdown, outputs, write
from hubpub.verbs.publish import Published

_MANIFEST = {
    "variants": {"original/packages": {"files": 3, "size": 2_000_000}},
    "components": {
        "unet/original": {
            "bits": 6,
            "size": 1_500_000,
            "compiler": "portable",
            "verification": {"kind": "weights", "summary": "226 tensors bit-exact"},
            "steps": {"fill": {"seconds": 1.5, "peak_memory": 10_000_000}},
        }
    },
}


def _published(repo_id: str, *, dry_run: bool = False, todo: tuple[str, ...] = (), **given: Any) -> Published:
    counts = {"new": 1, "changed": 0, "same": 2, "removed": 0, "copied": 0}
    receipt = Receipt(
        repo_id=repo_id, url=f"https://hub.example/{repo_id}", commit="c" * 40, operations=counts, sent_bytes=1234,
        planned_bytes=2345, **given,
    )  # fmt: skip
    operation = Operation(action="new", path="a|b.zip", size=77)
    manifest = None if todo else {"repo_id": repo_id, **_MANIFEST}
    return Published(receipt=receipt, operations=(operation,), dry_run=dry_run, steps_to_do=todo, manifest=manifest)


def _attempt(error: Exception | None = None, **given: Any) -> Attempt:
    def run() -> Published:
        if error is not None:
            raise error
        return _published("me/x", **given)

    (made,) = attempts([Work(source="a/b", repo_id="me/x", publish=run)])
    return made


# -- the loop --------------------------------------------------------------------------------------------------


def test_an_error_of_ours_ends_one_model_only() -> None:
    def fails() -> Published:
        raise SourceNotFound("gone", hint="look")

    work = [
        Work(source="a/b", repo_id=None, publish=lambda: _published("me/first")),
        Work(source="c/d", repo_id="me/second", publish=fails),
        Work(source="e/f", repo_id="me/third", publish=lambda: _published("me/third")),
    ]
    made = list(attempts(work))
    assert [(one.repo_id, one.error is None) for one in made] == [
        ("me/first", True),
        ("me/second", False),
        ("me/third", True),
    ]
    told = made[1].to_json()["error"]
    assert told == {"name": "SourceNotFound", "exit_status": 3, "message": "gone", "hint": "look"}


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ZeroDivisionError()])
def test_anything_else_ends_all(fault: BaseException) -> None:
    def fails() -> Published:
        raise fault

    never = Work(source="c/d", repo_id=None, publish=lambda: pytest.fail("it went on"))
    with pytest.raises(type(fault)):
        list(attempts([Work(source="a/b", repo_id=None, publish=fails), never]))


# -- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`publish` of a config file with three models, the second of which fails, and what each was delivered as."""
    seen: list[tuple[str, Delivery]] = []

    def publish_config(config: Config, *, dry_run: bool, session: Any) -> Published:
        delivery = config.delivery
        seen.append((config.source, delivery))
        if config.source == "c/d":
            raise ParityTooLow("Too far.", hint="Use more bits.")
        return _published(str(config.to), tag=delivery.tag)

    monkeypatch.setattr(verb, "publish_config", publish_config)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubpub.toml").write_text(
        'private = true\n[[models]]\nsource = "a/b"\nto = "me/b"\n[[models]]\nsource = "c/d"\n'
        '[[models]]\nsource = "e/f"\nto = "me/f"\ntag = "v2"\nprivate = false\n',
        encoding="utf-8",
    )

    def run(*words: str) -> Result:
        seen.clear()
        return CliRunner().invoke(app, ["publish", *words])

    run.seen = seen  # type: ignore[attr-defined]
    return run


def test_the_table_names_all_and_the_status_is_the_first_failures(command: Any) -> None:
    done = command()
    assert done.exit_code == 5
    rows = [line.split() for line in done.stdout.splitlines()[-4:]]
    assert rows == [
        ["model", "repo", "result", "sent"],
        ["a/b", "me/b", "published", "1.2", "kB"],
        ["c/d", "failed:", "ParityTooLow"],
        ["e/f", "me/f", "published", "1.2", "kB"],
    ]
    assert "Error: Too far.\nHint: Use more bits." in done.stderr


def test_keys_and_flags_say_how_each_is_delivered(command: Any) -> None:
    command("--no-private", "--create-pr")
    assert [(source, how.private, how.create_pr, how.tag) for source, how in command.seen] == [
        ("a/b", False, True, None),
        ("c/d", False, True, None),
        ("e/f", False, True, "v2"),
    ]
    command("--tag", "v3")
    assert [(how.private, how.tag) for _, how in command.seen] == [(True, "v3"), (True, "v3"), (False, "v3")]


def test_json_is_a_list_of_several_and_an_object_of_one(command: Any) -> None:
    told = json.loads(command("--json").stdout)
    assert [model["source"] for model in told] == ["a/b", "c/d", "e/f"]
    assert told[1]["error"]["name"] == "ParityTooLow"
    one = command("a/b", "--json")
    assert (one.exit_code, json.loads(one.stdout)["repo_id"]) == (0, "me/b")
    failed = command("c/d", "--json")
    assert (failed.exit_code, failed.stdout) == (5, "")


def test_quiet_prints_addresses_only(command: Any) -> None:
    assert command("--quiet").stdout.split() == ["https://hub.example/me/b", "https://hub.example/me/f"]


# -- the summary -----------------------------------------------------------------------------------------------


def test_the_report_of_several(command: Any, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    assert command("--report", str(folder)).exit_code == 5
    assert sorted(path.name for path in folder.iterdir()) == [
        "me--b.hubpub.json",
        "me--f.hubpub.json",
        "outputs.txt",
        "result.json",
        "summary.md",
    ]
    page = (folder / "summary.md").read_text(encoding="utf-8")
    assert "| `c/d` |  | **failed** |" in page
    assert "ParityTooLow (exit status 5): `Too far.`" in page
    keys = [line.partition("=")[0] for line in (folder / "outputs.txt").read_text(encoding="utf-8").splitlines()]
    assert keys == ["summary", "result"]


def test_the_report_of_one(command: Any, tmp_path: Path) -> None:
    assert command("e/f", "--report", str(tmp_path / "report")).exit_code == 0
    lines = (tmp_path / "report" / "outputs.txt").read_text(encoding="utf-8").splitlines()
    told = dict(line.split("=", 1) for line in lines)
    assert told["repo"] == "me/f"
    assert told["tag"] == "v2"
    assert told["bytes-sent"] == "1234"
    assert json.loads(Path(told["manifest"]).read_text(encoding="utf-8"))["repo_id"] == "me/f"


def test_a_report_that_cannot_be_written(command: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    refused = command("a/b", "--report", str(tmp_path / "taken"))
    assert refused.exit_code == CannotWrite.exit_status
    assert "cannot be written" in refused.stderr


def test_the_page_of_a_publish() -> None:
    page = markdown([_attempt(tag="v1")])
    assert "### `a/b` → `me/x`: published" in page
    assert "| `original/packages` | 3 | 2.0 MB |" in page
    assert (
        "| unet/original | 6 | 1.5 MB | reading every weight back | 226 tensors bit-exact | 1.5 s | 10.0 MB |" in page
    )
    assert "| tag | `v1` |" in page
    assert "| sent | 1.2 kB |" in page


def test_the_page_of_a_dry_run_lists_changes_and_steps() -> None:
    page = markdown([_attempt(dry_run=True, todo=("graph of unet",))])
    assert ": dry run" in page
    assert "| to send | about 77 B |" in page
    assert "| new | `a\\|b.zip` | 77 B |" in page
    assert "- `graph of unet`" in page


def test_what_others_wrote_is_no_markup() -> None:
    error = CannotWrite("`@everyone` | <b>look</b>\nat this", hint="![x](http://bad.example/x)")
    page = markdown([_attempt(error)])
    assert "`'@everyone' \\| <b>look</b> at this`" in page
    assert "`![x](http://bad.example/x)`" in page


def test_outputs_are_one_line_each() -> None:
    attempt = _attempt(pull_request="https://hub.example/1\nrepo=evil/evil")
    assert outputs(attempt, None)["pull-request"] == "https://hub.example/1 repo=evil/evil"
    assert outputs(_attempt(CannotWrite("no")), None) == {"repo": "me/x", "error": "CannotWrite"}


def test_a_page_fits_into_a_comment(tmp_path: Path) -> None:
    published = _published("me/x", dry_run=True, todo=())
    many = tuple(Operation(action="new", path=f"original/packages/{n:04}" + "x" * 80, size=n) for n in range(3000))
    attempt = Attempt(
        source="a/b",
        repo_id="me/x",
        published=Published(receipt=published.receipt, operations=many, dry_run=True, manifest=published.manifest),
        seconds=1.0,
    )
    write([attempt], tmp_path)
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert len(page) < 65536
    assert "and 2940 more" in page


# -- which of a file's models ----------------------------------------------------------------------------------

_TWO_WIDTHS = """
[[models]]
source = "./mine"
to = "me/six"
[[models]]
source = "./mine"
to = "me/eight"
bits = 8
[[models]]
source = "a/b"
"""


@pytest.mark.parametrize(
    ("source", "given", "chosen"),
    [
        (None, {}, ["me/six", "me/eight", None]),
        ("./mine", {}, ["me/six", "me/eight"]),
        ("mine", {}, ["me/six", "me/eight"]),
        ("./mine", {"to": "me/eight"}, ["me/eight"]),
        ("a/b", {"to": "me/b"}, ["me/b"]),
        ("c/d", {}, [None]),
    ],
)
def test_a_source_means_all_models_that_are_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, given: dict[str, Any], chosen: list[str | None]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubpub.toml").write_text(_TWO_WIDTHS, encoding="utf-8")
    found = settings.models(source, None, given)
    assert [model.to for model in found] == chosen
    assert all(model.bits == (8 if model.to == "me/eight" else 6) for model in found)
    if len(chosen) > 1:
        with pytest.raises(ConfigError, match="several models"):
            settings.model(source, None, given)


def test_a_destination_that_none_of_them_has_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubpub.toml").write_text(_TWO_WIDTHS, encoding="utf-8")
    with pytest.raises(ConfigError, match="several times, and none goes to me/four"):
        settings.models("./mine", None, {"to": "me/four"})
