"""Config: hubpub.toml and flags become one frozen value; what is not known is refused.

A file holds settings, and under `[[models]]` what to publish; a model's own settings win
over the file's, flags win over both. `[tool.hubpub]` of a pyproject.toml is read alike.

Where a token comes from and which Hub it is sent to is no matter of a file: a folder
that somebody cloned must not send a token elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubpub.errors import ConfigError, UnknownKey, UnknownVariant

FILE = "hubpub.toml"
_Kind = TypeVar("_Kind", bound=BaseModel)

Attention = Literal["original", "split_einsum", "split_einsum_v2"]
Delivery = Literal["packages", "compiled", "zip"]
Bits = Literal[16, 8, 6, 4, 2, 1]
Target = Literal["macOS13", "iOS16", "macOS14", "iOS17", "macOS15", "iOS18"]


class Settings(BaseModel):
    """What can be chosen, for all models of a file or for one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attention: tuple[Attention, ...] = Field(
        ("original", "split_einsum_v2"), min_length=1, description="Attention implementations, one variant each."
    )
    bits: Bits = Field(6, description="Bits per weight of UNet and text encoder; 16 is uncompressed.")
    formats: tuple[Delivery, ...] = Field(
        ("packages", "compiled", "zip"), min_length=1, description="Formats that are published."
    )
    verify: Literal["numeric", "full", "weights", "off"] | None = Field(
        None,
        description="Check before archives are made: numeric runs every component at a small latent against the "
        "source, full at the published size, weights reads every weight back. By default numeric where torch, "
        "diffusers and transformers are installed, else weights.",
    )
    floor: Mapping[str, float] = Field(
        default_factory=dict, description="Lowest accepted PSNR in dB by component, for verify = numeric or full."
    )
    latent_height: int | None = Field(
        None, gt=0, description="Latent height (image height / 8 for SD); by default the UNet's sample_size."
    )
    latent_width: int | None = Field(None, gt=0, description="Latent width; by default the UNet's sample_size.")
    batch_one: bool = Field(False, description="UNet for batch 1 instead of 2 (guidance).")
    deployment_target: Target = Field("macOS13", description="Oldest system that loads the models.")
    safety_checker: bool = Field(True, description="Convert the safety checker where the source has one.")
    license: str | None = Field(None, description="Licence id for the card, where the source names none.")
    template: str | None = Field(None, description="Card template of one's own (Jinja2).")
    prompts: tuple[str, ...] = Field((), description="Pictures of these prompts are drawn and published with the card.")
    prompt_steps: int = Field(20, gt=0, le=200, description="Scheduler steps of each picture.")
    prompt_guidance: float = Field(7.5, ge=1, description="Guidance scale of each picture.")
    compiler: Literal["auto", "portable", "apple"] = Field("auto", description="Who writes compiled bundles.")
    # How it is delivered: no part of what is made, so no part of a plan (exclude).
    private: bool = Field(False, exclude=True, description="Make a new repo private.")
    create_pr: bool = Field(False, exclude=True, description="Open a pull request instead of committing.")
    branch: str | None = Field(None, exclude=True, description="Commit to this branch; by default main.")
    tag: str | None = Field(None, exclude=True, description="Tag the commit.")
    prune: bool = Field(False, exclude=True, description="Remove variants of ours that the settings do not name.")
    sign: bool = Field(
        False, exclude=True, description="Sign the manifest with sigstore, as whoever runs this; that is public."
    )


class Model(Settings):
    """One source and its destination."""

    source: str = Field(description="Folder, Hub repo id, hf:ORG/NAME or git+URL.")
    to: str | None = Field(None, description="Destination OWNER/NAME; by default <you>/coreml-<name>-palettized.")
    name: str | None = Field(None, description="ORG/NAME that a local source is known by.")
    revision: str | None = Field(None, description="Branch, tag or commit of the source.")


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


class Fetch(BaseModel):
    """What `hubpub fetch` brings, where its flags do not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str = Field("original/packages", description="ATTENTION/FORMAT.")
    revision: str | None = Field(None, description="Branch, tag or commit of the repo; by default main.")
    dest: str | None = Field(None, description="Folder to write into; by default models/<repo>_<variant>.")
    zip: bool = Field(False, description="Download the archive and unpack it.")
    verify_signature: bool = Field(False, description="Refuse what has no valid signature of its manifest.")
    identity: str | None = Field(None, description="Who must have signed: an e-mail address, or a workflow's address.")
    issuer: str | None = Field(None, description="Who must have vouched for the signer: the address of an OIDC issuer.")


class File(Settings):
    """A hubpub.toml: settings for all models, the models, and how this project runs and fetches."""

    models: tuple[Mapping[str, Any], ...] = Field((), description="What to publish, each with settings of its own.")
    jobs: int | None = Field(None, ge=1, description="Steps at once; by default the number of cores, at most 4.")
    memory: float | None = Field(
        None, ge=0.1, description="GB that steps may use together; by default 80 % of what is free."
    )
    fetch: Fetch = Field(Fetch.model_validate({}), description="What `hubpub fetch` brings.")


# Keys of a file that are no settings of a model.
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
    """pydantic's verdict, as one of our sentences."""
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
