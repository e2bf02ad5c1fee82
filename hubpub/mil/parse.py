"""Reads MIL text back into an ML Program: the inverse of `hubpub.mil.text`.

For auditing bundles, also Apple's, and for proving that what is printed says the
same as what was to be printed. Both dialects are read; spacing does not matter.
What the text does not hold does not come back: the source order of a function's
inputs, documentation strings, and which field held a constant's elements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hubpub.errors import BadPackage
from hubpub.mil import schema_pb2 as schema
from hubpub.mil.text import OPSETS, nested, own_build_info
from hubpub.mil.values import DTYPES, FLOATS, encode, tensor_type

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_TENSOR = re.compile(r"tensor<\s*(\w+)\s*,\s*\[([^\]]*)\]\s*>")
_SCALAR = re.compile(r"[^,()\[\]{}\s]+")
_WORD = re.compile(r"[^\[\],\s]+")
_BRACKET = re.compile(r"[\[\]]")
_DIGITS = re.compile(r"\d{1,18}")
_BLOB = re.compile(
    r'BLOBFILE\(\s*path\s*=\s*(?:tensor<string, \[\]>|string)\("([^"]*)"\)\s*,'
    r"\s*offset\s*=\s*(?:tensor<uint64, \[\]>|uint64)\((\d+)\)\s*\)"
)
_HEADER = re.compile(r"\s*program\((\d+\.\d+)\)")
_OPSETS = {text: name for name, text in OPSETS.items()} | {"ios26": "CoreML9"}
_DEEPEST = 64  # blocks and values inside each other; protobuf itself stops at 100 levels


@dataclass(kw_only=True)
class _Cursor:
    """A place in the text, and the types met so far (they repeat)."""

    text: str
    at: int = 0
    depth: int = 0
    types: dict[str, schema.ValueType] = field(default_factory=dict)


def parse_program(text: str) -> schema.Program:
    """The program that a `model.mil` says. Raises BadPackage with the line and column of what cannot be read."""
    cursor = _Cursor(text=text)
    _header(cursor)
    program = schema.Program(version=1)
    _attributes(cursor, program.attributes)
    _expect(cursor, "{")
    while not _accept(cursor, "}"):
        _function(cursor, program)
    if _skip(cursor) != len(text):
        raise _unexpected(cursor, "the end")
    return program


def parse_build_info(text: str) -> dict[str, str]:
    """The `buildInfo` of a MIL text, without reading the program."""
    cursor = _Cursor(text=text)
    program = schema.Program()
    _header(cursor)
    _attributes(cursor, program.attributes)
    return own_build_info(program)


def _header(cursor: _Cursor) -> None:
    header = _HEADER.match(cursor.text)
    if header is None:
        raise _unexpected(cursor, "program(…)")
    cursor.at = header.end()


def _function(cursor: _Cursor, program: schema.Program) -> None:
    _expect(cursor, "func")
    name = _identifier(cursor)
    _expect(cursor, "<")
    opset = _identifier(cursor)
    _expect(cursor, ">")
    if name in program.functions or opset not in _OPSETS:
        raise _unexpected(cursor, "a new function of a known operation set")
    function = program.functions[name]
    function.opset = _OPSETS[opset]
    _parameters(cursor, function.inputs)
    _attributes(cursor, function.attributes)
    _block(cursor, function.block_specializations[function.opset])
    _expect(cursor, ";")


def _block(cursor: _Cursor, block: schema.Block) -> None:
    """`{ operations } -> (names)`"""
    cursor.depth += 1
    if cursor.depth > _DEEPEST:
        raise _unexpected(cursor, f"fewer than {_DEEPEST} blocks inside each other")
    _expect(cursor, "{")
    while not _accept(cursor, "}"):
        _operation(cursor, block.operations.add())
    _expect(cursor, "->")
    block.outputs.extend(_list(cursor, "(", ")", _identifier))
    cursor.depth -= 1


def _operation(cursor: _Cursor, operation: schema.Operation) -> None:
    while True:
        output = operation.outputs.add()
        output.type.CopyFrom(_type(cursor))
        output.name = _identifier(cursor)
        if not _accept(cursor, ","):
            break
    _expect(cursor, "=")
    operation.type = _identifier(cursor)
    _expect(cursor, "(")
    while not _accept(cursor, ")"):
        key = _identifier(cursor)
        _expect(cursor, "=")
        if key in operation.inputs:
            raise _unexpected(cursor, f"one argument {key}")
        _argument(cursor, operation.inputs[key])
        _accept(cursor, ",")
    _attributes(cursor, operation.attributes)
    while not _accept(cursor, ";"):
        inner = operation.blocks.add()
        _parameters(cursor, inner.inputs)
        _block(cursor, inner)


def _argument(cursor: _Cursor, argument: schema.Argument) -> None:
    if _peek(cursor) != "(":
        _binding(cursor, argument)
        return
    _expect(cursor, "(")
    while not _accept(cursor, ")"):
        _binding(cursor, argument)
        _accept(cursor, ",")


def _binding(cursor: _Cursor, argument: schema.Argument) -> None:
    """A value's name, or a typed value; the character after the first word tells which."""
    start = _skip(cursor)
    name = _NAME.match(cursor.text, start)
    if name is not None and cursor.text[name.end() : name.end() + 1] not in ("<", "("):
        cursor.at = name.end()
        argument.arguments.add().name = name[0]
    else:
        argument.arguments.add().value.CopyFrom(_value(cursor))


