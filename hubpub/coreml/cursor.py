"""A cursor over MIL text: the lexer of `hubpub.coreml.parser`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadPackage

Item = TypeVar("Item")

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_@]*")
_SPACE = re.compile(r"\s*")
_DIGITS = re.compile(r"[0-9]{1,18}")
_MAX_DEPTH = 64  # nesting levels; protobuf's limit is 100


@dataclass(kw_only=True)
class Cursor:
    """A position in the text, and a cache of the types parsed so far (types repeat often)."""

    text: str
    at: int = 0
    depth: int = 0
    types: dict[str, schema.ValueType] = field(default_factory=dict)


def enter(cursor: Cursor) -> None:
    """Enter a nesting level; the caller decrements `depth` when it leaves."""
    cursor.depth += 1
    if cursor.depth > _MAX_DEPTH:
        raise unexpected(cursor, f"at most {_MAX_DEPTH} levels of nesting")


def items(cursor: Cursor, opening: str, closing: str, item: Callable[[Cursor], Item]) -> list[Item]:
    """A comma-separated list between two marks; `item` reads each element."""
    expect(cursor, opening)
    elements = []
    while not accept(cursor, closing):
        elements.append(item(cursor))
        accept(cursor, ",")
    return elements


def number(cursor: Cursor) -> int:
    """Read an unsigned integer."""
    match = _DIGITS.match(cursor.text, skip(cursor))
    if match is None:
        raise unexpected(cursor, "a number")
    cursor.at = match.end()
    return int(match[0])


def identifier(cursor: Cursor) -> str:
    """Read a name."""
    match = NAME.match(cursor.text, skip(cursor))
    if match is None:
        raise unexpected(cursor, "a name")
    cursor.at = match.end()
    return match[0]


def skip(cursor: Cursor) -> int:
    """Skip white space; returns the new position."""
    match = _SPACE.match(cursor.text, cursor.at)
    if match is not None:
        cursor.at = match.end()
    return cursor.at


def peek(cursor: Cursor) -> str:
    """The next character after white space; empty at the end of the text."""
    start = skip(cursor)
    return cursor.text[start : start + 1]


def accept(cursor: Cursor, mark: str) -> bool:
    """Skip `mark` if it comes next; returns whether it did."""
    start = skip(cursor)
    if not cursor.text.startswith(mark, start):
        return False
    cursor.at = start + len(mark)
    return True


def expect(cursor: Cursor, mark: str) -> None:
    """Skip `mark`; raises BadPackage if something else comes next."""
    if not accept(cursor, mark):
        raise unexpected(cursor, mark)


def unexpected(cursor: Cursor, expected: str) -> BadPackage:
    """The error for an unexpected token: line, column, expected and actual text."""
    before = cursor.text[: cursor.at]
    line, column = before.count("\n") + 1, cursor.at - before.rfind("\n")
    seen = cursor.text[cursor.at : cursor.at + 20]
    return BadPackage(
        f"The MIL text cannot be read at line {line}, column {column}: expected {expected}, found {seen!r}."
    )
