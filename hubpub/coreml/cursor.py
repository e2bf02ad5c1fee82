"""A cursor over MIL text: the few moves from which `hubpub.coreml.parser` is made."""

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
_DEEPEST = 64  # things inside each other; protobuf itself stops at 100 levels


@dataclass(kw_only=True)
class Cursor:
    """A place in the text, and the types met so far (they repeat)."""

    text: str
    at: int = 0
    depth: int = 0
    types: dict[str, schema.ValueType] = field(default_factory=dict)


def enter(cursor: Cursor) -> None:
    """Count one level of nesting; whoever leaves it subtracts one from `depth`."""
    cursor.depth += 1
    if cursor.depth > _DEEPEST:
        raise unexpected(cursor, f"fewer than {_DEEPEST} things inside each other")


def items(cursor: Cursor, opening: str, closing: str, item: Callable[[Cursor], Item]) -> list[Item]:
    """What `item` reads, repeatedly, between two marks."""
    expect(cursor, opening)
    found = []
    while not accept(cursor, closing):
        found.append(item(cursor))
        accept(cursor, ",")
    return found


def number(cursor: Cursor) -> int:
    """A number without a sign."""
    found = _DIGITS.match(cursor.text, skip(cursor))
    if found is None:
        raise unexpected(cursor, "a number")
    cursor.at = found.end()
    return int(found[0])


def identifier(cursor: Cursor) -> str:
    """A name."""
    found = NAME.match(cursor.text, skip(cursor))
    if found is None:
        raise unexpected(cursor, "a name")
    cursor.at = found.end()
    return found[0]


def skip(cursor: Cursor) -> int:
    """Go past white space; returns where that is."""
    found = _SPACE.match(cursor.text, cursor.at)
    if found is not None:
        cursor.at = found.end()
    return cursor.at


def peek(cursor: Cursor) -> str:
    """The next character that is not white space; empty at the end."""
    start = skip(cursor)
    return cursor.text[start : start + 1]


def accept(cursor: Cursor, mark: str) -> bool:
    """Go past `mark` if it comes next."""
    start = skip(cursor)
    if not cursor.text.startswith(mark, start):
        return False
    cursor.at = start + len(mark)
    return True


def expect(cursor: Cursor, mark: str) -> None:
    """Go past `mark`, which must come next."""
    if not accept(cursor, mark):
        raise unexpected(cursor, mark)


def unexpected(cursor: Cursor, wanted: str) -> BadPackage:
    """The error that says what should have come here."""
    before = cursor.text[: cursor.at]
    line, column = before.count("\n") + 1, cursor.at - before.rfind("\n")
    seen = cursor.text[cursor.at : cursor.at + 20]
    return BadPackage(
        f"The MIL text cannot be read at line {line}, column {column}: expected {wanted}, found {seen!r}."
    )
