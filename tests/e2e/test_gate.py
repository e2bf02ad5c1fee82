"""The numeric gate: what is right passes, what is wrong is caught, whatever went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coreml.package import read_model
from hubpub.errors import ParityTooLow
from hubpub.graph import Graph, Reference, constants, main_block
from tests.support.sources import make_source

pytest.importorskip("torch", reason="the gate runs components with torch")
pytest.importorskip("coremltools", reason="graphs of toy configurations are built with coremltools")

pytestmark = pytest.mark.slow

FLOORS = {"floor": 25.0, "floor_fp16": 35.0, "floor_graph": 60.0}


class Bench:
    """One component of a toy source: its graph, and its weights in packages of any kind."""

    def __init__(self, root: Path, component: str) -> None:
        from hubpub import architectures
        from hubpub.steps import export, reference

        self.root, self.component = root, component
        source = make_source(root / "source", "sd15")
        configs = {path.parent.name: json.loads(path.read_text()) for path in source.glob("*/config.json")}
        part = architectures.detect(json.loads((source / "model_index.json").read_text()), configs).component(component)
        self.source = source / part.folder
        self.weights = [path.name for path in self.source.iterdir() if path.suffix == ".safetensors"]
        params = architectures.export_params(
            part, configs, attention="split_einsum_v2", latent=None, batch=2, target="macOS13"
        )
        self.graph = self._folder("graph")
        export.run(params, {}, self.graph)
        self.full = self.filled(self.graph, 16)
        self.expected = self._folder("expected")
        scheduler = json.loads((source / "scheduler" / "scheduler_config.json").read_text())
        given = {"component": component, "config": configs[part.folder], "weights": self.weights}
        reference.run(
            {**given, "scheduler": scheduler, "scaling_factor": 0.18215},
            {"source": self.source, "package": self.full},
            self.expected,
        )

    def filled(self, graph: Path, bits: int) -> Path:
        """A package of that width from a graph."""
        from hubpub.steps import fill

        out = self._folder("package")
        params = {
            "component": self.component,
            "bits": bits,
            "palettizes": True,
            "weights": self.weights,
            "metadata": {},
        }
        fill.run(params, {"graph": graph, "source": self.source}, out)
        return out / "model.mlpackage"

    def changed(self, change: Callable[[Graph], int]) -> Path:
        """A graph in which `change` has changed something (it says how much)."""
        graph = Graph.load(self.graph)
        assert change(graph), "nothing was changed"
        out = self._folder("changed")
        graph.save(out)
        return out

    def verify(self, package: Path, full: Path, bits: int = 6) -> dict[str, Any]:
        """The gate's verdict."""
        from hubpub.steps import verify

        inputs = {"package": package, "full": full, "expected": self.expected}
        return verify.run({"component": self.component, "bits": bits, **FLOORS}, inputs, self._folder("out"))

    def read_back(self, package: Path, bits: int) -> dict[str, Any]:
        """The other gate's."""
        from hubpub.steps import readback

        params = {"component": self.component, "bits": bits, "weights": self.weights}
        inputs = {"package": package, "graph": self.graph, "source": self.source}
        return readback.run(params, inputs, self._folder("out"))

    def _folder(self, name: str) -> Path:
        folder = self.root / f"{name}{len(list(self.root.iterdir()))}"
        folder.mkdir()
        return folder


@pytest.fixture(scope="module", params=["text_encoder", "unet"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp(request.param), request.param)


def test_what_is_right_passes(bench: Bench) -> None:
    measured = bench.verify(bench.filled(bench.graph, 6), bench.full)
    assert measured["psnr_graph"] > 90
    assert measured["psnr_fp16"] > 55
    assert 25 < measured["psnr"] < measured["psnr_fp16"]
    assert f"{measured['psnr']:.1f} dB at 6 bits" in measured["summary"]


def test_fewer_bits_are_worse(bench: Bench) -> None:
    eight = bench.verify(bench.filled(bench.graph, 8), bench.full, 8)["psnr"]
    six = bench.verify(bench.filled(bench.graph, 6), bench.full)["psnr"]
    assert eight > six + 6
    with pytest.raises(ParityTooLow, match="with 2-bit weights"):
        bench.verify(bench.filled(bench.graph, 2), bench.full, 2)


def test_a_damaged_weight_is_caught(bench: Bench) -> None:
    """Reading back finds any damage; running finds what matters, such as a table whose entries have moved."""
    package = bench.filled(bench.graph, 6)
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    tables = [
        operation.attributes["lut"].blobFileValue.offset + 64
        for operation in main_block(read_model(package)).operations
        if operation.type == "constexpr_lut_to_dense"
    ]
    data = np.fromfile(weights, np.uint8)
    for start in tables[len(tables) // 2 :][:3]:
        data[start : start + 128] = np.roll(data[start : start + 128], 64)
    data.tofile(weights)
    with pytest.raises(ParityTooLow, match="6-bit weights") as caught:
        bench.verify(package, bench.full)
    assert "Most is lost in" in caught.value.message
    with pytest.raises(ParityTooLow, match="too far from its source"):
        bench.read_back(package, 6)


def test_a_single_flipped_bit_of_a_full_package_is_caught(bench: Bench) -> None:
    package = bench.filled(bench.graph, 16)
    bench.read_back(package, 16)
    weights = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data = np.fromfile(weights, np.uint8)
    data[128 + len(data) // 2 // 64 * 64 + 1] ^= 1
    data.tofile(weights)
    with pytest.raises(ParityTooLow, match="is not the source's tensor"):
        bench.read_back(package, 16)


def _swap_queries_and_keys(graph: Graph) -> int:
    names = [("to_q.", "to_k."), ("q_proj.", "k_proj.")]
    count = 0
    for operation in constants(main_block(graph.model)):
        value = operation.attributes["val"]
        if value.WhichOneof("value") != "blobFileValue":
            continue
        tensor = Reference.parse(value.blobFileValue.fileName).tensor
        if "attn2" in tensor:  # queries and keys of cross-attention differ in shape
            continue
        for query, key in names:
            if query in tensor or key in tensor:
                turned = tensor.replace(query, "\0").replace(key, query).replace("\0", key)
                value.blobFileValue.fileName = str(Reference(tensor=turned))
                count += 1
    return count


def _turn_softmax(graph: Graph) -> int:
    block = main_block(graph.model)
    axes = {operation.inputs["axis"].arguments[0].name for operation in block.operations if operation.type == "softmax"}
    count = 0
    for operation in constants(block):
        if operation.outputs[0].name in axes:
            values = operation.attributes["val"].immediateValue.tensor.ints.values
            values[0] = {-1: -2, 1: 3, 3: 2}[values[0]]
            count += 1
    return count


@pytest.mark.parametrize("change", [_swap_queries_and_keys, _turn_softmax])
def test_a_wrong_network_is_caught(bench: Bench, change: Callable[[Graph], int]) -> None:
    graph = bench.changed(change)
    with pytest.raises(ParityTooLow, match="in fp32") as caught:
        bench.verify(bench.filled(graph, 6), bench.filled(graph, 16))
    assert caught.value.measured is not None
    assert caught.value.measured < 40, "far below the floor, so that the floor is no matter of luck"
