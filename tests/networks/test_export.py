"""export: interfaces and operations as Apple's converter emits them, no weights, and a proof that catches faults."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hubpub import runtime
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import WEIGHT_BIN, read_model
from hubpub.coreml.weight_file import BlobReader
from hubpub.errors import BadWeights, Unproven
from hubpub.graph import Graph, Reference, main_block
from hubpub.nets import lowering, networks, weightless
from hubpub.nets.clip import SelfAttention
from hubpub.steps import export, fill, plain
from hubpub.steps.step import canonical
from tests.support.tiny_modules import FOLDERS, params, psnr, state

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder", "safety_checker")

# Operations that we emit more (+) or less (-) often than Apple's converter, and why. Constants are not counted.
DIFFERENCES: Mapping[str, Mapping[str, int]] = {
    "text_encoder": {},
    # The sinusoids are made in fp32 (a cast there, a cast back), with the cosines first at once, and get their two
    # axes of length 1 in one operation.
    "unet": {"cast": 2, "slice_by_index": -2, "concat": -1, "expand_dims": -1},
    # One head needs no splitting and merging of heads: no transposes, an axis of length 1 instead.
    "vae_decoder": {"transpose": -4, "reshape": -4, "expand_dims": 3, "squeeze": 1},
    "vae_encoder": {"transpose": -4, "reshape": -4, "expand_dims": 3, "squeeze": 1},
}
# Of the second generation, only the text encoder has other operations.
RECORDED = [*((name, 1) for name in COMPONENTS), ("text_encoder", 2)]
_REFERENCE_RUNS = {1: "sd1-orig", 2: "sd2-orig"}


def graph(component: str, generation: int = 1, **knobs: Any) -> Graph:
    """The exported graph of a tiny component; each is made once."""
    return _graph(canonical(params(component, generation, **knobs)))


@functools.cache
def _graph(given: bytes) -> Graph:
    torch.set_num_threads(1)
    return weightless.export(json.loads(given))


def histogram(model: schema.Model) -> Counter[str]:
    return Counter(operation.type for operation in main_block(model).operations)


@functools.cache
def _reference(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    packages = json.loads(path.read_text(encoding="utf-8"))["packages"]
    return {(package["run"], package["component"]): package for package in packages}


@pytest.fixture
def apple(shared: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What Apple's converter emitted for tiny sources, by (run, component)."""
    return _reference(shared / "apple_reference.json")


def _features(described: Any) -> list[tuple[str, list[int], str, str]]:
    kinds = schema.ArrayFeatureType
    return [
        (
            feature.name,
            list(feature.type.multiArrayType.shape),
            kinds.ArrayDataType.Name(feature.type.multiArrayType.dataType),
            feature.shortDescription,
        )
        for feature in described
    ]


@pytest.mark.parametrize(("component", "generation"), RECORDED)
def test_interface_is_apples(apple: Any, component: str, generation: int) -> None:
    record, model = apple[_REFERENCE_RUNS[generation], component], graph(component, generation).model
    for described, features in ((model.description.input, "inputs"), (model.description.output, "outputs")):
        expected = [(f["name"], f["shape"], f["dtype"], f["description"]) for f in record[features]]
        assert _features(described) == expected
    assert model.specificationVersion == record["spec_version"]
    assert model.mlProgram.functions["main"].opset == record["opset"]
    assert model.description.metadata.shortDescription == record["metadata"]["shortDescription"]
    inputs = [
        (f.name, schema.DataType.Name(f.type.tensorType.dataType)) for f in model.mlProgram.functions["main"].inputs
    ]
    assert inputs == [(name, dtype) for name, dtype, _ in record["graph_inputs"]]


@pytest.mark.parametrize(("component", "generation"), [row for row in RECORDED if row[0] in DIFFERENCES])
def test_operations_are_apples_but_for_known_differences(apple: Any, component: str, generation: int) -> None:
    ours = histogram(graph(component, generation).model)
    theirs = Counter(apple[_REFERENCE_RUNS[generation], component]["op_histogram"])
    differences = {kind: ours[kind] - theirs[kind] for kind in ours | theirs if ours[kind] != theirs[kind]}
    differences.pop("const")
    assert differences == DIFFERENCES[component]


@pytest.mark.parametrize(("run", "attention"), [("sd1-split", "split_einsum"), ("sd1-v2", "split_einsum_v2")])
def test_split_attentions_are_apples(apple: Any, run: str, attention: str) -> None:
    ours = histogram(graph("unet", attention=attention).model)
    theirs = Counter(apple[run, "unet"]["op_histogram"])
    assert ours["einsum"] > 0
    differences = {kind: ours[kind] - theirs[kind] for kind in ours | theirs if ours[kind] != theirs[kind]}
    differences.pop("const")
    assert differences == DIFFERENCES["unet"]


