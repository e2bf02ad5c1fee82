"""The graphs that are shipped with hubpub: those of well-known configurations, by the key of their parameters.

With one of these, a source is converted without torch or coremltools. A file
`<beginning of the key>.graph.xz` holds, compressed, one line of JSON (GraphInfo) and then
the serialized model; SHA256SUMS has their digests, as `sha256sum` writes and checks them.
build.py makes them.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from hubpub.coreml.package import parse_model, serialize
from hubpub.errors import BadPackage
from hubpub.graph import GRAPH_VERSION, Graph, GraphInfo
from hubpub.steps.step import canonical

DIGESTS = "SHA256SUMS"
_FOLDER = Path(__file__).parent


def graph_key(params: Mapping[str, Any]) -> str:
    """64 hex digits: what a graph is known by, from the parameters of its export and the graph version."""
    return sha256(canonical({"params": params, "graph_version": GRAPH_VERSION})).hexdigest()


def is_shipped(params: Mapping[str, Any]) -> bool:
    """Whether the graph for these export parameters comes with hubpub."""
    return file_of(params).is_file()


def shipped(params: Mapping[str, Any]) -> Graph | None:
    """The shipped graph for these export parameters; None where there is none."""
    path = file_of(params)
    if not path.is_file():
        return None
    graph = read(path)
    if graph.info.graph_version != GRAPH_VERSION or graph_key(graph.info.params) != graph_key(params):
        raise BadPackage(f"{path.name} is not the graph that its name says.", hint="Install hubpub again.")
    return graph


def shipped_list() -> tuple[tuple[Path, GraphInfo], ...]:
    """What is shipped, without the models: file, and component, parameters, proof and provenance of each."""
    found = []
    for path in _FOLDER.glob("*.graph.xz"):
        with lzma.open(path) as file:
            found.append((path, _info(file)))
    return tuple(sorted(found, key=lambda one: (one[1].component, canonical(one[1].params))))


def file_of(params: Mapping[str, Any], folder: Path = _FOLDER) -> Path:
    """Where the graph for these export parameters is, if it is shipped."""
    return folder / f"{graph_key(params)[:32]}.graph.xz"


def read(path: Path) -> Graph:
    """Read a shipped graph; raises BadPackage when the file is not whole."""
    try:
        with lzma.open(path) as file:
            info = _info(file)
            return Graph(model=parse_model(file.read(), name=path.name), info=info)
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise BadPackage(
            f"The shipped graph {path.name} cannot be read: {error}", hint="Install hubpub again."
        ) from error


def digest_of(path: Path) -> str:
    """64 hex digits: the sha256 that a file of graphs should have; "" where none is recorded."""
    for line in (path.parent / DIGESTS).read_text(encoding="ascii").splitlines():
        digest, _, name = line.partition("  ")
        if name == path.name:
            return digest
    return ""


def write_digests(folder: Path = _FOLDER) -> None:
    """Record the digests of all graphs in a folder."""
    lines = [f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.graph.xz"))]
    (folder / DIGESTS).write_text("".join(lines), encoding="ascii")


def write(graph: Graph, folder: Path = _FOLDER) -> Path:
    """Write a graph as it is shipped, into `folder`; returns its path."""
    head = json.dumps(asdict(graph.info), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    content = lzma.compress(head.encode() + b"\n" + serialize(graph.model), preset=9 | lzma.PRESET_EXTREME)
    path = file_of(graph.info.params, folder)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(content)
    return unfinished.replace(path)


def _info(file: IO[bytes]) -> GraphInfo:
    fields = json.loads(file.readline())
    fields["ignored"] = tuple(fields["ignored"])
    return GraphInfo(**fields)
