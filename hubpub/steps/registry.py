"""Which kinds of steps there are: kind → module. Data; nothing is imported until a kind is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

KINDS: Final = {
    "export": "hubpub.steps.export",
    "plain": "hubpub.steps.plain",
    "fill": "hubpub.steps.fill",
    "readback": "hubpub.steps.readback",
    "reference": "hubpub.steps.reference",
    "verify": "hubpub.steps.verify",
    "sample": "hubpub.steps.sample",
    "compile": "hubpub.steps.compile",
    "archive": "hubpub.steps.archive",
}

# Raised in the step's module whenever the bytes that it writes change. Stated here as well, because
# planning must not import the modules (some load torch); a test holds the two together.
VERSIONS: Final = {
    "export": 1,
    "plain": 1,
    "fill": 2,
    "readback": 1,
    "reference": 1,
    "verify": 1,
    "sample": 1,
    "compile": 1,
    "archive": 1,
}


class Kind(Protocol):
    """What a step module offers."""

    KIND: str
    VERSION: int
    run: Callable[[Mapping[str, Any], Mapping[str, Path], Path], dict[str, Any]]


def load(kind: str) -> Kind:
    """The module of a kind."""
    return cast("Kind", import_module(KINDS[kind]))
