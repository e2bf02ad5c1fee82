"""cache: what HUBPUB_CACHE holds: finished steps, and what fetch keeps. Listed, removed, checked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.engine.store import Entry
from hubpub.errors import FilesChanged
from hubpub.files.sizes import human
from hubpub.verbs.session import Session


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Finished steps of a store, the oldest first."""

    root: Path
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(entry.size for entry in self.entries)

    @property
    def summary(self) -> str:
        """Number and size, for people."""
        return f"{len(self.entries)} steps, {human(self.size)}"

    def to_json(self) -> list[dict[str, Any]]:
        """The steps for programs."""
        return [
            {"key": entry.key, "kind": entry.kind, "label": entry.label, "bytes": entry.size, "created": entry.created}
            for entry in self.entries
        ]


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was removed: steps, and how many repos and folders were forgotten."""

    steps: Steps
    forgotten: int


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How many steps were read, and what was wrong with those that were removed."""

    steps: int
    damaged: tuple[str, ...]


def steps(session: Session, *, before: float = math.inf) -> Steps:
    """The finished steps that were made before a time (seconds since 1970)."""
    entries = sorted(session.store.entries(), key=lambda entry: entry.created)
    return Steps(root=session.root, entries=tuple(entry for entry in entries if entry.created <= before))


def prune(session: Session, *, days: int = 0, agree: Callable[[Steps], bool] | None = None) -> Pruned | None:
    """Remove steps older than `days`, what killed runs left, and facts about repos that were not used lately.

    None where `agree`, which is called before any step is removed, does not.
    """
    store = session.store
    before = time.time() - days * 86400 if days else math.inf  # "all" is all, whatever a clock said
    for key in list(store.unreadable()):
        store.remove(key)
    old = steps(session, before=before)
    if old.entries and agree is not None and not agree(old):
        return None
    with store.alone():
        store.clean()
        for entry in old.entries:
            store.remove(entry.key)
        return Pruned(steps=old, forgotten=session.cache.prune(before=before))


def verify(session: Session) -> Checked:
    """Read every finished step and compare it with its digests; damaged ones are removed."""
    store = session.store
    damaged = []
    for key in list(store.unreadable()):
        damaged.append(f"{key[:12]}: entry.json cannot be read")
        store.remove(key)
    entries = list(store.entries())
    count = len(damaged) + len(entries)
    for entry in entries:
        if wrong := store.damage(entry):
            damaged.append(f"{entry.label} ({entry.key[:12]}): {wrong}")
            store.remove(entry.key)
    return Checked(steps=count, damaged=tuple(damaged))


def raise_damaged(checked: Checked) -> None:
    """Raise FilesChanged where something was damaged."""
    if checked.damaged:
        raise FilesChanged(
            f"{len(checked.damaged)} steps of the store were damaged.",
            hint="They are made again when needed.",
            findings=checked.damaged,
        )
