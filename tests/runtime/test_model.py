"""The runtime: loading, declared features, checks on inputs, control flow, states, attention in pieces."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.values import string_value, tensor_type, tensor_value
from hubpub.errors import BadInput, BadPackage, ConfigError, ModelError, ToolMissing, UnsupportedOps
from tests.support import mil_models as mil

torch = pytest.importorskip("torch", reason="the runtime needs torch")

from hubpub.runtime import Model, attention_tiles, load, psnr  # noqa: E402

F16, F32, I32, BOOL = schema.FLOAT16, schema.FLOAT32, schema.INT32, schema.BOOL


def ints(*values: int) -> schema.Value:
    return tensor_value(values, I32, (len(values),))


def scalar(value: float, dtype: int = F32) -> schema.Value:
    return tensor_value([value], dtype)


def program(
    folder: Path,
    operations: Sequence[schema.Operation],
    *,
    inputs: Mapping[str, tuple[int, ...]],
    output: tuple[str, tuple[int, ...]],
    dtype: int = F32,
    opset: str = "CoreML7",
    blobs: Sequence[tuple[int, Any]] = (),
) -> Path:
    """A package with one function over tensors of one dtype."""
    kinds = {name: tensor_type(dtype, shape) for name, shape in inputs.items()}
    array = mil.ARRAY.FLOAT16 if dtype == F16 else mil.ARRAY.FLOAT32
    name, shape = output
    model = mil.model(
        {"main": mil.function(mil.block(operations, [name]), opset=opset, **kinds)},
        inputs=[mil.feature(given, size, dtype=array) for given, size in inputs.items()],
        outputs=[mil.feature(name, shape, dtype=array)],
    )
    return mil.save_package(folder / "m.mlpackage", model, blobs)


def test_predict_and_features(tmp_path: Path) -> None:
    package = mil.weighted_package(tmp_path / "m.mlpackage")
    with load(package) as model:
        (given,), (made,) = model.inputs.values(), model.outputs.values()
        assert (given.name, given.shape, given.dtype) == ("x", (8,), np.float16)
        assert (made.name, made.shape, made.dtype) == ("y", (8,), np.float16)
        y = model.predict({"x": np.ones(8)})["y"]
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, np.arange(8) + 1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "x is missing"),
        ({"x": np.zeros(8), "z": np.zeros(8)}, "z is not an input"),
        ({"x": np.zeros(7)}, r"shape \(7,\); the model declares \(8,\)"),
        ({"x": np.zeros((1, 8))}, r"shape \(1, 8\)"),
        ({"x": np.zeros(8, complex)}, "dtype complex128"),
        ({"x": np.array(["a"] * 8)}, "dtype <U1"),
        ({"x": [1.0, [2.0]]}, "is not an array"),
    ],
)
def test_bad_inputs(tmp_path: Path, given: dict[str, Any], sentence: str) -> None:
    model = load(mil.weighted_package(tmp_path / "m.mlpackage"))
    with pytest.raises(BadInput, match=sentence):
        model.predict(given)


def test_inputs_are_converted_as_core_ml_does(tmp_path: Path) -> None:
    kind = tensor_type(I32, (3,))
    body = mil.block([mil.operation("identity", {"y": kind}, {"x": "x"})], ["y"])
    model = mil.model(
        {"main": mil.function(body, x=kind)},
        inputs=[mil.feature("x", (3,), dtype=mil.ARRAY.INT32)],
        outputs=[mil.feature("y", (3,), dtype=mil.ARRAY.INT32)],
    )
    loaded = load(mil.save_package(tmp_path / "m.mlpackage", model))
    np.testing.assert_array_equal(loaded.predict({"x": np.array([1.9, -1.9, 0.0])})["y"], [1, -1, 0])
    np.testing.assert_array_equal(loaded.predict({"x": np.array([True, False, True])})["y"], [1, 0, 1])
    with pytest.raises(BadInput, match="NaN or infinity"):
        loaded.predict({"x": np.array([np.nan, 0, 0])})
    with pytest.raises(BadInput, match="outside the range of int32"):
        loaded.predict({"x": np.array([1 << 40, 0, 0])})


def test_flexible_shapes(tmp_path: Path) -> None:
    kind = tensor_type(F32, (None, 2))
    body = mil.block([mil.operation("relu", {"y": kind}, {"x": "x"})], ["y"])
    model = mil.model(
        {"main": mil.function(body, x=kind)},
        inputs=[mil.feature("x", (1, 2), ranges=[(1, 4), (2, 2)])],
        outputs=[mil.feature("y", ())],
    )
    loaded = load(mil.save_package(tmp_path / "m.mlpackage", model))
    assert loaded.predict({"x": -np.ones((4, 2))})["y"].shape == (4, 2)
    with pytest.raises(BadInput, match=r"shape \(5, 2\); the model declares \(1..4, 2\)"):
        loaded.predict({"x": np.ones((5, 2))})


def test_all_missing_operations_are_listed_at_load(tmp_path: Path) -> None:
    kind = tensor_type(F32, (2,))
    inner = mil.block([mil.operation("nonsense", {"b": kind}, {"x": "x"})], ["b"])
    operations = [
        mil.operation("warp", {"a": kind}, {"x": "x"}),
        mil.operation("cond", {"c": kind}, {"pred": "x"}, blocks=[inner, inner]),
        mil.operation("relu", {"d": kind}, {"x": "a", "slope": scalar(1)}),
        mil.operation("scaled_dot_product_attention", {"y": kind}, {"query": "d", "key": "d", "value": "d"}),
    ]
    package = program(tmp_path, operations, inputs={"x": (2,)}, output=("y", (2,)), opset="CoreML6")
    with pytest.raises(UnsupportedOps) as caught:
        load(package)
    assert caught.value.ops == (
        "nonsense",
        "relu with slope",
        "scaled_dot_product_attention (of iOS 18, in a program for iOS 16)",
        "warp",
    )
    assert all(op in caught.value.message for op in caught.value.ops)


def test_unknown_opset(tmp_path: Path) -> None:
    package = program(tmp_path, [], inputs={"x": (2,)}, output=("x", (2,)), opset="CoreML99")
    with pytest.raises(ModelError, match="opset 'CoreML99'"):
        load(package)


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    model = schema.Model(specificationVersion=4, neuralNetwork=b"")
    package = mil.save_package(tmp_path / "m.mlpackage", model)
    with pytest.raises(ModelError, match="of kind neuralNetwork; hubpub runs ML Programs"):
        load(package)
    with pytest.raises(BadPackage):
        load(tmp_path / "nothing.mlpackage")


def test_choices(tmp_path: Path) -> None:
    package = mil.weighted_package(tmp_path / "m.mlpackage")
    with pytest.raises(ConfigError, match="'bf16' is not a precision"):
        load(package, precision="bf16")
    with pytest.raises(ConfigError, match="'tpu' is not a device"):
        load(package, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ToolMissing, match="no CUDA device"):
            load(package, device="cuda")
    with pytest.raises(ModelError, match="no function 'other'"):
        load(package, function="other")


def test_several_functions(tmp_path: Path) -> None:
    kind = tensor_type(F32, (2,))
    bodies = {
        name: mil.function(mil.block([mil.operation("add", {"y": kind}, {"x": "x", "y": scalar(by)})], ["y"]), x=kind)
        for name, by in (("one", 1.0), ("two", 2.0))
    }
    model = mil.model(bodies)
    for name in bodies:
        model.description.functions.add(name=name, input=[mil.feature("x", (2,))], output=[mil.feature("y", (2,))])
    model.description.defaultFunctionName = "two"
    package = mil.save_package(tmp_path / "m.mlpackage", model)
    zeros = {"x": np.zeros(2)}
    assert load(package).predict(zeros)["y"].tolist() == [2, 2]
    assert load(package, function="one").predict(zeros)["y"].tolist() == [1, 1]
    with pytest.raises(ModelError, match="no function 'main'") as caught:
        load(package, function="main")
    assert "one, two" in caught.value.hint


def test_states(tmp_path: Path) -> None:
    kind = tensor_type(F16, (2,))
    state = schema.ValueType()
    state.stateType.wrappedType.CopyFrom(kind)
    operations = [
        mil.operation("read_state", {"old": kind}, {"input": "total"}),
        mil.operation("add", {"new": kind}, {"x": "old", "y": "x"}),
        mil.operation("write_state", {}, {"input": "total", "data": "new"}),
        mil.operation("read_state", {"y": kind}, {"input": "total"}),
    ]
    model = mil.model(
        {"main": mil.function(mil.block(operations, ["y"]), opset="CoreML8", x=kind, total=state)},
        inputs=[mil.feature("x", (2,), dtype=mil.ARRAY.FLOAT16)],
        outputs=[mil.feature("y", (2,), dtype=mil.ARRAY.FLOAT16)],
    )
    described = model.description.state.add(name="total")
    described.type.stateType.arrayType.shape.extend([2])
    described.type.stateType.arrayType.dataType = mil.ARRAY.FLOAT16
    loaded = load(mil.save_package(tmp_path / "m.mlpackage", model))
    assert [item.name for item in loaded.states] == ["total"]
    with pytest.raises(BadInput, match="has states"):
        loaded.predict({"x": np.ones(2)})
    mine, other = loaded.make_state(), loaded.make_state()
    for expected in (1, 2, 3):
        assert loaded.predict({"x": np.ones(2)}, state=mine)["y"].tolist() == [expected] * 2
    assert other.read("total").tolist() == [0, 0]
    mine.write("total", [5, 6])
    assert loaded.predict({"x": np.ones(2)}, state=mine)["y"].tolist() == [6, 7]
    with pytest.raises(BadInput, match="shape"):
        mine.write("total", [1, 2, 3])


def test_while_loop_and_cond(tmp_path: Path) -> None:
    number, flag = tensor_type(F32), tensor_type(BOOL)
    condition = mil.block([mil.operation("less", {"go": flag}, {"x": "c", "y": scalar(100)})], ["go"], c=number)
    body = mil.block([mil.operation("mul", {"next": number}, {"x": "b", "y": "factor"})], ["next"], b=number)
    large = mil.block([mil.operation("sub", {"p": number}, {"x": "end", "y": scalar(1000)})], ["p"])
    small = mil.block([mil.operation("identity", {"q": number}, {"x": "end"})], ["q"])
    operations = [
        mil.const("factor", scalar(3)),
        mil.operation("while_loop", {"end": number}, {"loop_vars": ["x"]}, blocks=[condition, body]),
        mil.operation("greater", {"big": flag}, {"x": "end", "y": scalar(200)}),
        mil.operation("cond", {"y": number}, {"pred": "big"}, blocks=[large, small]),
    ]
    package = program(tmp_path, operations, inputs={"x": ()}, output=("y", (1,)))
    loaded = load(package)
    assert next(iter(loaded.inputs.values())).shape == ()
    assert loaded.predict({"x": np.float32(1)})["y"].tolist() == [243 - 1000]
    assert loaded.predict({"x": np.float32(50)})["y"].tolist() == [150]


def test_values_are_released_after_their_last_use(tmp_path: Path) -> None:
    kind = tensor_type(F32, (2,))
    operations = [mil.operation("relu", {"v0": kind}, {"x": "x"})]
    operations += [mil.operation("relu", {f"v{i}": kind}, {"x": f"v{i - 1}"}) for i in range(1, 5)]
    operations += [mil.operation("exp", {"unused": kind}, {"x": "v4"})]
    operations += [mil.operation("add", {"y": kind}, {"x": "v4", "y": "x"})]
    model = load(program(tmp_path, operations, inputs={"x": (2,)}, output=("y", (2,))))
    assert [step.release for step in model._program.block.steps] == [
        [], ["v0"], ["v1"], ["v2"], ["v3"], ["unused"], ["v4"],
    ]  # fmt: skip


def test_wrong_shapes_and_failing_operations_are_named(tmp_path: Path) -> None:
    kind = tensor_type(F32, (3,))
    package = program(
        tmp_path, [mil.operation("relu", {"y": kind}, {"x": "x"})], inputs={"x": (2,)}, output=("y", (3,))
    )
    with pytest.raises(ModelError, match=r"'y' has shape \(2,\); the program declares \(3,\)"):
        load(package).predict({"x": np.zeros(2)})
    operations = [mil.operation("reshape", {"y": kind}, {"x": "x", "shape": ints(5)})]
    package = program(tmp_path / "b", operations, inputs={"x": (2,)}, output=("y", (3,)))
    with pytest.raises(ModelError, match="operation reshape that computes 'y' failed"):
        load(package).predict({"x": np.zeros(2)})


def test_inconsistent_programs(tmp_path: Path) -> None:
    kind = tensor_type(F32, (2,))
    nothing = mil.operation("relu", {"y": kind}, {"x": "ghost"})
    with pytest.raises(BadPackage, match="'ghost' that no operation computes"):
        load(program(tmp_path / "a", [nothing], inputs={"x": (2,)}, output=("y", (2,))))
    short = mil.const("w", mil.blob_value(F32, (4,), 64))
    with pytest.raises(BadPackage, match="16 bytes of FLOAT32 points to a blob of 8 bytes of FLOAT16"):
        load(
            program(
                tmp_path / "b", [short], inputs={"x": (2,)}, output=("x", (2,)), blobs=[(F16, np.zeros(4, np.float16))]
            )
        )
    outside = mil.const("w", mil.blob_value(F32, (4,), 64, file="@model_path/../../secret"))
    with pytest.raises(BadPackage, match="not inside the package"):
        load(program(tmp_path / "c", [outside], inputs={"x": (2,)}, output=("x", (2,))))
    with pytest.raises(BadPackage, match="does not compute the declared output y"):
        load(_without_output(tmp_path / "d"))


def _without_output(folder: Path) -> Path:
    kind = tensor_type(F32, (2,))
    model = mil.model(
        {"main": mil.function(mil.block([], ["x"]), x=kind)},
        inputs=[mil.feature("x", (2,))],
        outputs=[mil.feature("y", (2,))],
    )
    return mil.save_package(folder / "m.mlpackage", model)


def test_half_precision_rounds_every_result(tmp_path: Path) -> None:
    """1 + 2⁻¹¹ is no fp16 number: fp16 storage loses it, the fp32 reference keeps it."""
    kind, wide = tensor_type(F16, (1,)), tensor_type(F32, (1,))
    operations = [
        mil.operation("add", {"sum": kind}, {"x": "x", "y": scalar(1, F16)}),
        mil.operation("sub", {"rest": kind}, {"x": "sum", "y": scalar(1, F16)}),
        mil.operation("cast", {"y": wide}, {"x": "rest", "dtype": string_value("fp32")}),
    ]
    package = program(tmp_path, operations, inputs={"x": (1,)}, output=("y", (1,)), dtype=F16)
    x = {"x": np.array([2.0**-11], np.float16)}
    assert load(package, precision="fp16").predict(x)["y"].tolist() == [0.0]
    assert load(package, precision="fp32").predict(x)["y"].tolist() == [2.0**-11]


def attention(folder: Path, form: str, dtype: int) -> Path:
    """softmax(scale·QK + mask)·V as hubpub's three attentions write it."""
    b, h, q, k, d = 2, 3, 10, 7, 4
    equation = string_value

    def kind(*shape: int) -> schema.ValueType:
        return tensor_type(dtype, shape)

    if form == "original":
        inputs = {"q": (b, h, d, q), "k": (b, h, d, k), "v": (b, h, d, k), "m": (b, 1, q, k)}
        scores, out = (b, h, q, k), (b, h, d, q)
        first = ("matmul", {"x": "q0", "y": "k0", "transpose_x": tensor_value([True], BOOL)})
        last = ("matmul", {"x": "v0", "y": "w", "transpose_y": tensor_value([True], BOOL)})
        axis = 3
    elif form == "text":
        inputs = {"q": (b, h, q, d), "k": (b, h, k, d), "v": (b, h, k, d), "m": (1, 1, q, k)}
        scores, out = (b, h, q, k), (b, h, q, d)
        first = ("matmul", {"x": "q0", "y": "k0", "transpose_y": tensor_value([True], BOOL)})
        last = ("matmul", {"x": "w", "y": "v0"})
        axis = -1
    else:
        inputs = {"q": (b, d, 1, q), "k": (b, k, 1, d), "v": (b, d, 1, k), "m": (b, k, 1, q)}
        scores, out = (b, k, 1, q), (b, d, 1, q)
        first = ("einsum", {"values": ["q0", "k0"], "equation": equation("bchq,bkhc->bkhq")})
        last = ("einsum", {"values": ["v0", "w"], "equation": equation("bchk,bkhq->bchq")})
        axis = 1
    operations = [mil.operation("relu", {f"{name}0": kind(*shape)}, {"x": name}) for name, shape in inputs.items()] + [
        mil.operation(first[0], {"s": kind(*scores)}, first[1]),
        mil.operation("mul", {"t": kind(*scores)}, {"x": "s", "y": scalar(0.5, dtype)}),
        mil.operation("add", {"u": kind(*scores)}, {"x": "t", "y": "m0"}),
        mil.operation("softmax", {"w": kind(*scores)}, {"x": "u", "axis": scalar(axis, I32)}),
        mil.operation(last[0], {"y": kind(*out)}, last[1]),
    ]
    return program(folder, operations, inputs=inputs, output=("y", out), dtype=dtype)


