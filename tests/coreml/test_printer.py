"""MIL text: what is printed is read back as the same program, in both dialects."""

from __future__ import annotations

import math
import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.parser import parse_build_info, parse_program
from hubpub.coreml.printer import NEW, OLD, hex_float, nested, print_program, type_text, value_text
from hubpub.coreml.values import decode, encode, tensor_type, tensor_value
from hubpub.errors import BadPackage, UnsupportedOps
from tests.support.mil_models import block, const, elements, function, operation, programs, tensors, tiny


def printed(program: schema.Program, *, spec: int = 7) -> str:
    return "".join(print_program(program, spec_version=spec, build_info={"coremlc-version": "1"}))


@settings(max_examples=60, deadline=None)
@given(programs(), st.sampled_from([6, 7, 8, 9]), st.data())
def test_what_is_printed_reads_back(program: schema.Program, spec: int, data: st.DataObject) -> None:
    text = printed(program, spec=spec)
    assert printed(schema.Program.FromString(program.SerializeToString()), spec=spec) == text
    read = parse_program(text)
    del read.attributes["buildInfo"]
    assert read.SerializeToString(deterministic=True) == program.SerializeToString(deterministic=True)
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(BadPackage, match=r"line \d+, column \d+"):
        parse_program(text[:cut])


