"""fill: graph + weights → package, compared with coremltools' own conversion and palettization of the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hubpub.checkpoints.weights import choose
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import MANIFEST, MODEL, WEIGHT_BIN, read_model
from hubpub.coreml.values import string_value, tensor_type, tensor_value
from hubpub.coreml.weight_file import BlobReader, BlobWriter
from hubpub.errors import BadPackage, BadWeights
from hubpub.graph import Graph, GraphInfo, Reference
from hubpub.palettize.palette import BITS, palettize, unpack
from hubpub.steps import fill
from tests.support.sources import Layout, components, make_source, tensors

Array = npt.NDArray[Any]
METADATA = {
    "author": "Somebody",
    "license": "openrail++",
    "version": "1",
    "short_description": "For tests",
    "user_defined": {"b": "2", "a": "1"},
}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A graph in the making."""

    block: schema.Block
    graph: Graph
    folder: Path


# -- graphs and sources of our own -----------------------------------------------------------------------------


def _constant(block: schema.Block, name: str, value: schema.Value) -> str:
    operation = block.operations.add(type="const")
    operation.outputs.add(name=name).type.CopyFrom(value.type)
    operation.attributes["name"].CopyFrom(string_value(name))
    operation.attributes["val"].CopyFrom(value)
    return name


def _reference(block: schema.Block, name: str, tensor: str, shape: tuple[int, ...], dtype: int = schema.FLOAT16) -> str:
    value = schema.Value(type=tensor_type(dtype, shape))
    value.blobFileValue.fileName = tensor if tensor.startswith("@") else str(Reference(tensor=tensor))
    return _constant(block, name, value)


def _use(block: schema.Block, kind: str, name: str, **inputs: str) -> schema.Operation:
    operation = block.operations.add(type=kind)
    operation.outputs.add(name=name).type.CopyFrom(tensor_type(schema.FLOAT16, (1,)))
    operation.attributes["name"].CopyFrom(string_value(name))
    for key, value in inputs.items():
        operation.inputs[key].arguments.add(name=value)
    return operation


def _graph(folder: Path, *, opset: str = "CoreML7", spec: int = 8, ignored: tuple[str, ...] = ()) -> Draft:
    """An empty graph."""
    model = schema.Model(specificationVersion=spec)
    function = model.mlProgram.functions["main"]
    function.opset = opset
    folder.mkdir(parents=True, exist_ok=True)
    info = GraphInfo(component="unet", params={}, ignored=ignored)
    return Draft(block=function.block_specializations[opset], graph=Graph(model=model, info=info), folder=folder)


def _save(draft: Draft) -> Path:
    draft.graph.save(draft.folder)
    return draft.folder