def test_a_latent_that_apple_refuses_gets_a_shorter_last_piece() -> None:
    """960 queries: 512 and 448, for each head of each of the three blocks' two attentions that see them."""
    model = graph("unet", attention="split_einsum_v2", latent=(40, 24)).model
    lengths = Counter(
        operation.outputs[0].type.tensorType.dimensions[3].constant.size
        for operation in main_block(model).operations
        if operation.type == "softmax"
    )
    heads, attentions = 2, 6
    assert lengths[512] == lengths[448] == heads * attentions
    assert lengths[960] == 0


@pytest.mark.parametrize("attention", ["split_einsum", "split_einsum_v2"])
def test_einsum_equations_are_apples(attention: str) -> None:
    block = main_block(graph("unet", attention=attention).model)
    texts = {
        operation.outputs[0].name: operation.attributes["val"].immediateValue.tensor.strings.values[0]
        for operation in block.operations
        if operation.type == "const" and operation.attributes["val"].immediateValue.tensor.strings.values
    }
    used = Counter(texts[o.inputs["equation"].arguments[0].name] for o in block.operations if o.type == "einsum")
    assert set(used) == {"bkhc,bchq->bkhq", "bchk,bkhq->bchq"}
    assert len(set(used.values())) == 1


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_weights_but_every_reference(component: str) -> None:
    made = graph(component)
    references, largest = Counter[str](), 0
    for operation in main_block(made.model).operations:
        if operation.type != "const":
            continue
        value = operation.attributes["val"]
        if value.WhichOneof("value") == "blobFileValue":
            references[Reference.parse(value.blobFileValue.fileName).tensor] += 1
        elif value.immediateValue.tensor.WhichOneof("value") in ("floats", "bytes"):
            largest = max(largest, value.immediateValue.tensor.ByteSize())
    ignored = {"vae_decoder": ("encoder.", "quant_conv."), "vae_encoder": ("decoder.", "post_quant_conv.")}
    wanted = {name for name in state(component) if not name.startswith(ignored.get(component, ("-",)))}
    assert set(references) == wanted
    assert set(references.values()) == {1}
    assert made.info.proof["rows_in_order"] == made.info.proof["columns_in_order"] == len(wanted)
    assert largest <= 77 * 77 * 2 + 16, "the causal mask is the largest literal"


def test_the_same_params_give_the_same_bytes(tmp_path: Path) -> None:
    texts = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        measured = export.run(params("text_encoder"), {}, folder)
        assert measured["references"] == 52
        json.dumps(measured)
        texts.append({path.name: path.read_bytes() for path in folder.iterdir()})
        weightless.export(params("vae_encoder"))  # what is made in between leaves no trace
    assert texts[0] == texts[1]
    assert Graph.load(tmp_path / "first").info.params == params("text_encoder")


@pytest.mark.parametrize(("target", "version", "opset"), [("macOS14", 8, "CoreML7"), ("macOS15", 9, "CoreML8")])
@pytest.mark.parametrize(
    "component",
    [
        "text_encoder",
        "safety_checker",
        pytest.param("vae_encoder", marks=pytest.mark.slow),
    ],
)
def test_newer_targets(apple: Any, component: str, target: str, version: int, opset: str) -> None:
    model = graph(component, target=target).model
    assert (model.specificationVersion, model.mlProgram.functions["main"].opset) == (version, opset)
    if (record := apple.get(("sd1-orig-ios17", component))) and target == "macOS14" and component in DIFFERENCES:
        ours, theirs = histogram(model), Counter(record["op_histogram"])
        differences = {kind: ours[kind] - theirs[kind] for kind in ours | theirs if ours[kind] != theirs[kind]}
        differences.pop("const")
        assert differences == DIFFERENCES[component]


# -- the proof ------------------------------------------------------------------------------------------------


def test_a_planted_transpose_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Transposed(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.weight.T, self.bias)

    original = SelfAttention.__init__

    def planted(self: Any, config: Any) -> None:
        original(self, config)
        self.k_proj = Transposed(64, 64, device="meta")

    monkeypatch.setattr(SelfAttention, "__init__", planted)
    with pytest.raises(Unproven, match=r"k_proj"):
        weightless.export(params("text_encoder"))


def test_planted_permutations_of_single_axes_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for axis in (0, 1):

        class Flipped(torch.nn.Linear):
            axis = 0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.nn.functional.linear(x, self.weight.flip(self.axis), self.bias)

        Flipped.axis = axis
        original = SelfAttention.__init__

        def planted(self: Any, config: Any, layer: type = Flipped, original: Any = original) -> None:
            original(self, config)
            self.k_proj = layer(64, 64, device="meta")

        with monkeypatch.context() as patch:
            patch.setattr(SelfAttention, "__init__", planted)
            with pytest.raises(Unproven):
                weightless.export(params("text_encoder"))


