"""init: hubpub.toml and a workflow for a repo of one's own, from templates; nothing is overwritten unasked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hubpub import __version__
from hubpub.errors import HubpubError, SourceError
from hubpub.files.disk import writing
from hubpub.plan.config import FILE
from hubpub.plan.names import check_repo_id, default_destination
from hubpub.release.templates import environment, folder
from hubpub.sources import source as sources
from hubpub.sources.metadata import MODEL_INDEX, read_facts
from hubpub.verbs.session import Session, using

WORKFLOW = Path(".github", "workflows", "hubpub.yml")
_WIDTH = 6  # bits, the default of hubpub.toml


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What init was told: the source, where it goes (None: left to `publish`), and the licence where it names none."""

    source: str
    to: str | None = None
    license: str | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that init writes: relative to the folder, with its text."""

    path: Path
    text: str

    def there(self, home: Path) -> bool:
        """Whether another file is there already; one with this very text is none."""
        path = home / self.path
        return path.exists() and not (
            path.is_file() and path.read_text(encoding="utf-8", errors="replace") == self.text
        )


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


def account(*, endpoint: str | None = None, token: str | None = None, session: Session | None = None) -> str | None:
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
