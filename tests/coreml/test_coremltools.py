"""Packages by coremltools: compiled, read back and described. Slow: it converts models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("coremltools")

from hubpub.coreml.bundle import belongs, read_bundle
from hubpub.coreml.compiler import compile_bundle
from hubpub.coreml.package import read_model
from tests.support.coreml_models import MODELS, save

pytestmark = [
    pytest.mark.slow,
    # coremltools leaves the removal of its temporary folders to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Model → (storage precision, histogram, what is marked as never compared)
EXPECTED: dict[str, tuple[str, dict[str, int], tuple[str, ...]]] = {
    "attention_ios16": (
        "Float16",
        {"Concat": 1, "Ios16.conv": 1, "Ios16.einsum": 2, "Ios16.gelu": 1, "Ios16.softmax": 1, "Transpose": 1},
        (),
    ),
    "linear_ios15": ("Float16", {"Cast": 2, "Linear": 1}, ()),
    "linear_ios16": ("Float16", {"Ios16.linear": 2, "Ios16.relu": 1}, ()),
    "linear_ios17": ("Float16", {"Ios16.relu": 1, "Ios17.linear": 2}, ()),
    "linear_ios18": ("Float16", {"Ios18.linear": 2, "Ios18.relu": 1}, ()),
    "palette_6bit_ios16": (
        "Mixed (Float16, Palettized (6 bits))",
        {"Ios16.constexprLutToDense": 2, "Ios16.linear": 2, "Ios16.relu": 1},
        (),
    ),
    "palette_1bit_ios16": (
        "Mixed (Float16, Palettized (1 bits))",
        {"Ios16.constexprLutToDense": 2, "Ios16.linear": 2, "Ios16.relu": 1},
        ("the name of 1-bit palettes in metadata.json",),
    ),
    "palette_4bit_ios18": (
        "Mixed (Float16, Palettized (4 bits))",
        {"Ios18.constexprLutToDense": 2, "Ios18.linear": 2, "Ios18.relu": 1},
        ("the compression operations of iOS 18",),
    ),
    "palette_3bit_ios18": (
        "Mixed (Float16, Palettized (3 bits))",
        {"Ios18.constexprLutToDense": 2, "Ios18.linear": 2, "Ios18.relu": 1},
        ("the compression operations of iOS 18", "the name of 3-bit palettes in metadata.json"),
    ),
    "int8_ios16": (
        "Mixed (Float16, Int8)",
        {"Ios16.constexprAffineDequantize": 2, "Ios16.linear": 2, "Ios16.relu": 1},
        (),
    ),
    "int4_ios18": (
        "Mixed (Float16, Int4)",
        {"Ios18.constexprBlockwiseShiftScale": 2, "Ios18.linear": 2, "Ios18.relu": 1},
        ("the compression operations of iOS 18",),
    ),
    "sparse_ios16": (
        "Mixed (Float16, Sparse)",
        {"Ios16.constexprSparseToDense": 2, "Ios16.linear": 2, "Ios16.relu": 1},
        (),
    ),
    "sparse_ios18": (
        "Mixed (Float16, Sparse)",
        {"Ios18.constexprSparseToDense": 2, "Ios18.linear": 2, "Ios18.relu": 1},
        ("the compression operations of iOS 18", "the histogram keys Ios18.constexprSparseToDense in metadata.json"),
    ),
    "flexible_ios17": ("Float16", {"Ios17.linear": 1}, ()),
    "nested_ios16": (
        "",
        {
            "Ios16.add": 2,
            "Ios16.cond": 1,
            "Ios16.greater": 1,
            "Ios16.less": 1,
            "Ios16.mul": 1,
            "Ios16.reduceSum": 1,
            "Ios16.sub": 1,
            "Ios16.whileLoop": 1,
        },
        ("nested blocks", "the histogram keys Ios16.cond, Ios16.greater, Ios16.less, Ios16.whileLoop in metadata.json"),
    ),
    "functions_ios18": ("Float16", {"Ios18.linear": 2, "Ios18.relu": 1}, ("several functions",)),
}


@pytest.mark.parametrize("name", [*MODELS, "functions_ios18"])
def test_every_form_compiles_and_reads_back(name: str, tmp_path: Path) -> None:
    package = save(name, tmp_path)
    result = compile_bundle(package, tmp_path / f"{name}.mlmodelc", stem=name)
    bundle = read_bundle(result.bundle)
    model = read_model(package)
    assert belongs(bundle, package)
    assert bundle.spec_version == model.specificationVersion
    assert sorted(bundle.program.functions) == sorted(model.mlProgram.functions)
    for key, function in model.mlProgram.functions.items():
        source, read = (one.block_specializations[function.opset] for one in (function, bundle.program.functions[key]))
        assert read.SerializeToString(deterministic=True) == source.SerializeToString(deterministic=True)
    document = json.loads((result.bundle / "metadata.json").read_text())[0]
    assert document["mlProgramOperationTypeHistogram"] == bundle.histogram
    assert document.get("storagePrecision", "") == bundle.storage_precision
    assert (bundle.storage_precision, bundle.histogram, result.unverified) == EXPECTED[name]


def test_the_models_are_those_that_a_mac_compares() -> None:
    script = Path(__file__).parents[1] / "macos" / "compare_compilers.py"
    assert 'NAMES = (*MODELS, "functions_ios18")' in script.read_text()
    assert [*MODELS, "functions_ios18"] == list(EXPECTED)