def test_a_duplicated_stand_in_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = weightless._codes
    monkeypatch.setattr(weightless, "_codes", lambda index, count: codes(0 if index == 9 else index, count))
    with pytest.raises(Unproven, match="two begin with the same number"):
        weightless.export(params("text_encoder"))


def test_a_parameter_used_twice_or_never_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.sigmoid(self.fc1(x) @ self.fc1.weight) @ self.fc1.weight.T)

    def never(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    for forward in (twice, never):
        with monkeypatch.context() as patch:
            patch.setattr("hubpub.nets.clip.Mlp.forward", forward)
            with pytest.raises(Unproven):
                weightless.export(params("text_encoder"))


def test_an_unknown_literal_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def shifted(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.fc1(x) + torch.linspace(0, 1, 256))

    monkeypatch.setattr("hubpub.nets.clip.Mlp.forward", shifted)
    with pytest.raises(Unproven, match="neither a parameter nor a known literal"):
        weightless.export(params("text_encoder"))
    assert "known literal" in export.run(params("text_encoder"), {}, tmp_path)["unproven"]
    assert not list(tmp_path.iterdir()), "no graph that could be taken for a proven one"


def test_a_parameter_that_stays_in_fp32_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "_in_half", lambda op: False)
    with pytest.raises(Unproven, match="is float32, not fp16"):
        weightless.export(params("text_encoder"))


def test_a_small_network_that_is_another_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def smaller(given: dict[str, Any]) -> dict[str, Any]:
        return given | {"config": given["config"] | {"num_hidden_layers": 2}}

    monkeypatch.setattr(weightless, "_small", smaller)
    with pytest.raises(Unproven, match="uses its weights in another way"):
        weightless.export(params("text_encoder"))


def _change(tensors: dict[str, torch.Tensor], name: str, fault: str) -> None:
    """Lose, add, reshape or spoil a tensor."""
    match fault:
        case "missing":
            del tensors[name]
        case "unknown":
            tensors["extra.weight"] = torch.zeros(3)
        case "another shape":
            tensors[name] = tensors[name][:-1].clone()
        case _:
            tensors[name] = tensors[name].clone().fill_(float(fault))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("missing", r"1 of 52 tensors are missing \(.*layers\.1\.mlp\.fc1\.bias\)"),
        ("unknown", r"1 tensors are not part of the network \(extra\.weight\)"),
        ("another shape", r"layers\.1\.mlp\.fc1\.bias (is )?\(255,\)(, the network's| instead of) \(256,\)"),
        ("inf", r"tensor .*layers\.1\.mlp\.fc1\.bias of weights\.safetensors holds values that are infinite"),
        ("nan", r"tensor .*layers\.1\.mlp\.fc1\.bias of weights\.safetensors holds values that are infinite"),
        ("70000", r"tensor .*layers\.1\.mlp\.fc1\.bias of weights\.safetensors holds values that are infinite"),
    ],
)
@pytest.mark.parametrize("way", ["graph", "plain"])
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, way: str, fault: str, sentence: str) -> None:
    given = params("text_encoder")
    tensors = {name: tensor.contiguous() for name, tensor in state("text_encoder").items()}
    _change(tensors, next(name for name in tensors if name.endswith("layers.1.mlp.fc1.bias")), fault)
    for name in ("graph", "source", "out"):
        (tmp_path / name).mkdir()
    save_file(tensors, tmp_path / "source" / "weights.safetensors")
    inputs = {"graph": tmp_path / "graph", "source": tmp_path / "source"}
    asked = {"weights": ["weights.safetensors"]}
    if way == "plain":
        convert = partial(plain.run, asked | {"graph": given, "reason": "For a test."})
    else:
        graph("text_encoder").save(inputs["graph"])
        convert = partial(
            fill.run, asked | {"component": "text_encoder", "bits": 16, "palettizes": True, "metadata": {}}
        )
    with pytest.raises(BadWeights, match=sentence):
        convert(inputs, tmp_path / "out")


@pytest.mark.parametrize("numbered", [weightless._numbered_rows, weightless._numbered_columns])
def test_stand_ins_are_distinct_and_exact_in_fp16(numbered: weightless.Numbering) -> None:
    made = [numbered(index, (40, 1280, 3, 3)) for index in range(2000)]
    assert len({float(value.flat[0]) for value in made}) == 2000
    for value in made[::500]:
        assert np.array_equal(value.astype(np.float16).astype(np.float32), value)
        own = value[:, 0, 0, 0] if numbered is weightless._numbered_rows else value[0].ravel()
        assert len(set(own)) == own.size
    assert 0.0 not in {float(value.min()) for value in made[:5]}


# -- against coremltools' own conversion of the same weights ----------------------------------------------------