def _write(folder: Path, values: Mapping[str, Array]) -> Path:
    """A safetensors file with float16 or float32 tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    header, data = {}, b""
    for name, array in values.items():
        raw = np.ascontiguousarray(array).tobytes()
        dtype = {"float16": "F16", "float32": "F32"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def _fill(
    graph: Path, source: Path, out: Path, *, bits: int = 16, palettizes: bool = True
) -> tuple[Path, dict[str, Any]]:
    out.mkdir(parents=True)
    files = choose((f"x/{path.name}" for path in source.iterdir()), folder="x")
    params = {
        "component": "unet",
        "bits": bits,
        "palettizes": palettizes,
        "weights": [name.removeprefix("x/") for name in files],
        "metadata": METADATA,
    }
    report = fill.run(params, {"graph": graph, "source": source}, out)
    json.dumps(report)
    return out / "model.mlpackage", report


def _operations(package: Path) -> dict[str, schema.Operation]:
    function = read_model(package).mlProgram.functions["main"]
    return {
        operation.outputs[0].name: operation for operation in function.block_specializations[function.opset].operations
    }


def _random(shape: tuple[int, ...], seed: int = 0) -> npt.NDArray[np.float16]:
    return np.random.default_rng([seed, *shape]).normal(0, 0.05, shape).astype(np.float16)


def _everything(tmp_path: Path, **special: Any) -> tuple[Path, Path, dict[str, Array]]:
    """A graph with every kind of constant, and its source."""
    values: dict[str, Array] = {
        "embedding.weight": _random((500, 8)),
        "conv.weight": _random((32, 16, 3, 3)),
        "conv.bias": _random((32,)),
        "linear.weight": _random((64, 48)),
        "small.weight": _random((32, 64)),
        "small.bias": _random((4,)),
        "long": _random((3000,)),
        "concepts": _random((17, 8)),
        "unused.position_ids": _random((77,)),
    }
    draft = _graph(tmp_path / "graph", ignored=(r"unused\..*",), **special)
    block = draft.block
    _reference(block, "embedding_to_fp16", "embedding.weight", (500, 8))
    _use(block, "gather", "gathered", x="embedding_to_fp16")
    _reference(block, "conv_to_fp16", "conv.weight", (32, 16, 3, 3))
    _reference(block, "bias_to_fp16", "conv.bias", (32,))
    _use(block, "conv", "y", x="gathered", weight="conv_to_fp16", bias="bias_to_fp16")
    _constant(block, "axes", tensor_value([1, 2], schema.INT32, (2,)))
    _constant(block, "table", tensor_value([float(i) for i in range(160)], schema.FLOAT32, (1, 160)))
    _constant(block, "mask", tensor_value([0.0, -1e4] * 3000, schema.FLOAT16, (60, 100)))
    _constant(block, "indices", tensor_value(list(range(12)), schema.INT32, (12,)))
    _constant(block, "flags", tensor_value([True] * 12, schema.BOOL, (12,)))
    _reference(block, "linear_to_fp16", "linear.weight", (64, 48, 1, 1))
    branch = _use(block, "cond", "z", pred="flags")
    inner = branch.blocks.add()
    _use(inner, "conv", "inner", x="y", weight="linear_to_fp16")
    inner.outputs.extend(["inner", "linear_to_fp16"])
    _reference(block, "small_to_fp16", "small.weight", (32, 64))
    _reference(block, "tiny_to_fp16", "small.bias", (4,))
    _reference(block, "long_to_fp16", "long", (3000,))
    _reference(block, "concepts_to_fp16", "@source/l2_normalize(concepts)", (17, 8))
    block.outputs.append("z")
    return _save(draft), _write(tmp_path / "source", values), values


def _array(package: Path, value: schema.Value) -> Array:
    reader = BlobReader(package / WEIGHT_BIN)
    assert value.blobFileValue.fileName == "@model_path/weights/weight.bin"
    shape = tuple(dimension.constant.size for dimension in value.type.tensorType.dimensions)
    return reader.array(value.blobFileValue.offset, shape)


# -- values ----------------------------------------------------------------------------------------------------


def test_sixteen_bits_are_the_sources_bits(tmp_path: Path) -> None:
    graph, source, values = _everything(tmp_path)
    package, report = _fill(graph, source, tmp_path / "out")
    operations = _operations(package)
    for name, tensor in [
        ("embedding", "embedding.weight"),
        ("conv", "conv.weight"),
        ("bias", "conv.bias"),
        ("long", "long"),
    ]:
        held = _array(package, operations[f"{name}_to_fp16"].attributes["val"])
        assert held.tobytes() == values[tensor].tobytes()
    linear = operations["linear_to_fp16"].attributes["val"]
    assert _array(package, linear).shape == (64, 48, 1, 1)
    assert _array(package, linear).tobytes() == values["linear.weight"].tobytes()
    inline = operations["tiny_to_fp16"].attributes["val"].immediateValue.tensor.bytes.values
    assert inline == values["small.bias"].tobytes()
    concepts = values["concepts"].astype(np.float32)
    expected = (concepts / np.linalg.norm(concepts, axis=-1, keepdims=True)).astype(np.float16)
    assert np.array_equal(_array(package, operations["concepts_to_fp16"].attributes["val"]), expected)
    elements = sum(value.size for name, value in values.items() if not name.startswith("unused."))
    size = (package / WEIGHT_BIN).stat().st_size
    # Blobs: seven tensors (one of the eight is small) and the two large literals.
    assert report == {"weights": {"tensors": 8, "elements": elements, "blobs": 9, "bytes": size}, "palettized": 0}


def test_literals_go_where_coremltools_puts_them(tmp_path: Path) -> None:
    for opset, spec in (("CoreML6", 7), ("CoreML7", 8), ("CoreML8", 9)):
        graph, source, _ = _everything(tmp_path / opset, opset=opset, spec=spec)
        package, _ = _fill(graph, source, tmp_path / opset / "out")
        operations = _operations(package)
        in_file = {
            name: operations[name].attributes["val"].WhichOneof("value") == "blobFileValue"
            for name in ("axes", "table", "mask", "indices", "flags")
        }
        assert in_file == {"axes": False, "table": True, "mask": True, "indices": spec == 9, "flags": False}
        assert np.array_equal(
            _array(package, operations["table"].attributes["val"]), np.arange(160, dtype=np.float32)[None]
        )
        mask = _array(package, operations["mask"].attributes["val"])
        assert np.array_equal(mask.reshape(-1), np.array([0, -1e4] * 3000, np.float16))
        if spec == 9:
            assert np.array_equal(_array(package, operations["indices"].attributes["val"]), np.arange(12))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("opset", "spec"), [("CoreML7", 8), ("CoreML8", 9)])
def test_a_palettized_constant_decompresses_to_its_palette(tmp_path: Path, bits: int, opset: str, spec: int) -> None:
    graph, source, values = _everything(tmp_path, opset=opset, spec=spec)
    package, report = _fill(graph, source, tmp_path / "out", bits=bits)
    operations = _operations(package)
    reader = BlobReader(package / WEIGHT_BIN)
    names = [name for name, operation in operations.items() if operation.type == "constexpr_lut_to_dense"]
    # Not: what gather reads, 2,048 elements, one axis, literals.
    assert names == ["conv_to_fp16_palettized", "linear_to_fp16_palettized"]
    for name, tensor in zip(names, ("conv.weight", "linear.weight"), strict=True):
        operation = operations[name]
        arguments = dict(operation.attributes) | {key: a.arguments[0].value for key, a in operation.inputs.items()}
        expected = palettize(values[tensor], bits)
        if bits > 2:
            lut = reader.array(arguments["lut"].blobFileValue.offset)
            assert arguments["indices"].blobFileValue.offset < arguments["lut"].blobFileValue.offset
        else:  # fewer than ten elements: in the program
            lut = np.frombuffer(arguments["lut"].immediateValue.tensor.bytes.values, np.float16)
        assert np.array_equal(lut, expected.lut)
        dtype, _, _ = reader.record(arguments["indices"].blobFileValue.offset)
        packed = reader.read(arguments["indices"].blobFileValue.offset)
        indices = unpack(packed, bits, values[tensor].size)
        assert np.array_equal(lut[indices], expected.lut[expected.indices].reshape(-1))
        assert dtype == arguments["indices"].type.tensorType.dataType
        assert arguments["name"].immediateValue.tensor.strings.values[0] == name
        assert "val" not in arguments
    consumer = operations["y"]
    assert consumer.inputs["weight"].arguments[0].name == "conv_to_fp16_palettized"
    inner = operations["z"].blocks[0]
    assert inner.operations[0].inputs["weight"].arguments[0].name == "linear_to_fp16_palettized"
    assert list(inner.outputs) == ["inner", "linear_to_fp16_palettized"]
    assert report["palettized"] == 2
    error = {name: palettize(values[name], bits).squared_error for name in ("conv.weight", "linear.weight")}
    expected_snr = [
        [name, pytest.approx(10 * np.log10((values[name].astype(np.float64) ** 2).sum() / error[name]), abs=0.01)]
        for name in error
    ]
    assert report["snr"] == expected_snr
    assert report["lowest_snr"] == min(value for _, value in report["snr"])


def test_a_component_that_is_not_palettized_keeps_its_bits(tmp_path: Path) -> None:
    graph, source, _ = _everything(tmp_path)
    one, _ = _fill(graph, source, tmp_path / "a", bits=6, palettizes=False)
    two, _ = _fill(graph, source, tmp_path / "b", bits=16)
    assert (one / WEIGHT_BIN).read_bytes() == (two / WEIGHT_BIN).read_bytes()
    assert (one / MODEL).read_bytes() == (two / MODEL).read_bytes()


def test_a_constant_of_one_value_has_an_exact_palette(tmp_path: Path) -> None:
    draft = _graph(tmp_path / "graph")
    block = draft.block
    _reference(block, "w", "w", (50, 50))
    source = _write(tmp_path / "source", {"w": np.full((50, 50), 0.3, np.float16)})
    _, report = _fill(_save(draft), source, tmp_path / "out", bits=4)
    assert report["snr"] == [["w", 200.0]]
    assert report["max_palette_error"] == 0.0


def test_a_program_without_large_constants_has_no_weight_file(tmp_path: Path) -> None:
    draft = _graph(tmp_path / "graph")
    block = draft.block
    _reference(block, "w", "w", (3,))
    package, report = _fill(_save(draft), _write(tmp_path / "s", {"w": _random((3,))}), tmp_path / "out")
    assert report["weights"]["blobs"] == 0
    assert not (package / WEIGHT_BIN).parent.exists()
    assert len(json.loads((package / MANIFEST).read_text())["itemInfoEntries"]) == 1


def test_an_fp32_constant_holds_the_rounded_weights(tmp_path: Path) -> None:
    draft = _graph(tmp_path / "graph")
    block = draft.block
    _reference(block, "w", "w", (60, 50), schema.FLOAT32)
    values = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32)
    package, report = _fill(_save(draft), _write(tmp_path / "s", {"w": values}), tmp_path / "out", bits=6)
    held = _array(package, _operations(package)["w"].attributes["val"])
    assert report["palettized"] == 0
    assert held.dtype == np.float32
    assert np.array_equal(held, values.astype(np.float16).astype(np.float32))


# -- bytes -----------------------------------------------------------------------------------------------------


def _bytes(package: Path) -> dict[str, bytes]:
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in package.rglob("*") if path.is_file()}


@pytest.mark.parametrize("bits", [16, 6])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, bits: int) -> None:
    graph, source, values = _everything(tmp_path)
    one, _ = _fill(graph, source, tmp_path / "a", bits=bits)
    two, _ = _fill(graph, source, tmp_path / "b", bits=bits)
    assert _bytes(one) == _bytes(two)
    values["conv.weight"] = values["conv.weight"][::-1]  # as many of each value, elsewhere
    three, _ = _fill(graph, _write(tmp_path / "other", values), tmp_path / "c", bits=bits)
    assert _bytes(three)[MODEL.as_posix()] == _bytes(one)[MODEL.as_posix()]
    assert _bytes(three)[MANIFEST.as_posix()] != _bytes(one)[MANIFEST.as_posix()]


def test_metadata_is_what_was_given(tmp_path: Path) -> None:
    graph, source, _ = _everything(tmp_path)
    package, _ = _fill(graph, source, tmp_path / "out")
    metadata = read_model(package).description.metadata
    assert (metadata.author, metadata.license, metadata.versionString) == ("Somebody", "openrail++", "1")
    assert metadata.shortDescription == "For tests"
    assert dict(metadata.userDefined) == {"a": "1", "b": "2"}


def _component_graph(folder: Path, shapes: Mapping[str, tuple[int, ...]], *, extra: int = 0) -> Path:
    """References to all tensors in order, and `extra` operations between them, as another attention would have."""
    draft = _graph(folder)
    block = draft.block
    for number, (name, shape) in enumerate(shapes.items()):
        _reference(block, f"c{number}_to_fp16", name, shape)
        for more in range(extra):
            _use(block, "relu", f"r{number}_{more}", x=f"c{number}_to_fp16")
    return _save(draft)


@pytest.mark.parametrize("bits", [16, 6])
def test_two_graphs_with_the_same_order_share_their_weight_file(tmp_path: Path, bits: int) -> None:
    source = make_source(tmp_path / "source", "sd15", only=["unet"]) / "unet"
    part = components("sd15", tiny=True)[0]
    shapes = part.shapes(part.config)
    one, _ = _fill(_component_graph(tmp_path / "g1", shapes), source, tmp_path / "a", bits=bits)
    two, _ = _fill(_component_graph(tmp_path / "g2", shapes, extra=3), source, tmp_path / "b", bits=bits)
    assert (one / WEIGHT_BIN).read_bytes() == (two / WEIGHT_BIN).read_bytes()


@pytest.mark.parametrize("folder", ["vae", "text_encoder"])
def test_every_layout_of_a_source_gives_the_same_package(tmp_path: Path, folder: str) -> None:
    part = next(part for part in components("sd15", tiny=True) if part.folder == folder)
    graph = _component_graph(tmp_path / "graph", part.shapes(part.config))
    info = json.loads((graph / "graph.json").read_text())
    (graph / "graph.json").write_text(json.dumps(info | {"ignored": [r"(.*\.)?position_ids"]}))
    layouts = [
        Layout(),
        Layout(dtype="F32"),
        Layout(shards=3),
        Layout(legacy=True),
        Layout(variant=True, legacy=True),
        Layout(kind="bin"),
        Layout(kind="bin", dtype="F32", legacy=True),
    ]
    packages = []
    for number, layout in enumerate(layouts):
        if layout.kind == "bin":
            pytest.importorskip("torch")
        source = make_source(tmp_path / f"s{number}", "sd15", layout=layout, only=[folder]) / folder
        packages.append(_bytes(_fill(graph, source, tmp_path / f"o{number}", bits=6)[0]))
    assert all(package == packages[0] for package in packages[1:])
    values = tensors(part)
    assert sum(value.size for value in values.values()) > 100_000


# -- what is refused -------------------------------------------------------------------------------------------


def _simple(tmp_path: Path, values: Mapping[str, Array], **graph: tuple[int, ...]) -> None:
    draft = _graph(tmp_path / "graph", ignored=("known",))
    block = draft.block
    for name, shape in graph.items():
        _reference(block, f"{name}_to_fp16", name, shape)
    _fill(_save(draft), _write(tmp_path / "source", values), tmp_path / "out", bits=6)


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    values = {f"x{number}": _random((4, 4)) for number in range(5)} | {"known": _random((1,))}
    with pytest.raises(
        BadWeights, match=r"2 of 2 tensors are missing \(a, b\); 5 tensors are not part.*x0, x1, x2 and 2 more"
    ):
        _simple(tmp_path, values, a=(4, 4), b=(4, 4))


def test_tensors_of_another_shape_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"a \(4, 5\) instead of \(5, 4\)") as refused:
        _simple(tmp_path, {"a": _random((4, 5)), "b": _random((4, 1, 4))}, a=(5, 4), b=(4, 4, 1))
    assert "config.json" in refused.value.hint


@pytest.mark.parametrize("bad", [np.inf, np.nan, 70000.0])
def test_values_that_float16_cannot_hold_are_refused_by_name(tmp_path: Path, bad: float) -> None:
    values = np.ones((60, 60), np.float32)
    values[30, 30] = bad
    with pytest.raises(BadWeights, match=r"tensor a of model\.safetensors"):
        _simple(tmp_path, {"a": values}, a=(60, 60))


def test_a_derived_constant_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "TRANSFORMS", {**fill.TRANSFORMS, "negate": lambda values: values + np.float32("inf")})
    draft = _graph(tmp_path / "graph")
    _reference(draft.block, "w_to_fp16", "@source/negate(w)", (4, 4))
    source = _write(tmp_path / "source", {"w": np.ones((4, 4), np.float16)})
    with pytest.raises(BadWeights, match="tensor w cannot be brought into the form"):
        _fill(_save(draft), source, tmp_path / "out")


def test_a_graph_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    draft = _graph(tmp_path / "twice")
    block = draft.block
    _reference(block, "one", "a", (4, 4))
    _reference(block, "two", "a", (4, 4))
    source = _write(tmp_path / "source", {"a": _random((4, 4))})
    with pytest.raises(BadPackage, match="more than once: a"):
        _fill(_save(draft), source, tmp_path / "o1")
    draft = _graph(tmp_path / "unknown")
    block = draft.block
    _reference(block, "one", "@source/exec(a)", (4, 4))
    with pytest.raises(BadPackage, match="names no source tensor"):
        _fill(_save(draft), source, tmp_path / "o2")
    draft = _graph(tmp_path / "integer")
    block = draft.block
    _reference(block, "one", "a", (4, 4), schema.INT32)
    with pytest.raises(BadPackage, match="a type that weights do not have"):
        _fill(_save(draft), source, tmp_path / "o3")
    with pytest.raises(BadPackage, match="is not a graph"):
        _fill(tmp_path / "nowhere", source, tmp_path / "o4")


def test_filling_imports_nothing_heavy() -> None:
    program = (
        "import sys; import hubpub.steps.fill;"
        "heavy = {'torch', 'coremltools', 'diffusers', 'transformers', 'numba', 'safetensors'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


# -- coremltools -----------------------------------------------------------------------------------------------

# Its models leave their temporary folders to the garbage collector, which warns.
leaves_folders = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def network() -> Any:
    """A torch network with every kind of weight, its state dict, and its trace."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("coremltools")

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(90, 48)
            self.linear = torch.nn.Linear(48, 64)
            self.conv = torch.nn.Conv2d(16, 40, 3, padding=1)
            self.norm = torch.nn.LayerNorm(48)
            self.out = torch.nn.Conv2d(40, 4, 1)

        def forward(self, ids: Any, x: Any) -> Any:
            h = self.linear(self.norm(self.embedding(ids)))
            return self.out(torch.relu(self.conv(x))) + h.mean()

    torch.manual_seed(0)
    module = Network().eval()
    traced = torch.jit.trace(module, (torch.zeros(1, 12, dtype=torch.int32), torch.rand(1, 16, 8, 8)))
    state = {name: value.numpy().astype(np.float16) for name, value in module.state_dict().items()}
    return traced, state


