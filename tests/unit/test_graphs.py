"""Shipped graphs: there, whole, of the configs that real sources have, and read without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sources import FAMILIES, components
from tiny_modules import params

from hubpub import graphs
from hubpub.architectures import ATTENTIONS, components_of, detect, export_params
from hubpub.errors import BadPackage
from hubpub.graph import GRAPH_VERSION, Graph, GraphInfo, constants, main_block
from hubpub.graphs.build import build, wanted
from hubpub.mil import schema_pb2 as schema
from hubpub.mil.package import serialize
from hubpub.steps import export

LIMIT = 2_000_000  # bytes of all shipped graphs together


def test_all_that_is_wanted_is_shipped_and_nothing_else() -> None:
    files = {path.name for path in Path(graphs.__file__).parent.glob("*.graph.xz")}
    assert files == {graphs.file_of(params).name for params in wanted()}
    assert sum((Path(graphs.__file__).parent / name).stat().st_size for name in files) <= LIMIT
    assert len(graphs.shipped_list()) == len(wanted()) == 30


@pytest.mark.parametrize("given", wanted(), ids=lambda given: graphs.graph_key(given)[:8])
def test_a_shipped_graph_is_whole_and_proven(given: dict[str, Any], tmp_path: Path) -> None:
    assert graphs.is_shipped(given)
    measured = export.run(given, {}, tmp_path)
    assert measured["shipped"] is True
    graph = Graph.load(tmp_path)
    assert graph.info.params == given
    assert graph.info.graph_version == GRAPH_VERSION
    references = [
        operation.attributes["val"].blobFileValue.fileName
        for operation in constants(main_block(graph.model))
        if operation.attributes["val"].WhichOneof("value") == "blobFileValue"
    ]
    proof = graph.info.proof
    assert len(set(references)) == len(references) == proof["parameters"]
    assert proof["references"] == proof["rows_in_order"] == proof["columns_in_order"] == len(references)
    assert set(graph.info.built_with) == {"python", "torch", "coremltools", "numpy"}


@pytest.mark.parametrize("family", ["sd15", "sd21", "sd21-768"])
def test_sources_as_they_are_published_need_no_export(family: str) -> None:
    configs = {part.folder: part.config for part in components(family, tiny=False)}
    index = {"_class_name": "StableDiffusionPipeline"} | {folder: ["", folder] for folder in configs}
    architecture = detect(index, configs)
    found = components_of(architecture, index, safety_checker=True)
    assert len(found) == (5 if family == "sd15" else 4)
    for component in found:
        for attention in ATTENTIONS:
            for batch in (1, 2):
                knobs: dict[str, Any] = {"attention": attention, "latent": None, "batch": batch, "target": "iOS16"}
                assert graphs.is_shipped(export_params(component, configs, **knobs))
    assert family in FAMILIES


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from hubpub.graphs.build import wanted
from hubpub.steps import export
print(export.run(wanted()[0], {}, Path(sys.argv[1]))["shipped"], "torch" in sys.modules, "coremltools" in sys.modules)
"""
    root = Path(graphs.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.stdout.split() == ["True", "False", "False"]


def test_what_is_not_shipped_is_none() -> None:
    assert graphs.shipped(wanted()[0] | {"target": "macOS15"}) is None
    assert not graphs.is_shipped(params("text_encoder"))


def test_write_and_read(tmp_path: Path) -> None:
    info = GraphInfo(component="unet", params={"component": "unet"}, ignored=("a",), proof={"parameters": 0})
    graph = Graph(model=schema.Model(specificationVersion=7), info=info)
    graph.model.mlProgram.version = 1
    path = graphs.write(graph, tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    again = graphs.read(path)
    assert again.info == info
    assert serialize(again.model) == serialize(graph.model)
    assert graphs.write(graph, tmp_path).read_bytes() == path.read_bytes()


def test_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = wanted()[0]
    whole = graphs.file_of(given).read_bytes()
    path = graphs.file_of(given, tmp_path)
    for damaged in (whole[:1000], b"not compressed", b""):
        path.write_bytes(damaged)
        with pytest.raises(BadPackage, match="cannot be read"):
            graphs.read(path)
    other = graphs.file_of(wanted()[1]).read_bytes()
    path.write_bytes(other)
    monkeypatch.setattr(graphs, "file_of", lambda params: path)
    with pytest.raises(BadPackage, match="not the graph that its name says"):
        graphs.shipped(given)


def test_building_again_makes_nothing() -> None:
    assert build() == []


@pytest.mark.slow
def test_exporting_afresh_gives_the_shipped_model(tmp_path: Path) -> None:
    from hubpub.nets.weightless import export as exported

    given = wanted()[0]
    assert given["component"] == "text_encoder"
    shipped = graphs.shipped(given)
    assert shipped is not None
    assert serialize(exported(given).model) == serialize(shipped.model)