def _source(folder: Path, component: str, generation: int) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in state(component, generation).items()}
    save_file(tensors, folder / "weights.safetensors")
    return folder


def _filled(folder: Path, component: str, generation: int, **knobs: Any) -> Path:
    for name in ("graph", "source", "out"):
        (folder / name).mkdir()
    graph(component, generation, **knobs).save(folder / "graph")
    fill.run(
        {"component": component, "bits": 16, "palettizes": True, "weights": ["weights.safetensors"], "metadata": {}},
        {"graph": folder / "graph", "source": _source(folder / "source", component, generation)},
        folder / "out",
    )
    return folder / "out" / fill.PACKAGE


def _program(package: Path) -> list[tuple[Any, ...]]:
    """Operations with their arguments; values by number, as names that coremltools makes up count its passes."""
    blobs = BlobReader(package / WEIGHT_BIN)
    numbers: dict[str, int] = {}
    listed: list[tuple[Any, ...]] = []
    for operation in main_block(read_model(package)).operations:
        arguments = {
            name: [numbers.get(b.name, b.name) if b.name else b.value.SerializeToString() for b in argument.arguments]
            for name, argument in operation.inputs.items()
        }
        value = operation.attributes["val"]
        content: Any = value.immediateValue.SerializeToString(deterministic=True)
        if value.WhichOneof("value") == "blobFileValue":
            content = bytes(blobs.read(value.blobFileValue.offset))
        for output in operation.outputs:
            numbers[output.name] = len(numbers)
        types = [output.type.SerializeToString() for output in operation.outputs]
        listed.append((operation.type, sorted(arguments.items()), types, content))
    return listed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("component", "generation", "knobs"),
    [
        ("text_encoder", 1, {}),
        ("text_encoder", 2, {}),
        ("vae_decoder", 1, {}),
        ("vae_encoder", 1, {}),
        ("unet", 1, {}),
        ("unet", 1, {"attention": "split_einsum_v2", "latent": (40, 24)}),
        ("text_encoder", 1, {"target": "macOS14"}),
        ("text_encoder", 1, {"target": "macOS15"}),
        ("vae_encoder", 1, {"target": "macOS15"}),
        ("safety_checker", 1, {"target": "macOS14"}),
        ("safety_checker", 1, {}),
    ],
)
def test_a_filled_graph_is_what_coremltools_makes_of_the_weights(
    tmp_path: Path, component: str, generation: int, knobs: dict[str, Any]
) -> None:
    given = params(component, generation, **knobs)
    # Sources are rounded to fp16 before anything else, as Apple's converter does.
    halved = {name: tensor.half().float() for name, tensor in state(component, generation).items()}
    plain = tmp_path / "plain.mlpackage"
    network = networks.build(given)
    networks.load(network, halved)
    lowering.convert(network, given["target"], plain)
    filled = _filled(tmp_path, component, generation, **knobs)
    ours, theirs = _program(filled), _program(plain)
    assert [step[0] for step in ours] == [step[0] for step in theirs]
    assert ours == theirs
    assert (filled / WEIGHT_BIN).read_bytes() == (plain / WEIGHT_BIN).read_bytes()


@pytest.mark.parametrize(
    ("component", "knobs"),
    [
        ("text_encoder", {}),
        ("unet", {}),
        ("unet", {"attention": "split_einsum"}),
        ("unet", {"attention": "split_einsum_v2", "latent": (40, 24)}),
        ("vae_decoder", {}),
        ("vae_encoder", {}),
        ("safety_checker", {}),
    ],
)
def test_a_filled_graph_computes_what_the_network_does(tmp_path: Path, component: str, knobs: dict[str, Any]) -> None:
    given = params(component, **knobs)
    network = networks.build(given)
    generator = np.random.default_rng(3)
    inputs = {f.name: generator.standard_normal(f.shape).astype(np.float16) for f in network.inputs}
    if component == "unet":
        inputs["timestep"] = np.array([981, 1], np.float16)
    if component == "text_encoder":
        inputs["input_ids"] = generator.integers(0, 999, (1, 77)).astype(np.float32)
    expected = networks.load(network, state(component))(*(torch.from_numpy(x).float() for x in inputs.values()))
    expected = expected if isinstance(expected, tuple) else (expected,)
    with runtime.load(_filled(tmp_path, component, 1, **knobs)) as model:
        got = model.predict(inputs)
    for feature, tensor in zip(network.outputs, expected, strict=True):
        assert got[feature.name].dtype == np.float32
        assert psnr(tensor, torch.from_numpy(got[feature.name])) > 55


def test_pipeline_of_passes_is_known_to_coremltools() -> None:
    assert all(name in lowering.PASS_REGISTRY for name in lowering.PASSES)
    assert set(FOLDERS) < set(COMPONENTS)
