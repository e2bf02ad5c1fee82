"""card: README.md of a release, to look at before it is published. Folder or Config → text."""

from __future__ import annotations

from pathlib import Path

from hubpub.errors import ConfigError
from hubpub.plan.config import Config
from hubpub.release.card import render
from hubpub.verbs.convert import make, release
from hubpub.verbs.report import manifest_of
from hubpub.verbs.preparation import prepare
from hubpub.verbs.session import Session


def of_folder(folder: Path, *, template: Path | None = None) -> str:
    """The card of a folder that `convert` wrote, with another template where one is given."""
    return render(manifest_of(folder), template=template)


def of_config(config: Config, session: Session) -> str:
    """The card of a first publish of a source; it shows what steps have measured, so they must be in the store."""
    prepared = prepare(config, session, owner=None)
    missing = prepared.missing(session.store)
    if missing:
        raise ConfigError(
            f"The card says what {len(prepared.plan.steps)} steps measure, and {len(missing)} are not made yet.",
            hint="`hubpub convert` makes them and publishes nothing.",
        )
    return release(make(prepared, session), remote_manifest=None).card
