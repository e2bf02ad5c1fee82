"""Artifact: a file of a release, and where it lies on this disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hubpub.files.digest import FileRef


@dataclass(frozen=True, kw_only=True)
class Artifact(FileRef):
    """A file of a release: `path` is where it goes in the repo, `source` where it lies on this disk."""

    source: Path
