"""The op table: its rows, half precision, compressed constants, and what coremltools' own tests leave open."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import BadPackage
from hubpub.runtime.constants import unpack

torch = pytest.importorskip("torch", reason="the runtime needs torch")

from hubpub.palettize.palette import pack, palettize  # noqa: E402
from hubpub.runtime.ops import OPS, constexpr  # noqa: E402
from hubpub.runtime.ops.resizing import grid  # noqa: E402
from hubpub.runtime.ops.table import Packed  # noqa: E402

HALVES = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16)


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_documents_its_opset_and_reference(name: str) -> None:
    text = inspect.getdoc(OPS[name].run) or ""
    assert re.search(r"\biOS \d\d", text), text
    assert re.search(r"Reference: \w+\.\w+\.\w+", text), text


@pytest.mark.slow
def test_references_resolve_and_no_op_is_missing() -> None:
    pytest.importorskip("coremltools", reason="the reference is coremltools' own op table")
    from importlib import import_module

    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    base = "coremltools.converters.mil.mil.ops.defs"
    for name, op in OPS.items():
        for opset, module, symbol in re.findall(
            r"(iOS\d\d|coreml_dialect)\.(\w+)\.(\w+)", inspect.getdoc(op.run) or ""
        ):
            assert hasattr(import_module(f"{base}.{opset}.{module}"), symbol), (name, symbol)
    # const is no operation here, _const_symbolic is never written, conv_quantized belongs to neural networks
    known = set(SSAOpRegistry.core_ops) - {"const", "_const_symbolic", "conv_quantized"}
    assert known - set(OPS) == set()
    assert set(OPS) - known == {"write_state"}  # how coreml_update_state is written
    for name in known:
        first = min(int(version.value) for version in SSAOpRegistry.core_ops[name])
        assert OPS[name].since == max(15, first + 9), name


@pytest.mark.slow
def test_inputs_are_those_of_coremltools() -> None:
    """Every input that an op has in any opset is a parameter of its function, and required ones are no surprise."""
    pytest.importorskip("coremltools", reason="the reference is coremltools' own op table")
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    for name, op in OPS.items():
        if name not in SSAOpRegistry.core_ops or name in ("cond", "while_loop"):
            continue
        specs = [version.input_spec.input_types for version in SSAOpRegistry.core_ops[name].values()]
        theirs = {parameter for spec in specs for parameter in spec if not parameter.startswith("_")}
        assert theirs - set(op.parameters) - op.injected == set(), name
        for parameter, ours in op.parameters.items():
            if ours.required:
                assert all(parameter in spec and not spec[parameter].optional for spec in specs), (name, parameter)


# fmt: off
UNARY = {
    "abs": {}, "ceil": {}, "clip": {"alpha": -1.5, "beta": 2.25}, "floor": {}, "relu": {}, "relu6": {}, "round": {},
    "sigmoid": {}, "sign": {}, "silu": {}, "square": {}, "threshold": {"alpha": 0.3},
    "thresholded_relu": {"alpha": 0.3},
}
# fmt: on


@pytest.mark.parametrize("name", sorted(UNARY))
def test_native_half_is_one_rounding_of_fp32_for_every_half(name: str) -> None:
    op = OPS[name]
    assert op.half == "native"
    native = op.run(HALVES, **UNARY[name])
    wide = op.run(HALVES.float(), **UNARY[name]).half()
    assert torch.equal(native.nan_to_num(nan=7.0), wide.nan_to_num(nan=7.0))
    assert torch.equal(native.isnan(), wide.isnan())


@pytest.mark.parametrize("name", ["add", "sub", "mul", "real_div", "maximum", "minimum"])
def test_native_half_of_two_is_one_rounding_of_fp32(name: str) -> None:
    op = OPS[name]
    assert op.half == "native"
    generator = torch.Generator().manual_seed(0)
    finite = HALVES[HALVES.isfinite()]
    for y in finite[torch.randint(finite.numel(), (40,), generator=generator)]:
        native, wide = op.run(finite, y), op.run(finite.float(), y.float()).half()
        assert torch.equal(native.nan_to_num(nan=7.0), wide.nan_to_num(nan=7.0))


def test_native_softmax_is_one_rounding_of_fp32() -> None:
    scores = 4 * torch.randn(64, 300, generator=torch.Generator().manual_seed(1))
    for axis in (0, 1):
        native, wide = OPS["softmax"].run(scores.half(), axis), OPS["softmax"].run(scores.half().float(), axis).half()
        # one unit in the last place at most: the order of the sum is the kernel's own
        gap = (native.view(torch.int16).int() - wide.view(torch.int16).int()).abs()
        assert int(gap.max()) <= 1
        assert float((gap > 0).float().mean()) < 0.05


def test_all_native_rows_are_tested() -> None:
    native = {name for name, op in OPS.items() if op.half == "native"}
    assert native == set(UNARY) | {"add", "sub", "mul", "real_div", "maximum", "minimum", "softmax"}


@settings(deadline=None)  # the first call compiles
@given(st.sampled_from([1, 2, 3, 4, 6, 8]), st.data())
def test_packed_constants_are_unpacked(bits: int, data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=40)), np.uint8)
    flags = np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :bits]
    raw = np.packbits(flags.reshape(-1), bitorder="little")
    np.testing.assert_array_equal(unpack(raw, bits, codes.shape), codes)
    signed = codes.astype(np.int16) - ((codes >> (bits - 1)).astype(np.int16) << bits)
    np.testing.assert_array_equal(unpack(raw, bits, codes.shape, signed=True), signed)
    table = np.arange(1 << bits, dtype=np.float16) * 0.5
    np.testing.assert_array_equal(constexpr.look_up(raw, bits, table, codes.size), table[codes])


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_palettized_weights_are_what_palettize_meant(bits: int) -> None:
    weight = np.random.default_rng(bits).standard_normal((5, 7, 3)).astype(np.float16)
    palette = palettize(weight, bits)
    raw = np.frombuffer(pack(palette.indices, bits), np.uint8)
    dense = constexpr.constexpr_lut_to_dense(Packed(raw, 0, raw.shape), palette.lut, shape=weight.shape)
    assert dense.dtype == np.float16
    np.testing.assert_array_equal(dense, palette.lut[palette.indices])


def test_grouped_and_vector_tables_follow_the_documented_examples() -> None:
    codes = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    lut = np.array([1, 5, 9, 13, 2, 10, 18, 26], np.float16).reshape(2, 1, 4, 1)
    dense = constexpr.constexpr_lut_to_dense(Packed(codes, 0, codes.shape), lut)
    np.testing.assert_array_equal(dense, [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]])
    codes = np.array([0, 0, 1, 0, 1, 1, 0, 0], np.uint8).reshape(2, 2, 2)
    lut = np.array([1, 2, 3, 7, 8, 9], np.int8).reshape(1, 1, 1, 2, 3)
    a, b = [1, 2, 3], [7, 8, 9]
    dense = constexpr.constexpr_lut_to_dense(Packed(codes, 0, codes.shape), lut, vector_axis=2)
    np.testing.assert_array_equal(dense, [[[*a, *a], [*b, *a]], [[*b, *b], [*a, *a]]])
    dense = constexpr.constexpr_lut_to_dense(Packed(codes, 0, codes.shape), lut, vector_axis=1)
    columns = [np.stack([np.array(a + b), np.array(a + a)], 1), np.stack([np.array(b + a), np.array(b + a)], 1)]
    np.testing.assert_array_equal(dense, columns)


def test_constants_that_contradict_themselves() -> None:
    with pytest.raises(BadPackage, match="not 9 codes of 2 bits"):
        constexpr.look_up(np.zeros(2, np.uint8), 2, np.zeros(4, np.float16), 9)
    with pytest.raises(BadPackage, match="too few for 3 elements"):
        unpack(np.zeros(1, np.uint8), 6, (3,))
    mask = Packed(np.array([0b101], np.uint8), 0, (1,))
    with pytest.raises(BadPackage, match="3 elements for 2 places"):
        constexpr.constexpr_sparse_to_dense(Packed(np.ones(3, np.float16), 0, (3,)), mask, shape=(8,))


def test_blocks_of_scales() -> None:
    data = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    scale = np.array([[1, 2], [3, 4]], np.float16)
    offset = np.array([[0, 1], [-1, 2]], np.int8)
    dense = constexpr.constexpr_blockwise_shift_scale(Packed(data, 0, data.shape), scale, Packed(offset, 0, (2, 2)))
    wide = np.repeat(np.repeat(scale, 2, 0), 2, 1).astype(np.float32)
    np.testing.assert_array_equal(dense, wide * (data - np.repeat(np.repeat(offset, 2, 0), 2, 1)))


@pytest.mark.parametrize(
    ("mode", "five", "six"),
    [  # the points that the reference gives for two pixels
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1], [0, 0, 1 / 3, 2 / 3, 1, 1]),
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1], [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9], [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12]),
    ],
)
def test_grid_points(mode: str, five: list[float], six: list[float]) -> None:
    for points in (five, six):
        np.testing.assert_allclose(grid(2, len(points), mode).clamp(0, 1), points, atol=1e-12)


def run(name: str, *args: Any, **kwargs: Any) -> Any:
    result = OPS[name].run(*args, **kwargs)
    return result.numpy() if isinstance(result, torch.Tensor) else result


def test_integers() -> None:
    x, y = torch.tensor([7, -7, 7, -7], dtype=torch.int32), torch.tensor([2, 2, -2, -2], dtype=torch.int32)
    assert run("floor_div", x, y).tolist() == [3, -4, -4, 3]
    assert run("mod", x, y).tolist() == [1, 1, -1, -1]
    assert run("real_div", x, y).tolist() == [3, -3, -3, 3]
    assert run("pow", torch.tensor([2, 3, -2], dtype=torch.int32), torch.tensor([10, 2, 3])).tolist() == [1024, 9, -8]


@pytest.mark.parametrize("opset", [16, 17])
def test_reshape_takes_over_sizes_by_opset(opset: int) -> None:
    x = torch.zeros(2, 50)
    assert run("reshape", x, (0, 5, -1) if opset == 17 else (0, -1), opset=opset).ndim > 0
    if opset == 17:
        assert run("reshape", x, (1, 0, -1, 0), opset=17).shape == (1, 1, 2, 50)
    else:
        with pytest.raises(ValueError, match="rank"):
            run("reshape", x, (1, 0, -1, 0), opset=16)


def test_slices_backwards_and_masked() -> None:
    x = torch.arange(24).reshape(4, 6)
    numbers = x.numpy()
    both = (False, False)
    got = run("slice_by_index", x, (3, 5), (0, 0), (-2, -1), both, both, both)
    np.testing.assert_array_equal(got, numbers[3:0:-2, 5:0:-1])
    got = run("slice_by_index", x, (1, 0), (0, 4), (1, 3), (False, True), (True, False), (False, False))
    np.testing.assert_array_equal(got, numbers[1:, :4:3])
    got = run("slice_by_index", x, (-1, 1), (0, 3), None, both, both, (True, False))
    np.testing.assert_array_equal(got, numbers[-1, 1:3])
    got = run("slice_by_index", x, (0, 0), (0, 0), (-1, -1), (True, True), (True, True))
    np.testing.assert_array_equal(got, numbers[::-1, ::-1])


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_pads_of_any_rank(mode: str) -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    amounts = (1, 2, 3, 1, 2, 4)
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (1, 2), (3, 1), (2, 4)], mode=names[mode])
    np.testing.assert_array_equal(run("pad", x, amounts, mode), expected)


@pytest.mark.parametrize("mode", ["update", "add", "sub", "mul", "div", "max", "min"])
def test_scatter_modes(mode: str) -> None:
    data = np.array([[1.0, 2, 3], [4, 5, 6]])
    updates = np.array([[10.0, 20], [0.5, 4]])
    apply = {
        "update": lambda a, b: b, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
        "max": np.maximum, "min": np.minimum,
    }[mode]  # fmt: skip
    expected = data.copy()
    for row in range(2):
        for place, column in enumerate((2, 0)):
            expected[row, column] = apply(expected[row, column], updates[row, place])
    got = run("scatter", torch.tensor(data), torch.tensor([2, 0]), torch.tensor(updates), axis=1, mode=mode)
    np.testing.assert_allclose(got, expected)
    vectors = torch.tensor([[[0, 2], [0, 0]], [[1, 2], [1, 0]]])
    got = run("scatter_nd", torch.tensor(data), vectors, torch.tensor(updates), mode=mode)
    np.testing.assert_allclose(got, expected)
    square = torch.tensor([[2], [0]])  # indices of any shape
    got = run("scatter", torch.tensor(data), square, torch.tensor(updates)[:, :, None], axis=1, mode=mode)
    np.testing.assert_allclose(got, run("scatter", torch.tensor(data), square[:, 0], torch.tensor(updates), 1, mode))
    with pytest.raises(IndexError, match="outside an axis of 3"):
        run("scatter", torch.tensor(data), torch.tensor([3, 0]), torch.tensor(updates), axis=1, mode=mode)


def test_blocks_come_back() -> None:
    x = torch.randn(2, 8, 4, 6)
    for there, back, size in (("depth_to_space", "space_to_depth", "block_size"),):
        np.testing.assert_array_equal(run(back, OPS[there].run(x, **{size: 2}), **{size: 2}), x)
    np.testing.assert_array_equal(
        run("pixel_unshuffle", OPS["pixel_shuffle"].run(x, upscale_factor=2), downscale_factor=2), x
    )
    batch = OPS["space_to_batch"].run(x, (2, 3), (1, 1, 2, 1))
    assert batch.shape == (12, 8, 3, 3)
    np.testing.assert_array_equal(run("batch_to_space", batch, (2, 3), (1, 1, 2, 1)), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("pad_type", ["valid", "same", "same_lower", "custom"])
def test_convolution_pads(dims: int, pad_type: str) -> None:
    x, weight = torch.randn(2, 4, *[9] * dims), torch.randn(6, 2, *[4] * dims)
    pad = (1, 3) * dims
    got = OPS["conv"].run(x, weight, strides=(2,) * dims, pad_type=pad_type, pad=pad, dilations=(1,) * dims, groups=2)
    before, after = {"valid": (0, 0), "same": (1, 2), "same_lower": (2, 1), "custom": (1, 3)}[pad_type]
    padded = torch.nn.functional.pad(x, (before, after) * dims)
    function = getattr(torch.nn.functional, f"conv{dims}d")
    torch.testing.assert_close(got, function(padded, weight, stride=2, groups=2))


def test_recurrent_layers_agree_with_torch() -> None:
    x, h, c = torch.randn(5, 2, 3), torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    lstm = torch.nn.LSTM(3, 4)
    w_i, w_h, b_i, b_h = (p.detach() for p in lstm.parameters())
    order = torch.cat([torch.arange(8), torch.arange(12, 16), torch.arange(8, 12)])  # torch: i f g o; MIL: i f o g
    expected, (h_n, c_n) = lstm(x, (h, c))
    got = OPS["lstm"].run(x, h[0], c[0], w_i[order], w_h[order], (b_i + b_h)[order], output_sequence=True)
    for mine, theirs in zip(got, (expected, h_n[0], c_n[0]), strict=True):
        torch.testing.assert_close(mine, theirs.detach())
    gru = torch.nn.GRU(3, 4)
    w_i, w_h, b_i, b_h = (p.detach() for p in gru.parameters())
    order = torch.cat([torch.arange(4), torch.arange(8, 12), torch.arange(4, 8)])  # torch: r z n; MIL: r o z
    expected, h_n = gru(x, h)
    got = OPS["gru"].run(
        x, h[0], w_i[order], w_h[order], b_h[order], input_bias=b_i[order], reset_after=True, output_sequence=True
    )
    for mine, theirs in zip(got, (expected, h_n[0]), strict=True):
        torch.testing.assert_close(mine, theirs.detach())


def test_random_numbers() -> None:
    cpu = torch.device("cpu")
    state = torch.random.get_rng_state()
    first, again = (OPS["random_normal"].run((1000,), torch.float32, cpu, 3.0, 2.0, seed=5) for _ in range(2))
    assert torch.equal(first, again)
    assert abs(float(first.mean()) - 3) < 0.3
    assert not torch.equal(*(OPS["random_uniform"].run((9,), torch.float32, cpu, seed=-1) for _ in range(2)))
    drawn = OPS["random_categorical"].run(torch.tensor([[0.0, 20.0]]), size=50, seed=1)
    assert drawn.shape == (1, 50)
    assert int(drawn.min()) == 1
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's stream was touched