def _parameters(cursor: _Cursor, inputs: Any) -> None:
    _expect(cursor, "(")
    while not _accept(cursor, ")"):
        one = inputs.add()
        one.type.CopyFrom(_type(cursor))
        one.name = _identifier(cursor)
        _accept(cursor, ",")


def _attributes(cursor: _Cursor, attributes: Any) -> None:
    """`[key = value, …]`, or nothing."""
    if not _accept(cursor, "["):
        return
    while not _accept(cursor, "]"):
        key = _identifier(cursor)
        _expect(cursor, "=")
        if key in attributes:
            raise _unexpected(cursor, f"one attribute {key}")
        attributes[key].CopyFrom(_value(cursor))
        _accept(cursor, ",")


def _value(cursor: _Cursor) -> schema.Value:
    declared = _type(cursor)
    _expect(cursor, "(")
    blob = _BLOB.match(cursor.text, _skip(cursor))
    if blob is None:
        value = _literal(cursor, declared)
    else:
        value = schema.Value(type=declared)
        value.blobFileValue.fileName = blob[1]
        value.blobFileValue.offset = int(blob[2])
        cursor.at = blob.end()
    _expect(cursor, ")")
    return value


def _literal(cursor: _Cursor, declared: schema.ValueType) -> schema.Value:
    cursor.depth += 1
    if cursor.depth > _DEEPEST:
        raise _unexpected(cursor, f"fewer than {_DEEPEST} values inside each other")
    value = schema.Value(type=declared)
    content = value.immediateValue
    kind = declared.WhichOneof("type")
    if kind == "tensorType":
        _tensor(cursor, value)
    elif kind == "listType":
        element = declared.listType.type
        content.list.SetInParent()
        content.list.values.extend(_list(cursor, "[", "]", lambda place: _literal(place, element)))
    elif kind == "tupleType":
        _expect(cursor, "(")
        content.tuple.SetInParent()
        for member in declared.tupleType.types:
            content.tuple.values.append(_literal(cursor, member))
            _accept(cursor, ",")
        _expect(cursor, ")")
    elif kind == "dictionaryType":
        content.dictionary.SetInParent()
        content.dictionary.values.extend(_list(cursor, "{", "}", lambda place: _pair(place, declared.dictionaryType)))
    else:
        raise _unexpected(cursor, "a value that is not a state")
    cursor.depth -= 1
    return value


def _pair(cursor: _Cursor, declared: schema.DictionaryType) -> schema.DictionaryValue.KeyValuePair:
    _expect(cursor, "{")
    key = _literal(cursor, declared.keyType)
    _expect(cursor, ",")
    value = _literal(cursor, declared.valueType)
    _expect(cursor, "}")
    return schema.DictionaryValue.KeyValuePair(key=key, value=value)


def _tensor(cursor: _Cursor, value: schema.Value) -> None:
    """A tensor's literal; where the type leaves a size open, as attributes do, the literal says it."""
    declared = value.type.tensorType
    sizes = [one.constant.size if one.WhichOneof("dimension") == "constant" else None for one in declared.dimensions]
    start = _skip(cursor)
    elements: Sequence[Any]
    if declared.dataType == schema.STRING:
        elements, shape = _strings(cursor)
    else:
        end = _array_end(cursor, start) if sizes else _scalar_end(cursor, start)
        raw = cursor.text[start:end]
        elements = _elements(cursor, _WORD.findall(raw), declared.dataType)
        shape = _SPACE.sub("", _WORD.sub("x", raw))
        cursor.at = end
    if None in sizes:
        sizes = [len(elements) if size is None else size for size in sizes]
        value.type.CopyFrom(tensor_type(declared.dataType, sizes))
    known = [size for size in sizes if size is not None]
    if math.prod(known) != len(elements) or nested(["x"] * len(elements), known).replace(" ", "") != shape:
        cursor.at = start
        raise _unexpected(cursor, f"a literal of shape {known}")
    value.immediateValue.tensor.CopyFrom(encode(elements, declared.dataType))


def _scalar_end(cursor: _Cursor, start: int) -> int:
    found = _SCALAR.match(cursor.text, start)
    if found is None:
        raise _unexpected(cursor, "a number")
    return found.end()


def _array_end(cursor: _Cursor, start: int) -> int:
    """Where the nested brackets that begin at `start` end."""
    depth = 0
    for bracket in _BRACKET.finditer(cursor.text, start):
        depth += 1 if bracket[0] == "[" else -1
        if depth <= 0:
            return bracket.end()
    raise _unexpected(cursor, "]")


