"""Step: one piece of work, named by the hash of what it means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


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
    """An input from the source: a file, or a folder of which only `files` matter."""

    path: str
    files: Mapping[str, str]  # path relative to `path` ("" for a file itself) → digest

    def meaning(self) -> Any:
        """The digests alone: a renamed folder is the same input."""
        return {"files": dict(self.files)}


Input = FromStep | FromSource


@dataclass(frozen=True, kw_only=True)
class Step:
    """One piece of work.

    The key covers the kind, its version, the parameters and the inputs; not the
    label, the needs and the estimates, which change nothing in the result.
    """

    kind: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, Input]
    label: str
    needs: tuple[str, ...] = ()  # importable packages
    size: int = 0  # bytes that it will write, estimated
    memory: int = 0  # bytes that it will need, estimated
    after: tuple[str, ...] = field(default=())  # keys of gates that must have passed; part of the key

    @cached_property
    def key(self) -> str:
        """64 hex digits: sha256 of the canonical JSON of what the step means."""
        meaning = {
            "kind": self.kind,
            "version": self.version,
            "params": self.params,
            "inputs": {name: given.meaning() for name, given in self.inputs.items()},
            "after": sorted(self.after),
        }
        return hashlib.sha256(canonical(meaning)).hexdigest()

    @property
    def heavy(self) -> bool:
        """Whether it runs torch: on all cores, and in gigabytes."""
        return bool(self.needs)

    def requires(self) -> set[str]:
        """Keys of the steps that must be done first."""
        return {given.key for given in self.inputs.values() if isinstance(given, FromStep)} | set(self.after)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=dict).encode()