@pytest.mark.parametrize("form", ["original", "text", "split_einsum"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("tile", [1, 16, 64, 1 << 20])
def test_tiled_attention_equals_untiled_attention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, precision: str, tile: int
) -> None:
    package = attention(tmp_path, form, F16)
    whole = load(package, precision=precision)
    assert not any(step.plan for step in whole._program.block.steps)  # below MIN_ELEMENTS
    monkeypatch.setattr(attention_tiles, "MIN_ELEMENTS", 1)
    monkeypatch.setattr(attention_tiles, "TILE_ELEMENTS", tile)
    tiled = load(package, precision=precision)
    kinds = {step.type for step in tiled._program.block.steps}
    product = "einsum" if form == "split_einsum" else "matmul"
    assert f"{product}+mul+add+softmax+{product}" in kinds
    generator = np.random.default_rng(0)
    x = {name: generator.standard_normal(item.shape).astype(np.float16) for name, item in whole.inputs.items()}
    expected = whole.predict(x)["y"]
    np.testing.assert_allclose(tiled.predict(x)["y"], expected, rtol=2e-3, atol=1e-3 if precision == "fp16" else 1e-6)
    seen: list[str] = []
    np.testing.assert_array_equal(tiled.predict(x, watch=lambda name, value: seen.append(name))["y"], expected)
    assert seen[-5:] == ["s", "t", "u", "w", "y"]  # `watch` is called with every intermediate value


def test_attention_is_not_tiled_if_its_scores_are_used_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_tiles, "MIN_ELEMENTS", 1)
    kind, out = tensor_type(F32, (1, 1, 5, 5)), tensor_type(F32, (1, 1, 5, 5))
    operations = [
        mil.operation("relu", {"a": kind}, {"x": "x"}),
        mil.operation("matmul", {"s": kind}, {"x": "a", "y": "a"}),
        mil.operation("softmax", {"w": kind}, {"x": "s"}),
        mil.operation("matmul", {"p": out}, {"x": "w", "y": "a"}),
        mil.operation("add", {"y": out}, {"x": "p", "y": "s"}),
    ]
    model = load(program(tmp_path, operations, inputs={"x": (1, 1, 5, 5)}, output=("y", (1, 1, 5, 5))))
    assert not any(step.plan for step in model._program.block.steps)


def test_psnr_is_apples_formula() -> None:
    reference = np.array([1.0, 2.0, 3.0])
    measured = np.array([1.0, 2.0, 5.0])
    noise = np.sqrt(4 / 3)
    assert psnr(reference, measured) == pytest.approx(20 * np.log10((5 + 1e-5) / (noise + 1e-10)))
    assert psnr(measured, reference) == pytest.approx(20 * np.log10((3 + 1e-5) / (noise + 1e-10)))
    assert psnr(reference, reference) > 200
    assert np.isnan(psnr(reference, [1, 2, np.nan]))
    with pytest.raises(ValueError, match="one shape"):
        psnr([1.0], [1.0, 2.0])


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, hubpub.runtime as r; assert 'torch' not in sys.modules; print(sorted(r.__all__))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "load" in out.stdout


def test_a_model_can_be_used_twice(tmp_path: Path) -> None:
    model: Model = load(mil.weighted_package(tmp_path / "m.mlpackage"))
    first = model.predict({"x": np.ones(8)})["y"]
    first[:] = 99
    np.testing.assert_array_equal(model.predict({"x": np.ones(8)})["y"], np.arange(8) + 1)
