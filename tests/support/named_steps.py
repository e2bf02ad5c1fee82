"""Steps that cost nothing: archives whose label is their stem."""

from __future__ import annotations

from dataclasses import dataclass

from hubpub.steps import Archive


@dataclass(frozen=True, kw_only=True)
class Named(Archive):
    """An archive whose label is its stem; workers run it as an archive."""

    @property
    def label(self) -> str:
        return self.stem

    @classmethod
    def kind(cls) -> str:
        return Archive.kind()
