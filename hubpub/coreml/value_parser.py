"""Reads types and typed values of MIL text; `hubpub.coreml.parser` reads programs with it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.cursor import Cursor, accept, enter, expect, identifier, items, number, peek, skip, unexpected
from hubpub.coreml.printer import nested
from hubpub.coreml.values import DTYPES, FLOATS, encode, tensor_type

_SPACE = re.compile(r"\s*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_TENSOR = re.compile(r"tensor<\s*(\w+)\s*,\s*\[([^\]]*)\]\s*>")
_SCALAR = re.compile(r"[^,()\[\]{}\s]+")
_WORD = re.compile(r"[^\[\],\s]+")
_SIZE = re.compile(r"[0-9]{1,18}")
_BRACKET = re.compile(r"[\[\]]")
_BLOB = re.compile(
    r'BLOBFILE\(\s*path\s*=\s*(?:tensor<string, \[\]>|string)\("([^"]*)"\)\s*,'
    r"\s*offset\s*=\s*(?:tensor<uint64, \[\]>|uint64)\(([0-9]{1,18})\)\s*\)"
)


def read_value(cursor: Cursor) -> schema.Value:
    """Read a typed value, such as `tensor<int32, [2]>([0, 1])`."""
    declared = read_type(cursor)
    expect(cursor, "(")
    blob = _BLOB.match(cursor.text, skip(cursor))
    if blob is None:
        value = _literal(cursor, declared)
    else:
        value = schema.Value(type=declared)
        value.blobFileValue.fileName = blob[1]
        value.blobFileValue.offset = int(blob[2])
        cursor.at = blob.end()
    expect(cursor, ")")
    return value


def _literal(cursor: Cursor, declared: schema.ValueType) -> schema.Value:
    enter(cursor)
    value = schema.Value(type=declared)
    content = value.immediateValue
    kind = declared.WhichOneof("type")
    if kind == "tensorType":
        _tensor(cursor, value)
    elif kind == "listType":
        element = declared.listType.type
        content.list.SetInParent()
        content.list.values.extend(items(cursor, "[", "]", lambda place: _literal(place, element)))
    elif kind == "tupleType":
        expect(cursor, "(")
        content.tuple.SetInParent()
        for member in declared.tupleType.types:
            content.tuple.values.append(_literal(cursor, member))
            accept(cursor, ",")
        expect(cursor, ")")
    elif kind == "dictionaryType":
        content.dictionary.SetInParent()
        content.dictionary.values.extend(items(cursor, "{", "}", lambda place: _pair(place, declared.dictionaryType)))
    else:
        raise unexpected(cursor, "a value that is not a state")
    cursor.depth -= 1
    return value


def _pair(cursor: Cursor, declared: schema.DictionaryType) -> schema.DictionaryValue.KeyValuePair:
    expect(cursor, "{")
    key = _literal(cursor, declared.keyType)
    expect(cursor, ",")
    value = _literal(cursor, declared.valueType)
    expect(cursor, "}")
    return schema.DictionaryValue.KeyValuePair(key=key, value=value)


def _tensor(cursor: Cursor, value: schema.Value) -> None:
    """A tensor's literal; it sets the sizes that the type leaves open (as in attributes)."""
    declared = value.type.tensorType
    sizes = [size.constant.size if size.WhichOneof("dimension") == "constant" else None for size in declared.dimensions]
    start = skip(cursor)
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
    fixed = [size for size in sizes if size is not None]
    if math.prod(fixed) != len(elements) or nested(["x"] * len(elements), fixed).replace(" ", "") != shape:
        cursor.at = start
        raise unexpected(cursor, f"a literal of shape {fixed}")
    value.immediateValue.tensor.CopyFrom(encode(elements, declared.dataType))


def _scalar_end(cursor: Cursor, start: int) -> int:
    match = _SCALAR.match(cursor.text, start)
    if match is None:
        raise unexpected(cursor, "a number")
    return match.end()


def _array_end(cursor: Cursor, start: int) -> int:
    """The end position of the nested brackets that begin at `start`."""
    depth = 0
    for bracket in _BRACKET.finditer(cursor.text, start):
        depth += 1 if bracket[0] == "[" else -1
        if depth <= 0:
            return bracket.end()
    raise unexpected(cursor, "]")


def _strings(cursor: Cursor) -> tuple[list[str], str]:
    """The strings of a literal, and the literal's text with each string replaced by an x."""
    words: list[str] = []
    shape: list[str] = []
    depth = 0
    while True:
        start = skip(cursor)
        match = _STRING.match(cursor.text, start)
        if match is not None:
            words.append(match[1])
            shape.append("x")
            cursor.at = match.end()
        elif cursor.text[start : start + 1] in ("[", "]", ","):
            depth += {"[": 1, "]": -1, ",": 0}[cursor.text[start]]
            shape.append(cursor.text[start])
            cursor.at = start + 1
        else:
            raise unexpected(cursor, "a string")
        if depth <= 0:
            return words, "".join(shape)


def _elements(cursor: Cursor, words: Sequence[str], dtype: int) -> list[Any]:
    try:
        if dtype in FLOATS:
            return [float.fromhex(word) for word in words]
        if dtype == schema.BOOL:
            return [{"true": True, "false": False}[word] for word in words]
        return [int(word) for word in words]
    except (ValueError, KeyError, OverflowError) as error:
        raise unexpected(cursor, "numbers of the declared type") from error


def read_type(cursor: Cursor) -> schema.ValueType:
    """Read a type, such as `tensor<fp16, [1, ?, 64]>`; the cursor caches tensor types."""
    start = skip(cursor)
    tensor = _TENSOR.match(cursor.text, start)
    if tensor is not None:
        cursor.at = tensor.end()
        cached = cursor.types.get(tensor[0])
        if cached is None:
            cached = cursor.types[tensor[0]] = _tensor_type(cursor, tensor[1], tensor[2])
        return cached
    name = identifier(cursor)
    if name in DTYPES:
        return tensor_type(DTYPES[name])
    enter(cursor)
    result = _composite(cursor, name)
    cursor.depth -= 1
    return result


def _composite(cursor: Cursor, name: str) -> schema.ValueType:
    result = schema.ValueType()
    expect(cursor, "<")
    if name == "list":
        result.listType.type.CopyFrom(read_type(cursor))
        expect(cursor, ",")
        if accept(cursor, "?"):
            result.listType.length.unknown.SetInParent()
        else:
            result.listType.length.constant.size = number(cursor)
    elif name == "tuple":
        result.tupleType.SetInParent()
        while peek(cursor) != ">":
            result.tupleType.types.append(read_type(cursor))
            accept(cursor, ",")
    elif name == "dict":
        result.dictionaryType.keyType.CopyFrom(read_type(cursor))
        expect(cursor, ",")
        result.dictionaryType.valueType.CopyFrom(read_type(cursor))
    elif name == "state":
        result.stateType.wrappedType.CopyFrom(read_type(cursor))
    else:
        raise unexpected(cursor, f"a type, not {name!r}")
    expect(cursor, ">")
    return result


def _tensor_type(cursor: Cursor, name: str, sizes: str) -> schema.ValueType:
    words = [word.strip() for word in sizes.split(",")] if sizes.strip() else []
    if name not in DTYPES or not all(word == "?" or _SIZE.fullmatch(word) for word in words):
        raise unexpected(cursor, "a tensor type")
    return tensor_type(DTYPES[name], [None if word == "?" else int(word) for word in words])
