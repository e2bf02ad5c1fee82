"""Whether two programs are the same but for sizes: the one that was run at a small latent, and the published one.

Both are walked from their outputs, value by value in pairs. Operations, arguments,
constants and places in the weight file must be the same. What may differ: the sides of
shapes; and the number of query pieces of an attention, where each piece of the one must
be as a piece of the other, and all of them must cover the queries, in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.program import main_block
from hubpub.coreml.values import dimensions

_MOST = 5  # differences that are listed

# (concat, which of its values): the piece that is being compared
Piece = tuple[str, int]


def differences(published: schema.Model, measured: schema.Model) -> list[str]:
    """In what `published` differs from `measured` other than in sizes; empty where in nothing. The first few only."""
    return _Comparison(_Program(published), _Program(measured)).run()


class _Program:
    """A program by its values."""

    def __init__(self, model: schema.Model) -> None:
        function, block = model.mlProgram.functions["main"], main_block(model)
        self.inputs = {given.name: given.type for given in function.inputs}
        self.outputs = list(block.outputs)
        self.operations: dict[str, tuple[schema.Operation, int]] = {}
        for operation in block.operations:
            for place, output in enumerate(operation.outputs):
                self.operations[output.name] = (operation, place)

    def type(self, name: str) -> schema.TensorType:
        if name in self.inputs:
            return self.inputs[name].tensorType
        operation, place = self.operations[name]
        return operation.outputs[place].type.tensorType

    def shape(self, name: str) -> tuple[int | None, ...]:
        return dimensions(self.type(name))

    def integers(self, name: str) -> tuple[int, ...]:
        """The elements of a constant of the program."""
        operation, _ = self.operations[name]
        return tuple(operation.attributes["val"].immediateValue.tensor.ints.values)


@dataclass
class _Comparison:
    published: _Program
    measured: _Program
    found: list[str] = field(default_factory=list)
    # (concat, value, axis) → the ranges of its pieces, each with the place that it has in the concat
    pieces: dict[tuple[str, str, int], list[tuple[int, int, int]]] = field(default_factory=dict)

    def run(self) -> list[str]:
        if self.published.outputs != self.measured.outputs:
            return [f"its outputs are {self.published.outputs}, not {self.measured.outputs}"]
        waiting: list[tuple[str, str, Piece | None]] = [(name, name, None) for name in self.published.outputs]
        seen = set()
        while waiting and len(self.found) < _MOST:
            one, other, piece = waiting.pop()
            if (one, other) not in seen:
                seen.add((one, other))
                waiting += self._compare(one, other, piece)
        if not self.found:
            self._check_pieces()
        return self.found

    def _compare(self, one: str, other: str, piece: Piece | None) -> Iterator[tuple[str, str, Piece | None]]:
        """Compare two values; gives the pairs of values that they were made from."""
        if one in self.published.inputs or other in self.measured.inputs:
            if one != other or not self._same_type(one, other):
                self._differ(one, other)
            return
        (first, place), (second, its_place) = self.published.operations[one], self.measured.operations[other]
        if first.type == "concat" and (second.type != "concat" or self._count(first) != self._count(second)):
            against = self._values(second)[0] if second.type == "concat" else other
            for number, value in enumerate(self._values(first)):
                yield value, against, (one, number)
            return
        if first.type == "concat" and self._joined(self.published, first) != self._joined(self.measured, second):
            for number, (value, its) in enumerate(zip(self._values(first), self._values(second), strict=True)):
                yield value, its, (one, number)
            return
        if first.type == "slice_by_index" and self._is_piece(first, second):
            yield from self._piece(first, second, other, piece)
            return
        if first.type != second.type or place != its_place or not self._same_type(one, other):
            self._differ(one, other)
            return
        if first.type == "const" or first.type.startswith("constexpr"):
            if not _same_content(first, second):
                self._differ(one, other)
            return
        yield from self._arguments(one, other, first, second, piece)

    def _arguments(
        self, one: str, other: str, first: schema.Operation, second: schema.Operation, piece: Piece | None
    ) -> Iterator[tuple[str, str, Piece | None]]:
        if first.inputs.keys() != second.inputs.keys():
            self._differ(one, other)
            return
        sizes = _sizes_of(first)
        for key, argument in first.inputs.items():
            names = [binding.name for binding in argument.arguments]
            others = [binding.name for binding in second.inputs[key].arguments]
            if len(names) != len(others):
                self._differ(one, other)
            elif key in sizes:
                if not self._sizes_fit(first, second, key):
                    self._differ(one, other)
            else:
                yield from ((name, its, piece) for name, its in zip(names, others, strict=True))

    def _sizes_fit(self, first: schema.Operation, second: schema.Operation, key: str) -> bool:
        """A reshape asks for the shape that it declares; a slice takes the same part of its input in both."""
        if key != "shape":
            return self._ranges(self.published, first) == self._ranges(self.measured, second)
        return all(
            program.integers(operation.inputs[key].arguments[0].name) == program.shape(operation.outputs[0].name)
            for program, operation in ((self.published, first), (self.measured, second))
        )

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _ranges(self, program: _Program, operation: schema.Operation) -> dict[int, tuple[int, int]]:
        """Axis → begin and end, of the axes of which a slice takes a part."""
        shape = program.shape(operation.inputs["x"].arguments[0].name)
        begin, end = (program.integers(operation.inputs[key].arguments[0].name) for key in ("begin", "end"))
        parts = enumerate(zip(begin, end, shape, strict=True))
        return {axis: (start, stop) for axis, (start, stop, side) in parts if (start, stop) != (0, side)}

    def _is_piece(self, first: schema.Operation, second: schema.Operation) -> bool:
        """Whether a slice takes a piece along one axis that the other program cuts differently, or not at all."""
        ranges = self._ranges(self.published, first)
        if len(ranges) != 1:
            return False
        [axis] = ranges
        if not self._cuts(second, axis):
            return True
        side, its_side = (
            program.shape(operation.inputs["x"].arguments[0].name)[axis]
            for program, operation in ((self.published, first), (self.measured, second))
        )
        return side != its_side

    def _cuts(self, second: schema.Operation, axis: int) -> bool:
        """Whether an operation of the measured program is a slice along this axis."""
        return second.type == "slice_by_index" and axis in self._ranges(self.measured, second)

    def _piece(
        self, first: schema.Operation, second: schema.Operation, other: str, piece: Piece | None
    ) -> Iterator[tuple[str, str, Piece | None]]:
        whole = first.inputs["x"].arguments[0].name
        [(axis, (start, stop))] = self._ranges(self.published, first).items()
        if piece is None:
            self.found.append(f"{first.outputs[0].name} takes a part of {whole} that nothing puts together again")
            return
        concat, number = piece
        self.pieces.setdefault((concat, whole, axis), []).append((number, start, stop))
        yield whole, second.inputs["x"].arguments[0].name if self._cuts(second, axis) else other, None

    def _check_pieces(self) -> None:
        """The pieces of each attention cover its queries, in order; there is one for each value of the concat."""
        for (concat, whole, axis), ranges in self.pieces.items():
            place = 0
            operation, _ = self.published.operations[concat]
            for number, (which, start, stop) in enumerate(sorted(ranges)):
                if which != number or start != place:
                    break
                place = stop
            if place != self.published.shape(whole)[axis] or len(ranges) != self._count(operation):
                self.found.append(f"the pieces of {concat} do not cover {whole}")
        pieced = {concat for concat, _, _ in self.pieces}
        repeated = [name for name in self._repeated(self.published) if name not in pieced]
        # A UNet without a middle block begins its way up with twice the end of its way down: so it is measured, too.
        if len(repeated) > len(self._repeated(self.measured)):
            self.found.append(f"{repeated[-1]} repeats one value")

    def _repeated(self, program: _Program) -> list[str]:
        """The concats all of whose values are one."""
        return [
            name
            for name, (operation, _) in program.operations.items()
            if operation.type == "concat" and len(set(self._values(operation))) == 1
        ]

    # -- small things ----------------------------------------------------------------------------------------------

    def _values(self, operation: schema.Operation) -> list[str]:
        return [binding.name for binding in operation.inputs["values"].arguments]

    def _joined(self, program: _Program, operation: schema.Operation) -> int | None:
        """The length of a concat's result along its axis."""
        axis = program.integers(operation.inputs["axis"].arguments[0].name)[0]
        return program.shape(operation.outputs[0].name)[axis]

    def _count(self, operation: schema.Operation) -> int:
        return len(operation.inputs["values"].arguments)

    def _same_type(self, one: str, other: str) -> bool:
        first, second = self.published.type(one), self.measured.type(other)
        return first.dataType == second.dataType and len(first.dimensions) == len(second.dimensions)

    def _differ(self, one: str, other: str) -> None:
        self.found.append(f"{one} is not {other}")


def _sizes_of(operation: schema.Operation) -> tuple[str, ...]:
    """The arguments of an operation that say sizes."""
    return {"reshape": ("shape",), "slice_by_index": ("begin", "end")}.get(operation.type, ())


def _same_content(first: schema.Operation, second: schema.Operation) -> bool:
    """Whether two constants have the same value, or the same place in the weight file, whatever their names."""
    copies = []
    for operation in (first, second):
        copy = schema.Operation()
        copy.CopyFrom(operation)
        del copy.attributes["name"]
        for output in copy.outputs:
            output.name = ""
        copies.append(copy)
    return bool(copies[0] == copies[1])
