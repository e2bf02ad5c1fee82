"""From options to settings and sessions: the one place where flags get the names of hubpub.toml."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.errors import ConfigError

if TYPE_CHECKING:
    from hubpub.plan.config import Config, Fetch
    from hubpub.verbs.session import Session


def flags(**given: Any) -> dict[str, Any]:
    """Options as settings: what was not given is left out."""
    settings = {key: value for key, value in given.items() if value is not None}
    if "floor" in settings:
        settings["floor"] = floors(settings["floor"])
    if "template" in settings:
        settings["template"] = str(settings["template"])
    return settings


def models(source: str | None, config: Path | None, given: Mapping[str, Any]) -> list[Config]:
    """What a command works on: the source that was named, else the models of the config file."""
    from hubpub.plan.config import effective, read_file

    listed = read_file(config, Path.cwd())
    for table in listed:
        if "template" not in given and isinstance(table.get("template"), str):
            _check_inside("template", table["template"])
    if source is None:
        if len(listed) > 1 and "to" in given:
            raise ConfigError(
                "--to names one repo, and the config file lists several models.", hint="Name the source as well."
            )
        return [effective(model, given) for model in listed or ({},)]
    found = [model for model in listed if Path(str(model.get("source"))) == Path(source)]
    if "to" in given and len(found) > 1:  # one source at several widths
        found = [model for model in found if model.get("to") == given["to"]]
        if not found:
            raise ConfigError(
                f"The config file lists {source} several times, and none goes to {given['to']}.",
                hint="Write that destination there as well, with what is to be made for it.",
            )
    return [effective(model, {**given, "source": source}) for model in found or ({},)]


def model(source: str | None, config: Path | None, given: Mapping[str, Any]) -> Config:
    """The one model that a command works on."""
    listed = models(source, config, given)
    if len(listed) > 1:
        raise ConfigError("The config file lists several models.", hint="Name the source of one of them, or its --to.")
    return listed[0]


def refuse(given: Mapping[str, Any], *, but: Collection[str], why: str) -> None:
    """Raise where flags were given that a converted folder does not hear: they would be ignored."""
    ignored = [f"--{key.replace('_', '-')}" for key in given if key not in but]
    if ignored:
        raise ConfigError(
            f"A folder that was converted {why}: {', '.join(ignored)} would mean nothing.",
            hint="Leave it out, or name the source.",
        )


def running(config: Path | None, *, jobs: int | None, memory: float | None) -> dict[str, Any]:
    """How much may run at once: what the flags say, else the config file."""
    from hubpub.plan.config import read_defaults

    defaults = read_defaults(config, Path.cwd())
    return {
        "jobs": jobs if jobs is not None else defaults.jobs,
        "memory": memory if memory is not None else defaults.memory,
    }


def fetching(config: Path | None, *, dest: Path | None, **given: Any) -> Fetch:
    """What to fetch: what the flags say, else the config file."""
    from hubpub.plan.config import read_defaults

    defaults = read_defaults(config, Path.cwd()).fetch
    if dest is None and defaults.dest is not None:
        _check_inside("fetch.dest", defaults.dest)
    flags = {"dest": str(dest) if dest is not None else None, **given}
    return defaults.model_copy(update={key: value for key, value in flags.items() if value is not None})


@contextmanager
def session(
    *,
    endpoint: str | None = None,
    token: str | None = None,
    jobs: int | None = None,
    memory: float | None = None,
    quiet: bool = False,
) -> Iterator[Session]:
    """A session for one command; `--endpoint local` starts the embedded Hub for as long as it lasts."""
    from hubpub.engine.progress import reporter
    from hubpub.verbs.session import Session

    with ExitStack() as stack:
        report = stack.enter_context(reporter(quiet=quiet))
        given: dict[str, Any] = {"endpoint": endpoint, "token": token}
        if endpoint == "local":
            from hubpub.localhub import default_root, running

            hub = stack.enter_context(running(default_root()))
            # Sources still come from the real Hub, with the user's own token; the embedded one has its own.
            given = {"endpoint": hub.endpoint, "token": hub.token, "separate_source": True, "source_token": token}
        memory_bytes = int(memory * 1e9) if memory is not None else None
        session = Session.open(report=report, jobs=jobs, memory=memory_bytes, **given)
        stack.enter_context(session.store.in_use())
        yield session


def floors(texts: Iterable[str]) -> dict[str, float]:
    """COMPONENT=DB, as options give it, as decibels by component."""
    return dict(_floor(text) for text in texts)


def _check_inside(key: str, place: str) -> None:
    """The file of a folder that somebody cloned neither writes elsewhere, nor publishes a file from elsewhere."""
    here = Path.cwd().resolve()
    if Path(place).anchor or ".." in Path(place).parts or not (here / place).resolve().is_relative_to(here):
        flag = key.rpartition(".")[2]
        raise ConfigError(f"{key} = {place!r} is not inside this folder.", hint=f"Name such a place with --{flag}.")


def _floor(text: str) -> tuple[str, float]:
    component, equals, value = text.partition("=")
    try:
        return component, float(value)
    except ValueError:
        raise ConfigError(
            f"--floor {text!r} is not COMPONENT=DB.", hint="For example --floor unet=30." if not equals else ""
        ) from None
