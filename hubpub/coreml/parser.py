"""Reads MIL text back into an ML Program: the inverse of `hubpub.coreml.printer`.

Used to audit bundles (also Apple's) and to prove that a printed text has the program's
meaning. Reads both dialects; spacing does not matter. The text does not contain the source
order of a function's inputs, documentation strings, or the protobuf field of a constant's
elements, so these are lost.
"""

from __future__ import annotations

import re
from typing import Any

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.cursor import NAME, Cursor, accept, enter, expect, identifier, items, peek, skip, unexpected
from hubpub.coreml.printer import OPSETS, own_build_info
from hubpub.coreml.value_parser import read_type, read_value

_HEADER = re.compile(r"\s*program\((\d+\.\d+)\)")
_OPSETS = {text: name for name, text in OPSETS.items()} | {"ios26": "CoreML9"}


def parse_program(text: str) -> schema.Program:
    """The program of a `model.mil` text. Raises BadPackage, with line and column, for text that cannot be parsed."""
    cursor = Cursor(text=text)
    _header(cursor)
    program = schema.Program(version=1)
    _attributes(cursor, program.attributes)
    expect(cursor, "{")
    while not accept(cursor, "}"):
        _function(cursor, program)
    if skip(cursor) != len(text):
        raise unexpected(cursor, "the end")
    return program


def parse_build_info(text: str) -> dict[str, str]:
    """The `buildInfo` of a MIL text, without reading the program."""
    cursor = Cursor(text=text)
    program = schema.Program()
    _header(cursor)
    _attributes(cursor, program.attributes)
    return own_build_info(program)


def _header(cursor: Cursor) -> None:
    header = _HEADER.match(cursor.text)
    if header is None:
        raise unexpected(cursor, "program(…)")
    cursor.at = header.end()


def _function(cursor: Cursor, program: schema.Program) -> None:
    expect(cursor, "func")
    name = identifier(cursor)
    expect(cursor, "<")
    opset = identifier(cursor)
    expect(cursor, ">")
    if name in program.functions or opset not in _OPSETS:
        raise unexpected(cursor, "a new function of a known operation set")
    function = program.functions[name]
    function.opset = _OPSETS[opset]
    _parameters(cursor, function.inputs)
    _attributes(cursor, function.attributes)
    _block(cursor, function.block_specializations[function.opset])
    expect(cursor, ";")


def _block(cursor: Cursor, block: schema.Block) -> None:
    """`{ operations } -> (names)`"""
    enter(cursor)
    expect(cursor, "{")
    while not accept(cursor, "}"):
        _operation(cursor, block.operations.add())
    expect(cursor, "->")
    block.outputs.extend(items(cursor, "(", ")", identifier))
    cursor.depth -= 1


def _operation(cursor: Cursor, operation: schema.Operation) -> None:
    while True:
        output = operation.outputs.add()
        output.type.CopyFrom(read_type(cursor))
        output.name = identifier(cursor)
        if not accept(cursor, ","):
            break
    expect(cursor, "=")
    operation.type = identifier(cursor)
    expect(cursor, "(")
    while not accept(cursor, ")"):
        key = identifier(cursor)
        expect(cursor, "=")
        if key in operation.inputs:
            raise unexpected(cursor, f"one argument {key}")
        _argument(cursor, operation.inputs[key])
        accept(cursor, ",")
    _attributes(cursor, operation.attributes)
    while not accept(cursor, ";"):
        inner = operation.blocks.add()
        _parameters(cursor, inner.inputs)
        _block(cursor, inner)


def _argument(cursor: Cursor, argument: schema.Argument) -> None:
    if peek(cursor) != "(":
        _binding(cursor, argument)
        return
    expect(cursor, "(")
    while not accept(cursor, ")"):
        _binding(cursor, argument)
        accept(cursor, ",")


def _binding(cursor: Cursor, argument: schema.Argument) -> None:
    """A value's name, or a typed value; the character after the first word distinguishes them."""
    start = skip(cursor)
    name = NAME.match(cursor.text, start)
    if name is not None and cursor.text[name.end() : name.end() + 1] not in ("<", "("):
        cursor.at = name.end()
        argument.arguments.add().name = name[0]
    else:
        argument.arguments.add().value.CopyFrom(read_value(cursor))


def _parameters(cursor: Cursor, inputs: Any) -> None:
    expect(cursor, "(")
    while not accept(cursor, ")"):
        value = inputs.add()
        value.type.CopyFrom(read_type(cursor))
        value.name = identifier(cursor)
        accept(cursor, ",")


def _attributes(cursor: Cursor, attributes: Any) -> None:
    """`[key = value, …]`, or nothing."""
    if not accept(cursor, "["):
        return
    while not accept(cursor, "]"):
        key = identifier(cursor)
        expect(cursor, "=")
        if key in attributes:
            raise unexpected(cursor, f"one attribute {key}")
        attributes[key].CopyFrom(read_value(cursor))
        accept(cursor, ",")
