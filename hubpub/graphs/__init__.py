"""The graphs that are shipped with hubpub: those of well-known configurations, by the key of their parameters.

With one of these, a source is converted without torch or coremltools.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubpub.graph import GRAPH_VERSION
from hubpub.step import canonical

_FOLDER = Path(__file__).parent


def graph_key(params: Mapping[str, Any]) -> str:
    """64 hex digits: what a graph is known by, from the parameters of its export and the graph version."""
    return hashlib.sha256(canonical({"params": params, "graph_version": GRAPH_VERSION})).hexdigest()


def is_shipped(params: Mapping[str, Any]) -> bool:
    """Whether the graph for these export parameters comes with hubpub."""
    return _file(params).is_file()


def _file(params: Mapping[str, Any]) -> Path:
    return _FOLDER / f"{graph_key(params)[:32]}.graph.xz"