@pytest.fixture(scope="module", params=["iOS16", "iOS17", "iOS18"])
def converted(request: pytest.FixtureRequest, network: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """coremltools' conversion, and the graph and source that say the same."""
    import coremltools as ct

    traced, state = network
    folder = tmp_path_factory.mktemp(request.param)
    model = ct.convert(
        traced,
        inputs=[
            ct.TensorType(name="ids", shape=(1, 12), dtype=np.int32),
            ct.TensorType(name="x", shape=(1, 16, 8, 8)),
        ],
        minimum_deployment_target=ct.target[request.param],
        convert_to="mlprogram",
        skip_model_load=True,
    )
    model.save(str(folder / "theirs.mlpackage"))
    return model, folder, _emptied(folder, state), _write(folder / "source", state)


def _emptied(folder: Path, state: Mapping[str, Array]) -> Path:
    """coremltools' package with references in place of what holds a weight, and literals in place of other blobs."""
    package = folder / "theirs.mlpackage"
    model = read_model(package)
    function = model.mlProgram.functions["main"]
    reader = BlobReader(package / WEIGHT_BIN)
    by_bytes = {value.tobytes(): name for name, value in state.items()}
    found = set()
    for operation in function.block_specializations[function.opset].operations:
        if operation.type != "const":
            continue
        value = operation.attributes["val"]
        dtype = value.type.tensorType.dataType
        if value.WhichOneof("value") == "blobFileValue":
            array = reader.array(value.blobFileValue.offset)
        elif dtype == schema.FLOAT16 and value.immediateValue.tensor.WhichOneof("value") == "bytes":
            array = np.frombuffer(value.immediateValue.tensor.bytes.values, np.float16)
        else:
            continue
        name = by_bytes.get(array.tobytes())
        if name:
            found.add(name)
            value.blobFileValue.fileName = str(Reference(tensor=name))
            value.blobFileValue.offset = 0
        elif value.WhichOneof("value") == "blobFileValue":
            sizes = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
            value.CopyFrom(tensor_value(array.tolist(), dtype, sizes))
    assert found == set(state)
    (folder / "graph").mkdir()
    Graph(model=model, info=GraphInfo(component="unet", params={})).save(folder / "graph")
    return folder / "graph"


@pytest.mark.parametrize("sizes", [(1,), (32,), (11, 33), (64, 1000)])
def test_a_weight_file_is_laid_out_as_coremltools_lays_it_out(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    storage = pytest.importorskip("coremltools.libmilstoragepython")
    theirs = storage._BlobStorageWriter(str(tmp_path / "theirs.bin"))
    with BlobWriter(tmp_path / "ours.bin") as ours:
        for size in sizes:
            halves, bytes_ = _random((size,)), np.arange(size, dtype=np.uint8)
            assert ours.add(schema.FLOAT16, halves) == theirs.write_fp16_data(halves.view(np.uint16))
            assert ours.add(schema.UINT8, bytes_) == theirs.write_uint8_data(bytes_)
    del theirs  # this is how it closes its file
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()


@leaves_folders
def test_sixteen_bits_are_coremltools_bytes(converted: Any) -> None:
    _, folder, graph, source = converted
    package, _ = _fill(graph, source, folder / "sixteen")
    theirs = folder / "theirs.mlpackage"
    assert (package / WEIGHT_BIN).read_bytes() == (theirs / WEIGHT_BIN).read_bytes()
    assert read_model(package).mlProgram == read_model(theirs).mlProgram


def _our_palette(bits: int) -> Any:
    def lut_function(weight: Array) -> tuple[Array, Array]:
        palette = palettize(weight, bits)
        return palette.lut, palette.indices.reshape(-1)

    return lut_function


@leaves_folders
@pytest.mark.parametrize("bits", [8, 6, 4, 2, 1])
def test_palettized_bytes_are_coremltools_bytes(converted: Any, bits: int) -> None:
    """coremltools palettizes its own model with our tables: it stores them as fill does."""
    import coremltools.optimize.coreml as cto

    model, folder, graph, source = converted
    config = cto.OpPalettizerConfig(mode="custom", lut_function=_our_palette(bits), weight_threshold=2048)
    theirs = cto.palettize_weights(
        model, cto.OptimizationConfig(global_config=config, op_type_configs={"gather": None})
    )
    theirs.save(str(folder / f"theirs{bits}.mlpackage"))
    package, report = _fill(graph, source, folder / f"ours{bits}", bits=bits)
    assert report["palettized"] == 2
    their_operations = _operations(folder / f"theirs{bits}.mlpackage")
    ours = {
        name: operation for name, operation in _operations(package).items() if operation.type.startswith("constexpr")
    }
    assert len(ours) == 2
    theirs_bytes = (folder / f"theirs{bits}.mlpackage" / WEIGHT_BIN).read_bytes()
    assert (package / WEIGHT_BIN).read_bytes() == theirs_bytes
    for name, operation in ours.items():
        assert operation == their_operations[name]


@leaves_folders
def test_coremltools_reads_and_decompresses_our_package(converted: Any) -> None:
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    _, folder, graph, source = converted
    package, _ = _fill(graph, source, folder / "decompressed", bits=6)
    model = ct.models.MLModel(str(package), skip_model_load=True)
    assert model.author == "Somebody"
    cto.decompress_weights(model).save(str(folder / "dense.mlpackage"))
    dense = _operations(folder / "dense.mlpackage")
    state = dict(zip(*_source_values(source), strict=True))
    checked = 0
    for name, operation in dense.items():
        value = operation.attributes["val"]
        if operation.type == "const" and value.WhichOneof("value") == "blobFileValue":
            held = BlobReader(folder / "dense.mlpackage" / WEIGHT_BIN).array(value.blobFileValue.offset)
            for tensor in ("conv.weight", "linear.weight"):
                if tensor.replace(".", "_") in name:
                    expected = palettize(state[tensor], 6)
                    assert np.array_equal(held, expected.lut[expected.indices].reshape(-1))
                    checked += 1
    assert checked == 2


def _source_values(source: Path) -> tuple[list[str], list[Array]]:
    from hubpub.checkpoints.weights import open_weights

    weights = open_weights([source / "model.safetensors"])
    return list(weights), [np.asarray(weights[name]) for name in weights]
