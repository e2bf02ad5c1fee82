"""init: hubpub.toml and a workflow for a repo of one's own, from templates; nothing is overwritten unasked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hubpub import __version__
from hubpub.errors import ConfigError, HubpubError, SourceError
from hubpub.files.disk import writing
from hubpub.files.repo_ids import check_repo_id
from hubpub.pages.templates import environment, folder
from hubpub.plan.config import FILE
from hubpub.plan.names import default_destination
from hubpub.sources import source as sources
from hubpub.sources.metadata import MODEL_INDEX, read_facts
from hubpub.verbs.session import Session, using

WORKFLOW = Path(".github", "workflows", "hubpub.yml")
_WIDTH = 6  # bits, the default of hubpub.toml


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers to init: the source, the repo (None: `publish` decides), a licence for a source without one."""

    source: str
    to: str | None = None
    license: str | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that init writes: relative to the folder, with its text."""

    path: Path
    text: str

    def there(self, home: Path) -> bool:
        """True if another file with different content exists."""
        path = home / self.path
        return path.exists() and not (
            path.is_file() and path.read_text(encoding="utf-8", errors="replace") == self.text
        )


class Ask(Protocol):
    """Answers questions for settings that were not given."""

    def text(self, question: str, *, default: str | None) -> str:
        """An answer in words; `default` None demands one."""
        ...

    def confirm(self, question: str, *, default: bool) -> bool:
        """Yes or no."""
        ...


def init(
    home: Path,
    *,
    source: str | None = None,
    to: str | None = None,
    license: str | None = None,
    workflow: bool | None = None,
    force: bool = False,
    ask: Ask | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> tuple[Written, ...]:
    """Write hubpub.toml, and a workflow that publishes what it names, into `home`.

    Without `ask` the defaults are taken. Raises ConfigError where a file is there that
    neither `force` nor an answer gives up; then nothing is written.
    """
    chosen = _source(home, source, ask)
    account = None if to else account_of(endpoint=endpoint, token=token, session=session)
    default = destination(chosen, account or "OWNER")  # raises for what is not a source
    if to is None and ask is not None:
        unknown = "" if account else "; by default in the account of your token"
        to = ask.text(f"Destination, OWNER/NAME{unknown}", default=default if account else "") or None
    elif to is None and account is not None:
        to = default
    if license is None and ask is not None and licence_of(chosen, home) == "":
        license = ask.text("Licence id, which the source does not name", default="") or None
    if workflow is None:
        workflow = ask is None or ask.confirm(f"Write {WORKFLOW.as_posix()} as well?", default=True)
    written = files(Answers(source=chosen, to=to, license=license), workflow=workflow)
    for name in [file.path.as_posix() for file in written if not force and file.there(home)]:
        if ask is None or not ask.confirm(f"{name} is there. Overwrite it?", default=False):
            raise ConfigError(f"{name} is there already; nothing was written.", hint="Overwrite it with --force.")
    write(written, home)
    return written


def _source(home: Path, source: str | None, ask: Ask | None) -> str:
    """The source that was named, the one diffusers folder in `home`, or the answer."""
    here = sources_here(home)
    default = here[0] if len(here) == 1 else None
    if source is not None:
        return source
    if ask is not None:
        return ask.text("Source (a diffusers folder, ORG/NAME of the Hub, or git+URL)", default=default)
    if default is None:
        raise ConfigError("No source was named.", hint="Name a folder or a repo id: `hubpub init ORG/NAME --yes`.")
    return default


def sources_here(home: Path) -> tuple[str, ...]:
    """The diffusers folders in `home`: itself, or those directly in it."""
    if (home / MODEL_INDEX).is_file():
        return (".",)
    found = sorted(path.parent.name for path in home.glob(f"*/{MODEL_INDEX}"))
    return tuple(f"./{name}" for name in found if not name.startswith("."))


def licence_of(source: str, home: Path) -> str | None:
    """The licence that a local source names, "" where it names none; None where it is not a folder here."""
    place = home / source
    if not place.is_dir():
        return None
    try:
        facts = read_facts(lambda path: _read(place / path), name=f"The folder {source}")
    except SourceError:
        return None
    return str(facts.card.get("license") or "")


def account_of(*, endpoint: str | None = None, token: str | None = None, session: Session | None = None) -> str | None:
    """The account that publish would publish to; None without a token, offline, or where the Hub does not answer."""
    with using(session, endpoint=endpoint, token=token) as opened:
        try:
            hub = opened.hub
            if hub.offline or hub.token is None:
                return None
            hub.ping()
            return hub.whoami().name
        except HubpubError:
            return None


def destination(source: str, owner: str) -> str:
    """The destination that publish would take by itself. Raises ConfigError for what is no source."""
    return default_destination(owner, sources.parse(source).name, _WIDTH)


def files(answers: Answers, *, workflow: bool) -> tuple[Written, ...]:
    """What init writes. ConfigError for a destination that is no repo id."""
    if answers.to is not None:
        check_repo_id(answers.to)
    made = environment()
    made.filters["toml"] = lambda value: json.dumps(value, ensure_ascii=False)
    text = made.get_template("init/hubpub.toml.j2").render(
        answers=answers, default=destination(answers.source, "OWNER")
    )
    written = [Written(path=Path(FILE), text=text)]
    if workflow:
        # not through Jinja: GitHub's expressions look like its own
        text = (folder() / "init" / "hubpub.yml").read_text(encoding="utf-8").replace("@VERSION@", __version__)
        written.append(Written(path=WORKFLOW, text=text))
    return tuple(written)


def write(written: Iterable[Written], home: Path) -> None:
    """Write the files into `home`. Raises NoSpace, CannotWrite."""
    for file in written:
        path = home / file.path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text, encoding="utf-8", newline="\n")


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
