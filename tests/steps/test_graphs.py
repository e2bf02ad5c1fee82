"""Shipped graphs: there, whole, of the configs that real sources have, and read without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hubpub import graphs
from hubpub.architectures import ATTENTIONS, components_of, detect, export_params
from hubpub.cli.app import app
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import serialize
from hubpub.engine.store import Store
from hubpub.errors import BadPackage
from hubpub.graph import GRAPH_VERSION, Graph, GraphInfo, constants, main_block
from hubpub.graphs.build import build, families_of, wanted
from hubpub.plan.planner import export_step
from hubpub.steps import export
from hubpub.verbs.demo import SOURCE as DEMO
from tests.support.sources import FAMILIES, components
from tests.support.tiny_modules import params

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
from hubpub.plan import export_step
from hubpub.steps import export
from hubpub.store import Store
from hubpub.verbs.demo import SOURCE as DEMO
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


# -- hubpub graphs ---------------------------------------------------------------------------------------------

TEXT_ENCODER = next(
    given for given in wanted() if given["component"] == "text_encoder" and "demo" in families_of(given)
)
KEY = graphs.graph_key(TEXT_ENCODER)


def _hubpub(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["graphs", *arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped graphs in a folder of this test's own."""
    folder = shutil.copytree(Path(graphs.__file__).parent, tmp_path / "graphs")
    monkeypatch.setattr(graphs, "_FOLDER", folder)
    return folder


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "store"))


def test_the_list_tells_what_each_graph_is(tmp_path: Path) -> None:
    told = json.loads(_hubpub("list", "--json").stdout)
    assert {one["key"] for one in told} == {graphs.graph_key(given) for given in wanted()}
    one = next(one for one in told if one["key"] == KEY)
    assert (one["component"], one["families"], one["where"]) == ("text_encoder", ["demo"], "shipped")
    assert one["params"] == TEXT_ENCODER
    assert set(one["built_with"]) == {"python", "torch", "coremltools", "numpy"}
    assert f"{KEY[:12]}  shipped  text_encoder    demo" in _hubpub("list").stdout


def test_the_recorded_digests_are_those_of_the_files(copy: Path) -> None:
    before = (copy / graphs.DIGESTS).read_bytes()
    graphs.write_digests(copy)
    assert (copy / graphs.DIGESTS).read_bytes() == before
    assert "30 graphs are what they should be; 0" in _hubpub("verify", "--shipped", "--digests").stdout


def test_a_changed_file_is_found(copy: Path) -> None:
    path = copy / f"{KEY[:32]}.graph.xz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = _hubpub("verify", "--digests", "text_encoder", status=9)
    assert f"1 of 3 graphs are not what they should be: {KEY[:12]} (text_encoder): its file is not" in found.stderr


def test_a_graph_is_known_by_key_component_or_family() -> None:
    for name, count in ((KEY[:8], 1), ("text_encoder", 3), ("demo", 5)):
        assert len(json.loads(_hubpub("verify", "--digests", name, "--json").stdout)["graphs"]) == count
    assert "There is no graph 'vae'" in _hubpub("verify", "vae", status=2).stderr


def test_what_is_built_again_is_what_is_shipped_or_told(copy: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("coremltools")
    assert "1 of them were built again" in _hubpub("verify", KEY[:12]).stdout
    path = copy / f"{KEY[:32]}.graph.xz"
    graph = graphs.read(path)
    queries, keys = (
        next(one for one in constants(main_block(graph.model)) if f"{name}_weight" in one.outputs[0].name)
        for name in ("q_proj", "k_proj")
    )
    queries.attributes["val"].CopyFrom(keys.attributes["val"])
    graphs.write(graph, copy)
    graphs.write_digests(copy)  # a fault of whoever made it, not of a disk
    assert "it is another program than before" in _hubpub("verify", KEY[:12], status=9).stderr


def test_graphs_of_a_source_are_built_into_the_store_and_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = json.loads(_hubpub("build", str(DEMO), "--attention", "original", "--out", str(out), "--json").stdout)
    assert {one["component"] for one in told} == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    shipped = Path(graphs.__file__).parent
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix == ".xz"}
    assert files == {name: (shipped / name).read_bytes() for name in files}
    assert len((out / graphs.DIGESTS).read_text().splitlines()) == len(files) == 4
    again = json.loads(_hubpub("build", "--family", "demo", "--attention", "original", "--json").stdout)
    assert [one["key"] for one in again] == [one["key"] for one in told]


def test_a_graph_that_cannot_be_proven_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    step = export_step(TEXT_ENCODER, "text_encoder")
    out = store.work_folder(step.key)
    why = {"unproven": "Two are one."}
    store.commit(step.key, out, kind="export", label=step.label, measurements=why, seconds=1.0)
    refused = _hubpub("build", "--family", "demo", "--attention", "original", status=5)
    assert "cannot be proven: Two are one." in refused.stderr
    assert len(json.loads(_hubpub("list", "--json").stdout)) == 30


def test_what_to_build_must_be_said() -> None:
    _hubpub("build", status=2)
    _hubpub("build", str(DEMO), "--family", "sd15", status=2)
    assert "Choose from sd15, sd21-base, sd21, demo" in _hubpub("build", "--family", "sd9", status=2).stderr