@given(st.text(alphabet='pro gam(1.0)[]{}<>=,;?-"xtensorint32funcmaioBLOBFILE\n', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, "program(1.0)\n{" + text, "program(1.0)\n{ func main<ios16>() {" + text):
        with suppress(BadPackage):
            parse_program(candidate)


@given(st.floats(allow_nan=False))
@example(5e-324)
@example(-0.0)
@example(math.inf)
def test_floats_keep_every_bit(number: float) -> None:
    text = hex_float(number)
    assert np.float64(float.fromhex(text)).tobytes() == np.float64(number).tobytes()
    assert re.fullmatch(r"-?(inf|0x0p\+0|0x1(\.[0-9a-f]*[1-9a-f])?p[+-]\d+)", text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (2.0, "0x1p+1"),
        (10000.0, "0x1.388p+13"),
        (0.0, "0x0p+0"),
        (2.0**-24, "0x1p-24"),
        (-1.5, "-0x1.8p+0"),
        (-0.0, "-0x0p+0"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_floats_are_normalised_c99(number: float, text: str) -> None:
    assert hex_float(number) == text


@given(tensors())
def test_elements_survive_their_protobuf(value: schema.Value) -> None:
    dtype = value.type.tensorType.dataType
    count = math.prod(one.constant.size for one in value.type.tensorType.dimensions)
    kept = decode(value.immediateValue.tensor, dtype)[:count]
    assert encode(kept, dtype) == value.immediateValue.tensor


@given(st.data())
def test_elements_mean_the_same_in_any_field(data: st.DataObject) -> None:
    """fp16 in `floats`, 8-bit and uint32 in `ints`: other writers do that."""
    dtype = data.draw(st.sampled_from([schema.FLOAT16, schema.INT8, schema.UINT8, schema.UINT32]))
    numbers = data.draw(st.lists(elements(dtype), min_size=1, max_size=4))
    other = schema.TensorValue()
    if dtype == schema.FLOAT16:
        other.floats.values.extend(numbers)
    else:
        other.ints.values.extend(number - (1 << 32) if number >> 31 == 1 else number for number in numbers)
    assert list(decode(other, dtype)) == numbers


def test_the_two_dialects() -> None:
    text, count = tensor_value(["x"], schema.STRING), tensor_value([1, 2], schema.INT32, (2,))
    assert [value_text(text, form) for form in (OLD, NEW)] == ['tensor<string, []>("x")', 'string("x")']
    assert [value_text(count, form) for form in (OLD, NEW)] == ["tensor<int32, [2]>([1, 2])"] * 2
    assert type_text(tensor_type(schema.FLOAT16, (None, 4)), OLD) == "tensor<fp16, [?, 4]>"


@pytest.mark.parametrize(
    ("sizes", "text"),
    [((), "a"), ((4,), "[a, b, c, d]"), ((2, 2), "[[a, b], [c, d]]"), ((1, 2, 2), "[[[a, b], [c, d]]]")],
)
def test_brackets_follow_the_shape(sizes: tuple[int, ...], text: str) -> None:
    assert nested(list("abcd")[: math.prod(sizes)], sizes) == text


def test_empty_tensors_have_brackets_too() -> None:
    assert nested([], (0,)) == "[]"
    assert nested([], (2, 0)) == "[[], []]"
    assert nested([], (0, 2)) == "[]"
    with pytest.raises(BadPackage, match="empty constant"):
        nested([], (1 << 40, 0))


def test_nested_blocks_are_indented_and_end_once() -> None:
    kind, flag = tensor_type(schema.FLOAT32), tensor_type(schema.BOOL)
    loop = operation(
        "while_loop",
        {"end": kind},
        {"loop_vars": "x"},
        blocks=[
            block([operation("less", {"go": flag}, {"x": "i", "y": "x"})], ["go"], i=kind),
            block([operation("add", {"next": kind}, {"x": "i", "y": "x"})], ["next"], i=kind),
        ],
    )
    program = schema.Program(version=1)
    program.functions["main"].CopyFrom(function(block([loop], ["end"]), x=kind))
    assert printed(program, spec=9).splitlines()[4:] == [
        "            fp32 end = while_loop(loop_vars = x)",
        "                (fp32 i) {",
        "                    bool go = less(x = i, y = x);",
        "                } -> (go)",
        "                (fp32 i) {",
        "                    fp32 next = add(x = i, y = x);",
        "                } -> (next);",
        "        } -> (end);",
        "}",
    ]


def test_inputs_arguments_and_attributes_are_sorted() -> None:
    kind = tensor_type(schema.FLOAT32)
    one = operation(
        "concat",
        {"c": kind},
        {"values": ["b", "a"], "axis": tensor_value([0], schema.INT32)},
        {"name": tensor_value(["c"], schema.STRING), "and": tensor_value([True], schema.BOOL)},
    )
    program = schema.Program(version=1)
    program.functions["main"].CopyFrom(function(block([one], ["c"]), b=kind, a=kind))
    text = printed(program, spec=9)
    assert "(fp32 a, fp32 b) {" in text
    assert 'fp32 c = concat(axis = int32(0), values = (b, a))[and = bool(true), name = string("c")];' in text


def test_build_information_is_merged_and_sorted() -> None:
    program = tiny().mlProgram
    info = program.attributes["buildInfo"]
    info.type.dictionaryType.keyType.CopyFrom(tensor_type(schema.STRING))
    info.type.dictionaryType.valueType.CopyFrom(tensor_type(schema.STRING))
    for key, text in (("coremltools-version", "9.0"), ("coremlc-version", "theirs")):
        pair = info.immediateValue.dictionary.values.add()
        pair.key.CopyFrom(tensor_value([key], schema.STRING))
        pair.value.CopyFrom(tensor_value([text], schema.STRING))
    text = "".join(print_program(program, spec_version=9, build_info={"coremlc-version": "ours", "a": "b"}))
    assert text.splitlines()[1] == (
        '[buildInfo = dict<string, string>({{"a", "b"}, {"coremlc-version", "ours"}, {"coremltools-version", "9.0"}})]'
    )
    assert parse_build_info(text) == {"a": "b", "coremlc-version": "ours", "coremltools-version": "9.0"}


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "a\x00b"])
def test_strings_that_the_text_cannot_hold_are_refused(text: str) -> None:
    with pytest.raises(BadPackage, match="MIL text cannot hold"):
        printed(tiny(operations=[const("s", tensor_value([text], schema.STRING))]).mlProgram)


def test_a_count_that_contradicts_the_shape_is_refused() -> None:
    value = tensor_value([1, 2, 3], schema.INT32, (3,))
    value.type.tensorType.dimensions[0].constant.size = 4
    with pytest.raises(BadPackage, match="with 3 elements"):
        value_text(value, NEW)


def test_huge_constants_are_refused_before_they_are_made() -> None:
    value = tensor_value([1], schema.INT32, (1,))
    value.type.tensorType.dimensions[0].constant.size = 1 << 50
    with pytest.raises(BadPackage, match="elements inline"):
        value_text(value, NEW)


def test_variable_ranks_and_unknown_element_types_are_refused() -> None:
    variadic = tensor_type(schema.FLOAT32, (None,))
    variadic.tensorType.dimensions[0].unknown.variadic = True
    with pytest.raises(BadPackage, match="variable rank"):
        type_text(variadic, NEW)
    with pytest.raises(UnsupportedOps, match="element type"):
        type_text(tensor_type(schema.FLOAT8E5M2), NEW)


def test_spacing_does_not_matter_to_the_reader() -> None:
    text = printed(tiny().mlProgram)
    assert parse_program(re.sub(r"\s+", "  ", text)) == parse_program(text)


@pytest.mark.parametrize(
    "text",
    [
        "tensor<int32, [2]>([1])",
        "tensor<int32, [2, 1]>([1, 2])",
        "tensor<int32, []>([1])",
        "tensor<int32, [1]>([1.5])",
        "tensor<bool, [1]>([yes])",
        "tensor<int8, [1]>([300])",
        "tensor<fp16, [1]>([0x1p+40])",
        'tensor<string, [2]>(["a"])',
        "tensor<int32, [99999999999999999999]>([1])",
        "state<int32>(1)",
        "int32(" + "9" * 5000 + ")",
        'int32(BLOBFILE(path = string("w"), offset = uint64(99999999999999999999)))',
    ],
)
def test_values_that_contradict_their_type_are_refused(text: str) -> None:
    program = printed(tiny(spec=9).mlProgram, spec=9)
    with pytest.raises(BadPackage):
        parse_program(program.replace("tensor<fp32, [2]>([0x1p+0, 0x1p+1])", text))


def test_nesting_is_limited() -> None:
    deep = "tuple<" * 5000
    with pytest.raises(BadPackage, match="64 levels of nesting"):
        parse_program(f"program(1.3)\n[buildInfo = {deep}")
