"""Variant: a full set of knobs, and the one place that turns it into a name and back."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from hubpub.errors import UnknownVariant

ATTENTIONS: Final = ("original", "split_einsum", "split_einsum_v2")
FORMATS: Final = ("packages", "compiled")
BITS: Final = (16, 8, 6, 4, 2, 1)
# Apple's names; the two of a line mean the same Core ML specification version.
TARGETS: Final = ("macOS13", "iOS16", "macOS14", "iOS17", "macOS15", "iOS18")

# What each target's specification version asks of a device.
MINIMUM_OS: Final = {7: ("iOS 16", "macOS 13"), 8: ("iOS 17", "macOS 14"), 9: ("iOS 18", "macOS 15")}
SPEC_VERSIONS: Final = {"macOS13": 7, "iOS16": 7, "macOS14": 8, "iOS17": 8, "macOS15": 9, "iOS18": 9}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One attention's models, at the release's bits, latent size, batch and target.

    `latent` is (height, width) in latent pixels. A repo holds one width, size and
    target; its variants differ in attention.
    """

    attention: str
    bits: int
    latent: tuple[int, int]
    batch: int = 2
    target: str = "macOS13"

    def __post_init__(self) -> None:
        choose("attention", self.attention, ATTENTIONS)
        choose("deployment target", self.target, TARGETS)
        if self.bits not in BITS:
            raise UnknownVariant(f"There is no {self.bits}-bit variant.", hint=f"Choose one of {_listed(BITS)}.")

    def folder(self, form: str) -> str:
        """The repo folder of one format: `original/packages`."""
        return f"{self.attention}/{choose('format', form, FORMATS)}"

    def zip_stem(self, repo_name: str) -> str:
        """Stem of the archive of the compiled models; also its one top folder. Apps build this name themselves."""
        return f"{repo_name}_{self.attention}_compiled"


def choose(what: str, value: str, allowed: tuple[str, ...]) -> str:
    """`value` if it is allowed; an UnknownVariant that names the nearest one if not."""
    if value in allowed:
        return value
    near = get_close_matches(value, allowed, n=1)
    guess = f"Did you mean {near[0]}? " if near else ""
    raise UnknownVariant(f"{value!r} is no known {what}.", hint=f"{guess}Choose one of {_listed(allowed)}.")


def _listed(values: tuple[object, ...]) -> str:
    return ", ".join(str(value) for value in values)
