"""Step: one piece of work, named by the hash of what it means. A kind of step is a type.

    @dataclass(frozen=True, kw_only=True)
    class Archive(Step):
        VERSION = 1
        stem: str

        @property
        def label(self) -> str: ...
        def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]: ...

The fields that a kind adds are its parameters: plain values, which go into the key and to
the worker as JSON. `run` takes the inputs as paths, writes only into `out`, prints nothing
and edits no input; heavy libraries are imported inside it, so that planning stays light.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class FromStep:
    """An input that another step made: `path` inside its payload ("" for all of it)."""

    key: str
    path: str = ""

    def meaning(self) -> Any:
        """What the key of a step that takes this input depends on."""
        return {"step": self.key, "path": self.path}


@dataclass(frozen=True, kw_only=True)
class FromSource:
    """An input from one of the plan's sources: a file, or a folder of which only `files` matter."""

    path: str
    files: Mapping[str, str]  # path relative to `path` ("" for a file itself) → digest
    source: str = "model"

    def meaning(self) -> Any:
        """The digests alone: a renamed folder is the same input."""
        return {"files": dict(self.files)}


Input = FromStep | FromSource


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One piece of work.

    The key covers the kind, its version, the parameters and the inputs; not the estimates,
    which change nothing in the result.
    """

    VERSION: ClassVar[int]  # raised whenever the bytes that it writes change
    NEEDS: ClassVar[tuple[str, ...]] = ()  # importable packages

    inputs: Mapping[str, Input] = field(default_factory=dict)
    after: tuple[str, ...] = ()  # keys of gates that must have passed; part of the key
    size: int = 0  # bytes that it will write, estimated
    memory: int = 0  # bytes that it will need, estimated

    @property
    @abstractmethod
    def label(self) -> str:
        """What a person reads while it runs."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        """Do the work; returns what was measured, as JSON."""

    @classmethod
    def kind(cls) -> str:
        """The name of the kind in stores and manifests."""
        return cls.__name__.lower()

    @cached_property
    def params(self) -> dict[str, Any]:
        """The parameters: the fields that the kind adds, as plain JSON."""
        own = {item.name for item in fields(self)} - _COMMON
        values: dict[str, Any] = json.loads(canonical({name: getattr(self, name) for name in own}))
        return values

    @cached_property
    def key(self) -> str:
        """64 hex digits: sha256 of the canonical JSON of what the step means."""
        meaning = {
            "kind": self.kind(),
            "version": self.VERSION,
            "params": self.params,
            "inputs": {name: given.meaning() for name, given in self.inputs.items()},
            "after": sorted(self.after),
        }
        return hashlib.sha256(canonical(meaning)).hexdigest()

    @property
    def heavy(self) -> bool:
        """Whether it runs torch: on all cores, and in gigabytes."""
        return bool(self.NEEDS)

    def requires(self) -> set[str]:
        """Keys of the steps that must be done first."""
        return {given.key for given in self.inputs.values() if isinstance(given, FromStep)} | set(self.after)


_COMMON = {"inputs", "after", "size", "memory"}


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=dict).encode()
