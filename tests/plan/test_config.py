"""Files and flags become one config; what is not known is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubpub.errors import ConfigError, UnknownKey, UnknownVariant
from hubpub.plan.config import effective, read_file


def _file(folder: Path, text: str, name: str = "hubpub.toml") -> tuple[dict[str, object], ...]:
    (folder / name).write_text(text, encoding="utf-8")
    return read_file(None, folder)


def test_models_inherit_and_flags_win(tmp_path: Path) -> None:
    models = _file(
        tmp_path,
        'bits = 8\nattention = ["original"]\n[[models]]\nsource = "a/b"\n[[models]]\nsource = "c/d"\nbits = 4\n',
    )
    first, second = (effective(model, {"formats": ["zip", "zip"]}) for model in models)
    assert (first.bits, second.bits) == (8, 4)
    assert first.attention == second.attention == ("original",)
    assert first.formats == ("zip",)
    assert effective(models[1], {"bits": 2}).bits == 2


def test_pyproject_is_read_too(tmp_path: Path) -> None:
    models = _file(tmp_path, '[tool.hubpub]\nbits = 4\n[[tool.hubpub.models]]\nsource = "a/b"\n', "pyproject.toml")
    assert effective(models[0], {}).bits == 4


def test_no_file_is_no_model(tmp_path: Path) -> None:
    assert read_file(None, tmp_path) == ()
    with pytest.raises(ConfigError, match="No source"):
        effective({}, {})


@pytest.mark.parametrize("text", ["bitz = 6", '[[models]]\nsource = "a/b"\nbitz = 6'])
def test_unknown_keys_name_the_nearest(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnknownKey) as caught:
        effective(_file(tmp_path, text)[0], {})
    assert "Did you mean bits?" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"bits": 5},
        {"attention": ["orginal"]},
        {"formats": ["zips"]},
        {"deployment_target": "tvOS17"},
        {"verify": "maybe"},
    ],
)
def test_unknown_values_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(UnknownVariant):
        effective({"source": "a/b"}, given)


def test_half_a_size_is_refused() -> None:
    config = effective({"source": "a/b"}, {"latent_height": 64})
    with pytest.raises(ConfigError, match="Only one"):
        _ = config.latent


def test_what_is_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        _file(tmp_path, "bits = = 6")
    with pytest.raises(ConfigError, match="no config file"):
        read_file(tmp_path / "other.toml", tmp_path)
