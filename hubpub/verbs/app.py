"""app: what an app needs of a variant that was fetched. Fetched → JSON to bundle, lines to paste."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.errors import FetchError
from hubpub.files.disk import writing
from hubpub.files.repo_ids import REPO_ID
from hubpub.pages.templates import environment
from hubpub.release.card import ATTENTION_USE
from hubpub.remote.app_config import AppConfig, app_config, minimum_os
from hubpub.remote.cache import FetchCache, look_up

if TYPE_CHECKING:
    from hubpub.release.release import RemoteState
    from hubpub.remote.hub import Hub
    from hubpub.verbs.fetch import Fetched


def write_config(fetched: Fetched, path: Path, *, hub: Hub, cache: FetchCache) -> AppConfig:
    """Write what an app needs to download the archive of the same attention. FetchError, NoSpace, CannotWrite."""
    made = app_config(_state(fetched, hub, cache), fetched.variant, endpoint=hub.endpoint)
    with writing(path, hint="Name another file."):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    return made


def lines(fetched: Fetched, *, hub: Hub, cache: FetchCache) -> str | None:
    """Swift that loads what was fetched, or for packages the command that draws with them; None where neither fits."""
    state = _state(fetched, hub, cache)
    attention, _, form = fetched.variant.rpartition("/")
    if attention not in ATTENTION_USE:
        return None
    manifest, (*_, swift_unit, python_unit) = state.manifest or {}, ATTENTION_USE[attention]
    if form == "packages":
        source = _source(manifest)
        pipeline = {"folder": str(fetched.folder), "source": source, "compute_unit": python_unit}
        return environment().get_template("pipeline.j2").render(pipeline=pipeline) if source else None
    try:
        archive = app_config(state, fetched.variant, endpoint=hub.endpoint).model_dump()
    except FetchError:  # files without an archive are loaded alike
        archive = None
    stated = manifest.get("apps")
    apps: Mapping[str, Any] = stated if isinstance(stated, Mapping) else {}
    controlnets = apps.get("controlnets")
    swift = {
        "folder": str(fetched.folder),
        "pipeline": apps.get("swift_pipeline"),
        "controlnets": [name for name in controlnets if str(name).isidentifier()]
        if isinstance(controlnets, Mapping)
        else [],
        "compute_units": swift_unit,
        "minimum_os": minimum_os(manifest),
        "archive": archive,
    }
    return environment().get_template("swift.j2").render(swift=swift)


def _source(manifest: Mapping[str, Any]) -> str | None:
    """The repo id of the source, where a manifest names one of the Hub; a manifest is read, never trusted."""
    source = manifest.get("source")
    if not isinstance(source, Mapping) or source.get("kind") != "hub":
        return None
    name = str(source.get("name"))
    return name if REPO_ID.fullmatch(name) else None


def _state(fetched: Fetched, hub: Hub, cache: FetchCache) -> RemoteState:
    """What the repo held when it was fetched: remembered since, so no request."""
    return look_up(fetched.repo_id, hub=hub, revision=fetched.commit, cache=cache)
