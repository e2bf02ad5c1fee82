"""config: what a hubpub.toml comes to, with defaults and flags; as TOML that hubpub reads again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from hubpub.plan.config import FILE, Config, File, read_defaults
from hubpub.verbs import settings as of_command


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The models that a config file comes to, and what it says for running and fetching."""

    models: tuple[Config, ...]
    defaults: File

    def to_json(self) -> list[dict[str, Any]]:
        """One object per model."""
        return [settings(model) for model in self.models]

    def to_toml(self) -> str:
        """A hubpub.toml that says all of it."""
        return as_toml(self.models, self.defaults)


def show(source: str | None, config: Path | None) -> Shown:
    """What a config file comes to, defaults included; `source` chooses one of its models."""
    models = of_command.models(source, config, {})
    return Shown(models=tuple(models), defaults=read_defaults(config, Path.cwd()))


def settings(config: Config) -> dict[str, Any]:
    """Every key of one model with its value, as plain JSON values; None where a key has none."""
    shown = {name: _plain(getattr(config, name)) for name in type(config).model_fields}
    first = ("source", "to", "name", "revision")
    return {**{name: shown[name] for name in first}, **shown}


def as_toml(configs: Sequence[Config], defaults: File) -> str:
    """A hubpub.toml that says all of it; keys without a value stand in comments."""
    lines = [f"# What hubpub works with: {FILE} with its defaults."]
    lines += _keys({"jobs": defaults.jobs, "memory": defaults.memory})
    lines += ["", "[fetch]", *_keys(_values(defaults.fetch))]
    for config in configs:
        lines += ["", "[[models]]", *_keys(settings(config))]
    return "\n".join(lines) + "\n"


def _values(model: BaseModel) -> dict[str, Any]:
    return {name: _plain(getattr(model, name)) for name in type(model).model_fields}


def _keys(values: Mapping[str, Any]) -> list[str]:
    return [f"# {name} =" if value is None else f"{name} = {_toml(value)}" for name, value in values.items()]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _toml(value: Any) -> str:
    """A TOML value. JSON's strings, numbers and booleans are TOML's, but for the delete character."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
