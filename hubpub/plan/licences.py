"""Licences of the parts of a release: which one is the strictest, and which forbid changed forms. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from hubpub.files.paths import is_relative

# Ids as the Hub has them (https://huggingface.co/docs/hub/repositories-licenses), from the freest to the strictest;
# an id that stands nowhere (`other`, a licence of one's own) is taken for stricter than those with a name.
_ORDER: Final = (
    {"cc0-1.0", "unlicense", "wtfpl", "pddl"},
    {"mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0"},
    {"mpl-2.0", "lgpl-2.1", "lgpl-3.0", "epl-2.0", "cdla-permissive-2.0"},
    {"gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "cc-by-sa-3.0", "cc-by-sa-4.0"},
    {"openrail", "bigscience-openrail-m", "creativeml-openrail-m", "openrail++", "bigscience-bloom-rail-1.0"},
)
_NON_COMMERCIAL: Final = ("-nc-", "-nc", "noncommercial", "non-commercial", "research")


def texts(licence: object) -> list[str]:
    """The ids that a card names: one, or a list of them."""
    listed = licence if isinstance(licence, list) else [licence]
    return [one.strip().lower() for one in listed if isinstance(one, str) and one.strip()]


def forbids_changes(licence: object) -> bool:
    """Whether a licence does not allow to publish changed forms, as a conversion is (Creative Commons' -nd).

    >>> forbids_changes("cc-by-nc-nd-4.0"), forbids_changes("creativeml-openrail-m")
    (True, False)
    """
    return any("nd" in one.split("-") for one in texts(licence))


def strictness(licence: object) -> int:
    """Where a licence stands between the freest (0) and the strictest; of a list, its strictest.

    >>> strictness("mit") < strictness("creativeml-openrail-m") < strictness("other") < strictness("cc-by-nc-4.0")
    True
    """
    return max((_rank(one) for one in texts(licence)), default=len(_ORDER))


def strictest(licences: Iterable[object]) -> object:
    """The strictest of the licences; of equals the first."""
    return max(licences, key=strictness)


def _rank(licence: str) -> int:
    if any(mark in licence for mark in _NON_COMMERCIAL):
        return len(_ORDER) + 1
    return next((number for number, ids in enumerate(_ORDER) if licence in ids), len(_ORDER))


def licence_text(card: Mapping[str, Any], *, asked: str | None = None) -> str:
    """The licence's id, or the name that a source's card gives to one of its own ("" where it names none)."""
    listed = texts(asked) if asked else [one for one in _listed(card.get("license")) if one]
    licence = ", ".join(listed)
    if licence == "other":
        return str(card.get("license_name") or licence)
    return licence


def licence_file(card: Mapping[str, Any]) -> str | None:
    """The file in the source's repo that its card names as the text of its licence; None for an address or nothing."""
    link = card.get("license_link")
    if not isinstance(link, str) or "://" in link or not link.strip():
        return None
    path = link.strip().removeprefix("./")
    return path if is_relative(path) else None


def licence_place(path: str, source: str | None) -> str:
    """Where that file lies in a release: at the top, or in a folder for a source (ORG/NAME) beside the model."""
    name = path.rpartition("/")[2]
    return name if source is None else f"licenses/{source.replace('/', '_')}/{name}"


def _listed(licence: object) -> list[str]:
    listed = licence if isinstance(licence, list) else [licence]
    return [one.strip() for one in listed if isinstance(one, str)]
