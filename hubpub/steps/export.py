"""export: a component's config → its Graph, the ML Program without weights.

A graph that is shipped is taken from there; for any other, torch and coremltools are
needed. params: what architectures.export_params gives. inputs: none. out: graph.mlmodel
and graph.json (hubpub/graph.py); nothing, where the graph cannot be proven: the answer is
then why, and the plan goes the plain way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubpub import graphs
from hubpub.errors import Unproven
from hubpub.graph import Graph, main_block

KIND = "export"
VERSION = 1


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the graph for `params` into `out`.

    Measurements: numbers of operations, of constants and of references among them, and
    whether the graph was `shipped`; or only why it is `unproven`.
    """
    shipped = graphs.shipped(params)
    try:
        graph = shipped or _exported(params)
    except Unproven as error:
        return {"unproven": error.message}
    graph.save(out)
    operations = Counter(operation.type for operation in main_block(graph.model).operations)
    return {
        "operations": operations.total(),
        "constants": operations["const"],
        "references": graph.info.proof["references"],
        "shipped": shipped is not None,
    }


def _exported(params: Mapping[str, Any]) -> Graph:
    # Not at the top: it brings torch and coremltools, which a shipped graph has no use for.
    from hubpub.nets.weightless import export

    return export(params)