def _strings(cursor: _Cursor) -> tuple[list[str], str]:
    """The strings of a literal, and the literal with an x for each of them."""
    words: list[str] = []
    shape: list[str] = []
    depth = 0
    while True:
        start = _skip(cursor)
        found = _STRING.match(cursor.text, start)
        if found is not None:
            words.append(found[1])
            shape.append("x")
            cursor.at = found.end()
        elif cursor.text[start : start + 1] in ("[", "]", ","):
            depth += {"[": 1, "]": -1, ",": 0}[cursor.text[start]]
            shape.append(cursor.text[start])
            cursor.at = start + 1
        else:
            raise _unexpected(cursor, "a string")
        if depth <= 0:
            return words, "".join(shape)


def _elements(cursor: _Cursor, words: Sequence[str], dtype: int) -> list[Any]:
    try:
        if dtype in FLOATS:
            return [float.fromhex(word) for word in words]
        if dtype == schema.BOOL:
            return [{"true": True, "false": False}[word] for word in words]
        return [int(word) for word in words]
    except (ValueError, KeyError, OverflowError) as error:
        raise _unexpected(cursor, "numbers of the declared type") from error


def _type(cursor: _Cursor) -> schema.ValueType:
    start = _skip(cursor)
    tensor = _TENSOR.match(cursor.text, start)
    if tensor is not None:
        cursor.at = tensor.end()
        known = cursor.types.get(tensor[0])
        if known is None:
            known = cursor.types[tensor[0]] = _tensor_type(cursor, tensor[1], tensor[2])
        return known
    name = _identifier(cursor)
    if name in DTYPES:
        return tensor_type(DTYPES[name])
    cursor.depth += 1
    if cursor.depth > _DEEPEST:
        raise _unexpected(cursor, f"fewer than {_DEEPEST} types inside each other")
    result = _composite(cursor, name)
    cursor.depth -= 1
    return result


def _composite(cursor: _Cursor, name: str) -> schema.ValueType:
    result = schema.ValueType()
    _expect(cursor, "<")
    if name == "list":
        result.listType.type.CopyFrom(_type(cursor))
        _expect(cursor, ",")
        if _accept(cursor, "?"):
            result.listType.length.unknown.SetInParent()
        else:
            result.listType.length.constant.size = _number(cursor)
    elif name == "tuple":
        result.tupleType.SetInParent()
        while _peek(cursor) != ">":
            result.tupleType.types.append(_type(cursor))
            _accept(cursor, ",")
    elif name == "dict":
        result.dictionaryType.keyType.CopyFrom(_type(cursor))
        _expect(cursor, ",")
        result.dictionaryType.valueType.CopyFrom(_type(cursor))
    elif name == "state":
        result.stateType.wrappedType.CopyFrom(_type(cursor))
    else:
        raise _unexpected(cursor, f"a type, not {name!r}")
    _expect(cursor, ">")
    return result


def _tensor_type(cursor: _Cursor, name: str, sizes: str) -> schema.ValueType:
    words = [word.strip() for word in sizes.split(",")] if sizes.strip() else []
    if name not in DTYPES or not all(word == "?" or (word.isascii() and word.isdigit()) for word in words):
        raise _unexpected(cursor, "a tensor type")
    numbers = [None if word == "?" else int(word) for word in words]
    if any(number is not None and number >= 1 << 63 for number in numbers):
        raise _unexpected(cursor, "a tensor type of plausible size")
    return tensor_type(DTYPES[name], numbers)


def _list(cursor: _Cursor, opening: str, closing: str, item: Callable[[_Cursor], Any]) -> list[Any]:
    _expect(cursor, opening)
    items = []
    while not _accept(cursor, closing):
        items.append(item(cursor))
        _accept(cursor, ",")
    return items


def _number(cursor: _Cursor) -> int:
    found = _DIGITS.match(cursor.text, _skip(cursor))
    if found is None:
        raise _unexpected(cursor, "a number")
    cursor.at = found.end()
    return int(found[0])


def _identifier(cursor: _Cursor) -> str:
    found = _NAME.match(cursor.text, _skip(cursor))
    if found is None:
        raise _unexpected(cursor, "a name")
    cursor.at = found.end()
    return found[0]


def _skip(cursor: _Cursor) -> int:
    found = _SPACE.match(cursor.text, cursor.at)
    if found is not None:
        cursor.at = found.end()
    return cursor.at


def _peek(cursor: _Cursor) -> str:
    start = _skip(cursor)
    return cursor.text[start : start + 1]


def _accept(cursor: _Cursor, mark: str) -> bool:
    start = _skip(cursor)
    if not cursor.text.startswith(mark, start):
        return False
    cursor.at = start + len(mark)
    return True


def _expect(cursor: _Cursor, mark: str) -> None:
    if not _accept(cursor, mark):
        raise _unexpected(cursor, mark)


def _unexpected(cursor: _Cursor, wanted: str) -> BadPackage:
    before = cursor.text[: cursor.at]
    line, column = before.count("\n") + 1, cursor.at - before.rfind("\n")
    seen = cursor.text[cursor.at : cursor.at + 20]
    return BadPackage(
        f"The MIL text cannot be read at line {line}, column {column}: expected {wanted}, found {seen!r}."
    )
