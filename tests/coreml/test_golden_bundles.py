"""Compiled bundles against Apple's own: whole pairs, recorded texts, and digests.

The pairs are X.mlpackage and the X.mlmodelc that Apple's compiler made of it. The texts
and digests are of Apple's output for tiny models that the public repository
rebeckerspecialties/mlmodelc-export describes (tests/fixtures: README, PRECISION and
PROVENANCE); the models are rebuilt here from those descriptions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hubpub
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.bundle import belongs, read_bundle, read_bundle_files
from hubpub.coreml.compiler import CompileResult, compile_bundle
from hubpub.coreml.coremldata import read_archive
from hubpub.coreml.parser import parse_program
from hubpub.coreml.printer import print_program
from hubpub.coreml.values import tensor_type, tensor_value
from tests.support.bundle_diff import differences
from tests.support.mil_models import blob_value, block, const, feature, function, model, operation, save_package

PAIRS = ["mnist", "unified_256ms_palette_6bit", "unified_int8", "unified_palette_2bit", "unified_pruned_int8"]
XCODE_26 = {"coremlc-component-MIL": "3520.4.1", "coremlc-version": "3520.5.1"}
XCODE_27 = {"coremlc-component-MIL": "3600.16.1", "coremlc-version": "3600.25.1"}
FP32, FP16, INT32 = schema.FLOAT32, schema.FLOAT16, schema.INT32


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, shared: Path) -> tuple[Path, Path]:
    """A package and the bundle that Apple made of it."""
    folder = shared / "fixtures" / "mlmodelc" / request.param
    return next(folder.glob("*.mlpackage")), next(folder.glob("*.mlmodelc"))


def compile_as(package: Path, folder: Path, build_info: Mapping[str, str]) -> CompileResult:
    return compile_bundle(package, folder / "made.mlmodelc", stem=package.stem, build_info=build_info)


def files(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_the_bundle_is_apples(pair: tuple[Path, Path], tmp_path: Path) -> None:
    package, apples = pair
    versions = read_bundle(apples).build_info
    result = compile_as(package, tmp_path, {key: versions[key] for key in versions if key.startswith("coremlc-")})
    assert differences(result.bundle, apples) == []
    assert (result.bundle / "model.mil").read_bytes() == (apples / "model.mil").read_bytes()
    assert result.compiler == "portable"
    assert result.unverified == ()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.mil", lambda raw: raw.replace(b"reflect", b"replicate", 1)),
        ("model.mil", lambda raw: raw + b"\n"),
        ("coremldata.bin", lambda raw: raw.replace(b"Silero", b"Solero", 1)),
        ("analytics/coremldata.bin", lambda raw: raw.replace(b"model", b"modem", 1)),
        ("metadata.json", lambda raw: raw.replace(b'"Pad" : 1', b'"Pad" : 2', 1)),
        ("weights/weight.bin", lambda raw: raw[:-1] + b"x"),
        ("more", lambda raw: b""),
    ],
    ids=["line", "newline", "description", "hash", "count", "weight", "file"],
)
def test_every_difference_is_found(name: str, damage: Callable[[bytes], bytes], shared: Path, tmp_path: Path) -> None:
    """The comparing itself, on which the runs on a Mac rely."""
    apples = next((shared / "fixtures/mlmodelc/unified_int8").glob("*.mlmodelc"))
    copy = tmp_path / "copy.mlmodelc"
    for path, data in files(apples).items():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(data)
    assert differences(copy, apples) == []
    before = (copy / name).read_bytes() if (copy / name).exists() else b"x"
    after = damage(before)
    assert after != before
    (copy / name).write_bytes(after)
    assert [line.split(":")[0] for line in differences(copy, apples)] == [name]


def test_only_line_two_differs_under_our_own_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    package, apples = pair
    bundle = hubpub.compile_package(package, tmp_path)
    assert bundle == tmp_path / f"{package.stem}.mlmodelc"
    ours = (bundle / "model.mil").read_bytes().split(b"\n")
    theirs = (apples / "model.mil").read_bytes().split(b"\n")
    assert [number for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1) if a != b] == [2]
    assert f'{{"coremlc-component-MIL", "hubpub"}}, {{"coremlc-version", "{hubpub.__version__}"}}'.encode() in ours[1]
    assert read_bundle(bundle).compiler == f"hubpub {hubpub.__version__}"


def test_the_same_package_gives_the_same_bytes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (files(hubpub.compile_package(pair[0], tmp_path / name)) for name in ("a", "b"))
    assert first == second


def test_apples_bundle_reads_back(pair: tuple[Path, Path]) -> None:
    package, apples = pair
    bundle = read_bundle(apples)
    metadata = json.loads((apples / "metadata.json").read_text())[0]
    assert bundle.histogram == metadata["mlProgramOperationTypeHistogram"]
    assert bundle.compute_precision == metadata["computePrecision"]
    assert bundle.storage_precision == metadata.get("storagePrecision", "")
    assert bundle.spec_version == metadata["specificationVersion"]
    assert [(one.name, one.dtype, str(list(one.shape))) for one in bundle.inputs] == [
        (one["name"], one["dataType"], one["shape"]) for one in metadata["inputSchema"]
    ]
    assert [one.name for one in bundle.outputs] == [one["name"] for one in metadata["outputSchema"]]
    assert bundle.compiler.startswith("coremlc 35")
    assert belongs(bundle, package)
    assert belongs(apples, package)


def test_small_files_are_enough_to_read_a_bundle(pair: tuple[Path, Path]) -> None:
    _, apples = pair
    small = {name: data for name, data in files(apples).items() if not name.startswith("weights/")}
    bundle = read_bundle_files(small, name="remote")
    assert bundle.model_hash == read_bundle(apples).model_hash
    assert bundle.weight_files == (("weights/weight.bin",) if (apples / "weights").is_dir() else ())


def test_apples_text_prints_as_it_was(pair: tuple[Path, Path]) -> None:
    text = (pair[1] / "model.mil").read_text()
    spec = read_bundle(pair[1]).spec_version
    assert "".join(print_program(parse_program(text), spec_version=spec, build_info={})) == text


def test_a_bundle_belongs_to_one_package_only(shared: Path) -> None:
    folder = shared / "fixtures" / "mlmodelc"
    packages = [next((folder / name).glob("*.mlpackage")) for name in PAIRS]
    bundles = [next((folder / name).glob("*.mlmodelc")) for name in PAIRS]
    assert [[belongs(bundle, package) for package in packages] for bundle in bundles] == np.eye(len(PAIRS)).tolist()


# Recorded texts and digests -----------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_flexible_input_with_weights(tmp_path: Path) -> None:
    """flexible-weighted-legacy, compiled by coremlc 3600.25.1."""
    ranged = tensor_type(FP32, (None, 4))
    weight = blob_value(FP32, (4,), 64, file="@model_path/weights/weights.bin")
    body = block(
        [const("weight", weight), operation("add", {"output": ranged}, {"x": "input", "y": "weight"})], ["output"]
    )
    described = {name: feature(name, (1, 4), ranges=[(1, 4), (4, 4)]) for name in ("input", "output")}
    source = model({"main": function(body, input=ranged)}, inputs=[described["input"]], outputs=[described["output"]])
    blobs = [(FP32, np.array([2, -3, 5, -7], np.float32))]
    package = save_package(tmp_path / "input.mlpackage", source, blobs, file="weights/weights.bin")
    bundle = compile_as(package, tmp_path, XCODE_27).bundle
    assert sha256(bundle / "model.mil") == "692c9b99e60289d8ecb9ec483192a3590af93f4058491737417dd32bd987aa39"
    assert sha256(bundle / "coremldata.bin") == "a1dc9e411898feb29e3f89ed718878d3af61cfb30b4882cd094488ff4408cfcc"


def around(count: int, operations: list[schema.Operation], constant: str) -> schema.Model:
    kind = tensor_type(FP32, (count,))
    add = operation("add", {"output": kind}, {"x": "input", "y": constant})
    return model(
        {"main": function(block([*operations, add], ["output"]), input=kind)},
        inputs=[feature("input", (count,))],
        outputs=[feature("output", (count,))],
    )


def test_half_precision_subnormals(tmp_path: Path) -> None:
    """fp16-subnormal-cast, compiled by coremlc 3600.25.1."""
    bits = np.array([0x0001, 0x00A8, 0x03FF, 0x0400, 0x80A8], np.uint16).view(np.float16)
    half = const("half", tensor_value(bits.tolist(), FP16, (5,)))
    to = tensor_value(["fp32"], schema.STRING)
    cast = operation("cast", {"constant": tensor_type(FP32, (5,))}, {"dtype": to, "x": "half"})
    package = save_package(tmp_path / "input.mlpackage", around(5, [half, cast], "constant"))
    bundle = compile_as(package, tmp_path, XCODE_27).bundle
    assert sha256(bundle / "model.mil") == "5bd7193263c0afd46f0121522946193adc48a027ca784b842f83ad2a173f5c75"
    assert sha256(bundle / "coremldata.bin") == "f1df53cf37b1d6e1e74b2ecf71bedcb25f581ed56b051de9a3a8c8dc374dceff"
    document = json.loads((bundle / "metadata.json").read_text())[0]
    assert document["mlProgramOperationTypeHistogram"] == {"Ios17.add": 1, "Ios17.cast": 1}
    assert document["computePrecision"] == "Mixed (Float16, Float32)"


def test_typed_quantization_parameters(tmp_path: Path) -> None:
    """quantized-constexpr, compiled by coremlc 3600.25.1."""
    attributes = {
        "zero_point": tensor_value([-1], schema.INT8),
        "scale": tensor_value([0.5], FP32),
        "quantized_data": blob_value(schema.INT8, (4,), 64, file="@model_path/weights/weights.bin"),
        "axis": tensor_value([0], INT32),
    }
    weight = operation("constexpr_affine_dequantize", {"constant": tensor_type(FP32, (4,))}, attributes=attributes)
    package = save_package(
        tmp_path / "input.mlpackage",
        around(4, [weight], "constant"),
        [(schema.INT8, np.array([-128, -1, 0, 127], np.int8))],
        file="weights/weights.bin",
    )
    (weights,) = package.rglob("weights.bin")
    weights.write_bytes(weights.read_bytes().ljust(192, b"\0"))  # whoever wrote that package pads the last blob
    bundle = compile_as(package, tmp_path, XCODE_27).bundle
    assert sha256(bundle / "weights/weights.bin") == "08201fd09931b7942ff512dce33403d3565d13524ca51c3e0bdbf73dbd55d87e"
    assert sha256(bundle / "model.mil") == "7c883a45ccf6928213051322ec4cd09b94f03054ef860b290830e06ba2a38cbe"
    assert sha256(bundle / "coremldata.bin") == "f3600551033ee25001fa58f8f84de6bb2ea28eccd0fe536043d46f1923a066d6"
    document = json.loads((bundle / "metadata.json").read_text())[0]
    assert document["storagePrecision"] == "Int8"
    assert document["computePrecision"] == "Float32"
    assert document["mlProgramOperationTypeHistogram"] == {"Ios16.constexprAffineDequantize": 1, "Ios17.add": 1}


FLEXIBLE = (
    "[FlexibleShapeInformation = tuple<tuple<string, dict<string, tensor<int32, [?]>>>, "
    "tuple<string, dict<string, list<tensor<int32, [2]>, ?>>>>"
    '((("DefaultShapes", {{"%s", %s}}), ("RangeDims", {{"%s", %s}})))]'
)


def test_several_functions(tmp_path: Path) -> None:
    """flexible-multifunction, compiled by coremlc 3600.25.1; the second function is the default."""
    kind = tensor_type(FP32, (None,))
    relu = function(
        block([operation("relu", {"output": kind}, {"x": "input"})], ["output"]), opset="CoreML8", input=kind
    )
    source = model({"first": relu, "second": relu})
    for name, size, text in (("first", 4, ""), ("second", 2, "the default")):
        described = source.description.functions.add(name=name)
        described.input.append(feature("input", (size,), ranges=[(0, 4)], text=text))
        described.output.append(feature("output", (4,), ranges=[(0, 4)]))
    source.description.defaultFunctionName = "second"
    result = compile_as(save_package(tmp_path / "input.mlpackage", source), tmp_path, XCODE_27)
    line = "    func %s<ios18>(tensor<fp32, [?]> input) " + FLEXIBLE + " {"
    assert (result.bundle / "model.mil").read_text() == "\n".join(
        [
            "program(1.3)",
            '[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3600.16.1"}, '
            '{"coremlc-version", "3600.25.1"}})]',
            "{",
            line % ("first", "input", "[4]", "input", "[[0, 4]]"),
            "            tensor<fp32, [?]> output = relu(x = input);",
            "        } -> (output);",
            line % ("second", "input", "[2]", "input", "[[0, 4]]"),
            "            tensor<fp32, [?]> output = relu(x = input);",
            "        } -> (output);",
            "}",
        ]
    )
    document = json.loads((result.bundle / "metadata.json").read_text())[0]
    first, second = document["functions"]
    assert document["defaultFunctionName"] == "second"
    assert document["inputSchema"] == second["inputSchema"] == [flexible_entry("input", 2, text="the default")]
    assert document["outputSchema"] == second["outputSchema"] == first["outputSchema"] == [flexible_entry("output", 4)]
    assert first == {
        "name": "first",
        "computePrecision": "Float32",
        "mlProgramOperationTypeHistogram": {"Ios18.relu": 1},
        "inputSchema": [flexible_entry("input", 4)],
        "outputSchema": [flexible_entry("output", 4)],
        "stateSchema": [],
    }
    assert document["mlProgramOperationTypeHistogram"] == {"Ios18.relu": 1}
    assert document["generatedClassName"] == "input"
    assert read_archive((result.bundle / "coremldata.bin").read_bytes(), name="ours").functions == 2
    assert result.unverified == ("several functions",)


def flexible_entry(name: str, size: int, *, text: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "type": "MultiArray",
        "dataType": "Float32",
        "formattedType": f"MultiArray (Float32 {size})",
        "shape": f"[{size}]",
        "shortDescription": text,
        "isOptional": "0",
        "hasShapeFlexibility": "1",
        "shapeFlexibility": "0...4",
        "shapeRange": "[[0, 4]]",
    }


def test_fixed_inputs_beside_flexible_ones(tmp_path: Path) -> None:
    """The frame and the metadata of flexible-gather, compiled by coremlc 3520.5.1: only `indices` is listed."""
    open_, data = tensor_type(INT32, (None, None)), tensor_type(FP32, (3, 2))
    body = block(
        [
            operation("cast", {"index": open_}, {"dtype": tensor_value(["int32"], schema.STRING), "x": "indices"}),
            const("size", tensor_value([3], INT32)),
            operation("maximum", {"high": open_}, {"x": "index", "y": "size"}),
            operation(
                "gather",
                {"output": tensor_type(FP32, (None, None, 2))},
                {
                    "x": "data",
                    "indices": "high",
                    "axis": tensor_value([0], INT32),
                    "validate_indices": tensor_value([False], schema.BOOL),
                },
            ),
        ],
        ["output"],
    )
    source = model(
        {"main": function(body, indices=open_, data=data)},
        inputs=[
            feature("data", (3, 2)),
            feature("indices", (2, 4), dtype=schema.ArrayFeatureType.INT32, ranges=[(0, 2), (0, 4)]),
        ],
        outputs=[feature("output", (2, 4, 2), ranges=[(0, 2), (0, 4), (2, 2)])],
    )
    bundle = compile_as(save_package(tmp_path / "input.mlpackage", source), tmp_path, XCODE_26).bundle
    lines = (bundle / "model.mil").read_text().splitlines()
    assert lines[3] == (
        "    func main<ios17>(tensor<fp32, [3, 2]> data, tensor<int32, [?, ?]> indices) "
        + FLEXIBLE % ("indices", "[2, 4]", "indices", "[[0, 2], [0, 4]]")
        + " {"
    )
    assert lines[4:8] == [
        '            tensor<int32, [?, ?]> index = cast(dtype = string("int32"), x = indices);',
        "            int32 size = const()[val = int32(3)];",
        "            tensor<int32, [?, ?]> high = maximum(x = index, y = size);",
        "            tensor<fp32, [?, ?, 2]> output = "
        "gather(axis = int32(0), indices = high, validate_indices = bool(false), x = data);",
    ]
    document = json.loads((bundle / "metadata.json").read_text())[0]
    assert document["mlProgramOperationTypeHistogram"] == {"Ios17.cast": 1, "Ios17.gather": 1, "Ios17.maximum": 1}
    assert document["computePrecision"] == "Mixed (Float32, Int32)"
    assert document["outputSchema"][0]["shapeFlexibility"] == "0...2 × 0...4 × 2"
    assert document["outputSchema"][0]["shapeRange"] == "[[0, 2], [0, 4], [2, 2]]"
    assert document["inputSchema"][1]["formattedType"] == "MultiArray (Int32 2 × 4)"
