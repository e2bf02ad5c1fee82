"""card: README.md of a release, to look at before it is published. Folder or source → text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubpub.errors import ConfigError
from hubpub.plan.config import Config
from hubpub.release.card import render
from hubpub.verbs import settings
from hubpub.verbs.convert import make, release
from hubpub.verbs.preparation import flags, prepare
from hubpub.verbs.publish import is_converted
from hubpub.verbs.report import manifest_of
from hubpub.verbs.session import Session, using


def card(
    source: str | Path,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
    **given: Any,
) -> str:
    """The card of a folder that `convert` wrote, or of a first publish of a source whose steps are in the store.

    Of a folder only `template` can be chosen; of a source, all keys of hubpub.toml.
    """
    with using(session, endpoint=endpoint, token=token) as opened:
        return card_of(str(source), None, flags(given), session=opened)


def card_of(source: str | None, config: Path | None, given: Mapping[str, Any], *, session: Session) -> str:
    """As `card`; without a source, of the model in a config file."""
    if source is not None and is_converted(Path(source)):
        settings.refuse(given, but=("template",), why="is not changed by looking at its card")
        return render(manifest_of(Path(source)), template=Path(given["template"]) if "template" in given else None)
    return _of_config(settings.model(source, config, given), session)


def _of_config(config: Config, session: Session) -> str:
    """The card shows what steps have measured, so they must be in the store."""
    prepared = prepare(config, session, owner=None)
    missing = prepared.missing(session.store)
    if missing:
        raise ConfigError(
            f"The card says what {len(prepared.plan.steps)} steps measure, and {len(missing)} are not made yet.",
            hint="`hubpub convert` makes them and publishes nothing.",
        )
    return release(make(prepared, session), remote_manifest=None).card
