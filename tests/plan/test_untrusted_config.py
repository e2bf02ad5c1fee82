"""A hubpub.toml that came with a repository of others takes nothing from the rest of the machine, nor writes there."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hubpub.cli.app import app
from hubpub.errors import ConfigError
from hubpub.verbs.settings import fetching, models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The clone, with a secret beside it and a link to that in it."""
    (tmp_path / "secret").write_text("key")
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "link").symlink_to(tmp_path)
    (clone / "card.md.j2").write_text("x")
    monkeypatch.chdir(clone)
    return clone


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret", "a/../../secret", "link/secret"])
def test_a_card_is_made_of_no_file_from_elsewhere(folder: Path, place: str) -> None:
    for text in (
        f'template = "{place}"\n[[models]]\nsource = "a/b"\n',
        f'[[models]]\nsource = "a/b"\ntemplate = "{place}"\n',
    ):
        (folder / "hubpub.toml").write_text(text)
        with pytest.raises(ConfigError, match="not inside this folder"):
            models(None, None, {})
        assert models(None, None, {"template": place})[0].template == place  # the user's own word
        refused = CliRunner().invoke(app, ["publish", "--dry-run", "--endpoint", "http://127.0.0.1:9"])
        assert refused.exit_code == 2
        assert "--template" in refused.stderr


@pytest.mark.parametrize("place", ["/tmp/x", "../x", "link/x"])
def test_nothing_is_fetched_to_elsewhere(folder: Path, place: str) -> None:
    (folder / "hubpub.toml").write_text(f'[fetch]\ndest = "{place}"\n')
    with pytest.raises(ConfigError, match="not inside this folder"):
        fetching(None, {})
    assert fetching(None, {"dest": place}).dest == place


def test_what_is_inside_is_taken(folder: Path) -> None:
    text = 'template = "card.md.j2"\n[fetch]\ndest = "Resources/models"\n[[models]]\nsource = "a/b"\n'
    (folder / "hubpub.toml").write_text(text)
    assert models(None, None, {})[0].template == "card.md.j2"
    assert fetching(None, {}).dest == "Resources/models"
