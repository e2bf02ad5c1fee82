"""One file per kind of step: parameters and inputs in, files and measurements out.

KINDS lists them: a new kind is one file and one line here. Importing them is light; what is
heavy is imported by `run`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hubpub.steps.archive import Archive
from hubpub.steps.compile import Compile
from hubpub.steps.measure import Measure
from hubpub.steps.package import Package
from hubpub.steps.readback import Readback
from hubpub.steps.reference import Reference
from hubpub.steps.sample import Sample
from hubpub.steps.step import FromSource, FromStep, Input, Step
from hubpub.steps.tokenizer import Tokenizer
from hubpub.steps.weights import Weights

__all__ = [
    "KINDS",
    "Archive",
    "Compile",
    "FromSource",
    "FromStep",
    "Input",
    "Measure",
    "Package",
    "Readback",
    "Reference",
    "Sample",
    "Step",
    "Tokenizer",
    "Weights",
]

KINDS: Final[Mapping[str, type[Step]]] = {
    kind.kind(): kind for kind in (Weights, Package, Readback, Reference, Measure, Tokenizer, Compile, Archive, Sample)
}
