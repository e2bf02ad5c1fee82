"""Config: hubpub.toml and flags become one frozen value; what is not known is refused.

A file holds settings, and under `[[models]]` what to publish; a model's own settings win
over the file's, flags win over both. `[tool.hubpub]` of a pyproject.toml is read alike.

Tokens and endpoints never come from a config file: a cloned folder must not be able to send
your token elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from hubpub.errors import ConfigError, UnknownKey, UnknownVariant
from hubpub.plan.settings import Delivering, Fetching, Making, Naming, Running

FILE = "hubpub.toml"
_Kind = TypeVar("_Kind", bound=BaseModel)


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Delivery(_Checked, Delivering):
    """How a release is delivered."""


class Settings(_Checked, Delivering, Making):
    """What can be chosen, for all models of a file or for one."""


class Model(_Checked, Naming, Delivering, Making):
    """One source and its destination."""


class Config(Model):
    """Everything that decides what is made: one model of a file, with flags applied."""

    @property
    def latent(self) -> tuple[int, int] | None:
        """(height, width) in latent pixels, or None for the UNet's own."""
        if self.latent_height is None and self.latent_width is None:
            return None
        if self.latent_height is None or self.latent_width is None:
            raise ConfigError("Only one of latent height and width is given.", hint="Give both, or neither.")
        return self.latent_height, self.latent_width

    @property
    def batch(self) -> int:
        """Rows of the UNet's inputs."""
        return 1 if self.batch_one else 2

    @property
    def delivery(self) -> Delivery:
        """How it is delivered."""
        return Delivery.model_validate({name: getattr(self, name) for name in Delivery.model_fields})

    @model_serializer(mode="wrap")
    def _without_delivery(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The settings that decide what is made, as a plan shows them."""
        return {name: value for name, value in handler(self).items() if name not in Delivery.model_fields}


class Fetch(_Checked, Fetching):
    """What `hubpub fetch` downloads unless its flags say otherwise."""


class File(_Checked, Running, Delivering, Making):
    """A hubpub.toml: settings for all models, the models, and how this project runs and fetches."""

    models: tuple[Mapping[str, Any], ...] = Field((), description="What to publish, each with settings of its own.")
    fetch: Fetch = Field(Fetch.model_validate({}), description="What `hubpub fetch` brings.")


# Keys of a file that a model does not have.
_FILE_ONLY = frozenset(File.model_fields) - frozenset(Settings.model_fields)


def schema() -> dict[str, Any]:
    """The JSON Schema of a hubpub.toml, for editors."""
    made, model = File.model_json_schema(), Model.model_json_schema()
    definitions = {**made.pop("$defs", {}), **model.pop("$defs", {}), "Model": model}
    made["properties"]["models"]["items"] = {"$ref": "#/$defs/Model"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": FILE,
        "$defs": dict(sorted(definitions.items())),
    }


def read_defaults(path: Path | None, folder: Path) -> File:
    """What a config file says for all of its models, for running and for fetching; defaults where there is no file."""
    table = _table(path, folder) or {}
    return _validate(File, {key: value for key, value in table.items() if key != "models"})


def read_file(path: Path | None, folder: Path) -> tuple[dict[str, Any], ...]:
    """The models of a config file, each as settings not yet checked; one empty mapping where there is no file.

    Without `path`, hubpub.toml and then [tool.hubpub] of pyproject.toml are looked for in `folder`.
    """
    table = _table(path, folder)
    if table is None:
        return ()
    models = table.get("models", [])
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        raise ConfigError(f"`models` in {FILE} is not a list of tables.", hint="Write [[models]] before each model.")
    _validate(File, {key: value for key, value in table.items() if key != "models"})
    shared = {key: value for key, value in table.items() if key not in _FILE_ONLY}
    return tuple({**shared, **model} for model in models) or (shared,)


def effective(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> Config:
    """One model's settings with flags applied (those that are not None)."""
    given = {key: value for key, value in flags.items() if value is not None}
    merged = {**settings, **given}
    if "source" not in merged:
        raise ConfigError(
            "No source was named.", hint=f"Name a folder or a repo id, or write a {FILE} with [[models]] in it."
        )
    for key in ("attention", "formats"):
        if key in merged:
            merged[key] = tuple(dict.fromkeys(merged[key]))
    return _validate(Config, merged)


def _table(path: Path | None, folder: Path) -> dict[str, Any] | None:
    if path is not None and not path.is_file():
        raise ConfigError(f"There is no config file {path}.", hint="`hubpub init` writes one.")
    for candidate in [path] if path else [folder / FILE, folder / "pyproject.toml"]:
        if not candidate.is_file():
            continue
        try:
            data = tomllib.loads(candidate.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{candidate} is not TOML: {error}.") from error
        if candidate.name == "pyproject.toml":
            data = data.get("tool", {}).get("hubpub")
            if data is None:
                continue
        return data
    return None


def _validate(kind: type[_Kind], values: Mapping[str, Any]) -> _Kind:
    """pydantic's error as a ConfigError."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
        given = first.get("input")
        if first["type"] == "extra_forbidden":
            raise UnknownKey(
                f"{place!r} is no key of {FILE}.", hint=_nearest(place.rpartition(".")[2], _keys(kind, first["loc"]))
            ) from None
        if first["type"] == "literal_error":
            allowed = [word.strip(" '") for word in str(first["ctx"]["expected"]).replace(" or ", ", ").split(",")]
            raise UnknownVariant(
                f"{given!r} is no known value of {place}.", hint=_nearest(str(given), allowed)
            ) from None
        raise ConfigError(f"{place} = {given!r} cannot be used: {first['msg'].lower()}.") from None


def _keys(kind: type[BaseModel], place: Sequence[int | str]) -> tuple[str, ...]:
    """The keys of the table that a place of a file lies in."""
    return tuple((Fetch if kind is File and len(place) > 1 and place[0] == "fetch" else kind).model_fields)


def _nearest(word: str, allowed: Sequence[str]) -> str:
    near = get_close_matches(word, allowed, n=1)
    guess = f"Did you mean {near[0]}? " if near else ""
    return f"{guess}Known: {', '.join(allowed)}."
