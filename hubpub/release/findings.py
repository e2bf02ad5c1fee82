"""Findings of the rules in lint.py and mochi.py, and what both read from metadata.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Severity = Literal["error", "warning", "note"]
# (path, limit) → the file's first bytes, at most `limit`.
Read = Callable[[str, int], bytes]


@dataclass(frozen=True, kw_only=True, order=True)
class Finding:
    """A problem that an app will have with a file."""

    severity: Severity
    path: str
    sentence: str


BUNDLE: Final = ".mlmodelc"
WHOLE: Final = 1 << 28  # bytes; more than any model.mil


def missing(path: str, why: str) -> Finding:
    """An error for a missing file."""
    return Finding(severity="error", path=path, sentence=f"It is missing. {why}")


def entries_of(document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The input entries of a metadata.json's object."""
    entries = document.get("inputSchema") if document else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def metadata_of(data: bytes) -> dict[str, Any] | None:
    """The single object in a metadata.json; None for other content."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, list) and len(document) == 1 and isinstance(document[0], dict):
        return document[0]
    return None
