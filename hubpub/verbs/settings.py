"""What a command works on: flags over a config file. Paths in the file of a clone must stay inside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hubpub.errors import ConfigError
from hubpub.plan.config import Config, Fetch, effective, read_defaults, read_file


def models(source: str | None, config: Path | None, flags: Mapping[str, Any]) -> list[Config]:
    """The source that was named, with flags applied; else the models of the config file."""
    tables = read_file(config, Path.cwd())
    for table in tables:
        if "template" not in flags and isinstance(table.get("template"), str):
            _check_inside("template", table["template"])
    if source is None:
        if len(tables) > 1 and "to" in flags:
            raise ConfigError(
                "--to names one repo, and the config file lists several models.", hint="Name the source as well."
            )
        return [effective(table, flags) for table in tables or ({},)]
    same = [table for table in tables if Path(str(table.get("source"))) == Path(source)]
    if "to" in flags and len(same) > 1:  # one source at several widths
        same = [table for table in same if table.get("to") == flags["to"]]
        if not same:
            raise ConfigError(
                f"The config file lists {source} several times, and none goes to {flags['to']}.",
                hint="Write that destination there as well, with what is to be made for it.",
            )
    return [effective(table, {**flags, "source": source}) for table in same or ({},)]


def model(source: str | None, config: Path | None, flags: Mapping[str, Any]) -> Config:
    """The one model that a command works on."""
    listed = models(source, config, flags)
    if len(listed) > 1:
        raise ConfigError("The config file lists several models.", hint="Name the source of one of them, or its --to.")
    return listed[0]


def refuse(flags: Mapping[str, Any], *, but: Collection[str], why: str) -> None:
    """Raise ConfigError for flags that a converted folder does not depend on: they would be ignored."""
    ignored = [f"--{key.replace('_', '-')}" for key in flags if key not in but]
    if ignored:
        raise ConfigError(
            f"A folder that was converted {why}: {', '.join(ignored)} would mean nothing.",
            hint="Leave it out, or name the source.",
        )


def limits(config: Path | None, *, jobs: int | None, memory: float | None) -> dict[str, int | None]:
    """`jobs` and `memory` (GB) as a Session takes them (bytes): from the flags, else from the config file."""
    defaults = read_defaults(config, Path.cwd())
    memory = memory if memory is not None else defaults.memory
    return {
        "jobs": jobs if jobs is not None else defaults.jobs,
        "memory": int(memory * 1e9) if memory is not None else None,
    }


def fetching(config: Path | None, flags: Mapping[str, Any]) -> Fetch:
    """What to fetch: from the flags, else from the config file."""
    defaults = read_defaults(config, Path.cwd()).fetch
    if "dest" not in flags and defaults.dest is not None:
        _check_inside("fetch.dest", defaults.dest)
    return defaults.model_copy(update=dict(flags))


def configured(model: str | None = None, config: Path | None = None) -> str:
    """The destination that the config file names; `model` is the source or destination of one of several."""
    tables = [table for table in read_file(config, Path.cwd()) if table.get("to")]
    if model is not None:
        tables = [table for table in tables if model in (table.get("source"), table["to"])]
    if len(tables) == 1:
        return str(tables[0]["to"])
    if not tables:
        raise ConfigError(
            "No repo was named.", hint="Name one, or write hubpub.toml with `to` under [[models]] (see --model)."
        )
    names = ", ".join(str(table["to"]) for table in tables)
    raise ConfigError(f"The config file names several repos: {names}.", hint="Choose one with --model.")


def _check_inside(key: str, place: str) -> None:
    """The file of a folder that somebody cloned neither writes elsewhere, nor publishes a file from elsewhere."""
    here = Path.cwd().resolve()
    if Path(place).anchor or ".." in Path(place).parts or not (here / place).resolve().is_relative_to(here):
        flag = key.rpartition(".")[2]
        raise ConfigError(f"{key} = {place!r} is not inside this folder.", hint=f"Name such a place with --{flag}.")
