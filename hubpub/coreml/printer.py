"""Prints an ML Program as MIL text: the `model.mil` of a compiled bundle.

The text contains the protobuf one to one. Inputs of a function, arguments and attributes are
sorted by name; nothing is added, removed or renamed. The specification version selects one of
two dialects: up to version 8 `program(1.0)`, with the scalar type `tensor<int32, []>`; from
version 9 `program(1.3)`, with the scalar type `int32`.

Source of the format: bundles written by Apple's compiler (versions 1436 to 3600). How that
compiler prints a quote or a line break inside a string is not known, so such programs are
refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.values import DTYPE_NAMES, FLOATS, MAX_ELEMENTS, SUB_BYTE, decode, dimensions
from hubpub.errors import BadPackage, UnsupportedOps

OPSETS = {"CoreML5": "ios15", "CoreML6": "ios16", "CoreML7": "ios17", "CoreML8": "ios18"}
BUILD_INFO = "buildInfo"

_PLAIN = re.compile(r'[^"\\\x00-\x1f\x7f]*')
_FUNCTION, _CLOSE, _BODY, _STEP = 4, 8, 12, 4


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One of the two spellings of MIL text."""

    version: str
    bare_scalars: bool

    def scalar(self, name: str) -> str:
        """The type of a rank-0 tensor of element type `name`."""
        return name if self.bare_scalars else f"tensor<{name}, []>"


OLD = Dialect(version="1.0", bare_scalars=False)
NEW = Dialect(version="1.3", bare_scalars=True)


def dialect(spec_version: int) -> Dialect:
    """The dialect for a specification version."""
    return NEW if spec_version >= 9 else OLD


def print_program(
    program: schema.Program,
    *,
    spec_version: int,
    build_info: Mapping[str, str],
    function_attributes: Mapping[str, Mapping[str, schema.Value]] | None = None,
) -> Iterator[str]:
    """The text of `program`, in pieces of a line or a few lines, without a final newline.

    `build_info` overrides the program's build information; `function_attributes` (function
    name → attributes) are added to the functions. Raises BadPackage for an inconsistent
    program and UnsupportedOps for values whose text form is not known.
    """
    form = dialect(spec_version)
    yield f"program({form.version})\n"
    yield _build_info_line(program, form, build_info)
    yield "{\n"
    for name in sorted(program.functions):
        extra = (function_attributes or {}).get(name, {})
        yield from _function(name, program.functions[name], form, extra)
    yield "}"


def type_text(value_type: schema.ValueType, form: Dialect) -> str:
    """A type as MIL text, such as `tensor<fp16, [1, ?, 64]>`."""
    kind = value_type.WhichOneof("type")
    if kind == "tensorType":
        return _tensor_type_text(value_type.tensorType, form)
    if kind == "listType":
        length = value_type.listType.length
        size = str(length.constant.size) if length.WhichOneof("dimension") == "constant" else "?"
        return f"list<{type_text(value_type.listType.type, form)}, {size}>"
    if kind == "tupleType":
        return f"tuple<{', '.join(type_text(item, form) for item in value_type.tupleType.types)}>"
    if kind == "dictionaryType":
        types = value_type.dictionaryType
        return f"dict<{type_text(types.keyType, form)}, {type_text(types.valueType, form)}>"
    if kind == "stateType":
        return f"state<{type_text(value_type.stateType.wrappedType, form)}>"
    raise BadPackage("The model has a value without a type.")


def value_text(value: schema.Value, form: Dialect) -> str:
    """A typed value as MIL text, such as `tensor<int32, [2]>([0, 1])`."""
    kind = value.WhichOneof("value")
    if kind == "immediateValue":
        return f"{type_text(value.type, form)}({_literal(value)})"
    if kind == "blobFileValue":
        blob = value.blobFileValue
        path = f"{form.scalar('string')}({_quoted(blob.fileName)})"
        return (
            f"{type_text(value.type, form)}(BLOBFILE(path = {path}, offset = {form.scalar('uint64')}({blob.offset})))"
        )
    raise BadPackage("The model has a constant without a value.")


def hex_float(number: float) -> str:
    """A float as a normalised C99 hexadecimal literal without trailing zeros, such as `0x1.8p-3`."""
    digits = number.hex()
    mantissa, p, exponent = digits.partition("p")
    if not p:
        return digits  # inf, -inf, nan
    if number and "0x0." in mantissa:  # float.hex() prints only subnormal doubles like this
        fraction, power = math.frexp(number)
        mantissa, _, exponent = (fraction * 2).hex().partition("p")
        exponent = str(power - 1)
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}"


def nested(items: Sequence[str], sizes: Sequence[int]) -> str:
    """Flat literals in row-major order as nested brackets; a bare literal for rank 0."""
    if not sizes:
        return items[0]
    if 0 in sizes:
        outer = math.prod(sizes[: sizes.index(0)])
        if outer > MAX_ELEMENTS:
            raise BadPackage(f"The model has an empty constant of the shape {list(sizes)}.")
        items, sizes = ["[]"] * outer, sizes[: sizes.index(0)]
        if not sizes:
            return items[0]
    for size in reversed(sizes[1:]):
        items = [f"[{', '.join(items[start : start + size])}]" for start in range(0, len(items), size)]
    return f"[{', '.join(items)}]"


def own_build_info(program: schema.Program) -> dict[str, str]:
    """The program's `buildInfo` attribute (coremltools writes its version there)."""
    if BUILD_INFO not in program.attributes:
        return {}
    build_info: dict[str, str] = {}
    for pair in program.attributes[BUILD_INFO].immediateValue.dictionary.values:
        key, text = (side.immediateValue.tensor.strings.values for side in (pair.key, pair.value))
        if len(key) != 1 or len(text) != 1:
            raise BadPackage("The model's build information is not a table of strings.")
        build_info[key[0]] = text[0]
    return build_info


def _build_info_line(program: schema.Program, form: Dialect, build_info: Mapping[str, str]) -> str:
    merged = own_build_info(program) | dict(build_info)
    pairs = ", ".join(f"{{{_quoted(key)}, {_quoted(merged[key])}}}" for key in sorted(merged))
    string = form.scalar("string")
    return f"[{BUILD_INFO} = dict<{string}, {string}>({{{pairs}}})]\n"


def _function(name: str, function: schema.Function, form: Dialect, extra: Mapping[str, schema.Value]) -> Iterator[str]:
    if function.opset not in OPSETS:
        raise UnsupportedOps(f"The function {name} uses the operation set {function.opset!r}.", ops=[function.opset])
    if function.opset not in function.block_specializations:
        raise BadPackage(f"The function {name} has no block for its operation set {function.opset}.")
    inputs = _parameters(sorted(function.inputs, key=lambda value: value.name), form)
    attributes = _attributes(dict(function.attributes.items()) | dict(extra), form)
    space = " " if attributes else ""
    yield f"{' ' * _FUNCTION}func {name}<{OPSETS[function.opset]}>({inputs}){space}{attributes} {{\n"
    yield from _body(function.block_specializations[function.opset], form, _BODY, close=_CLOSE)
    yield ";\n"


def _body(block: schema.Block, form: Dialect, indent: int, *, close: int) -> Iterator[str]:
    for operation in block.operations:
        yield from _operation(operation, form, indent)
    yield f"{' ' * close}}} -> ({', '.join(block.outputs)})"


def _operation(operation: schema.Operation, form: Dialect, indent: int) -> Iterator[str]:
    outputs = ", ".join([f"{type_text(output.type, form)} {output.name}" for output in operation.outputs])
    arguments = ", ".join([f"{key} = {_argument(value, form)}" for key, value in sorted(operation.inputs.items())])
    attributes = _attributes(operation.attributes, form)
    head = f"{' ' * indent}{outputs} = {operation.type}({arguments}){attributes}"
    if not operation.blocks:
        yield f"{head};\n"
        return
    yield head
    for block in operation.blocks:
        yield f"\n{' ' * (indent + _STEP)}({_parameters(block.inputs, form)}) {{\n"
        yield from _body(block, form, indent + 2 * _STEP, close=indent + _STEP)
    yield ";\n"


def _parameters(inputs: Iterable[schema.NamedValueType], form: Dialect) -> str:
    return ", ".join([f"{type_text(value.type, form)} {value.name}" for value in inputs])


def _attributes(attributes: Mapping[str, schema.Value], form: Dialect) -> str:
    if not attributes:
        return ""
    return f"[{', '.join([f'{key} = {value_text(value, form)}' for key, value in sorted(attributes.items())])}]"


def _argument(argument: schema.Argument, form: Dialect) -> str:
    bound = argument.arguments
    if len(bound) == 1:
        return _binding(bound[0], form)
    return f"({', '.join([_binding(binding, form) for binding in bound])})"


def _binding(binding: schema.Argument.Binding, form: Dialect) -> str:
    return binding.name or value_text(binding.value, form)


def _tensor_type_text(tensor: schema.TensorType, form: Dialect) -> str:
    name = DTYPE_NAMES.get(tensor.dataType)
    if name is None:
        raise UnsupportedOps(f"The model uses the element type {tensor.dataType}.", ops=[str(tensor.dataType)])
    if tensor.attributes:
        raise UnsupportedOps(
            "The model has a type with attributes, whose spelling is not known.", ops=list(tensor.attributes)
        )
    if not tensor.rank and not tensor.dimensions:
        return form.scalar(name)
    sizes = ", ".join(["?" if size is None else str(size) for size in dimensions(tensor)])
    return f"tensor<{name}, [{sizes}]>"


def _literal(value: schema.Value) -> str:
    """A value without its type."""
    content = value.immediateValue
    kind = content.WhichOneof("value")
    if kind == "tensor":
        return _tensor_literal(content.tensor, value.type.tensorType)
    if kind == "tuple":
        return f"({', '.join(map(_literal, content.tuple.values))})"
    if kind == "list":
        return f"[{', '.join(map(_literal, content.list.values))}]"
    if kind == "dictionary":
        pairs = (f"{{{_literal(pair.key)}, {_literal(pair.value)}}}" for pair in content.dictionary.values)
        return f"{{{', '.join(pairs)}}}"
    raise BadPackage("The model has a constant without a value.")


def _tensor_literal(tensor: schema.TensorValue, declared: schema.TensorType) -> str:
    dtype = declared.dataType
    sizes = [size for size in dimensions(declared) if size is not None]
    if len(sizes) != len(declared.dimensions):
        raise BadPackage("The model has a constant of unknown size.")
    count = math.prod(sizes)
    if count > MAX_ELEMENTS:
        raise BadPackage(
            f"The model holds a constant of {count} elements inline.",
            hint="Save it again with coremltools, which puts weights into the weight file.",
        )
    elements = decode(tensor, dtype)
    if dtype in SUB_BYTE and len(elements) >= count:
        elements = elements[:count]  # the last byte is padded
    if len(elements) != count:
        raise BadPackage(f"The model has a constant of shape {sizes} with {len(elements)} elements.")
    return nested(_element_texts(elements, dtype), sizes)


def _element_texts(elements: Sequence[object], dtype: int) -> list[str]:
    if dtype in FLOATS:
        return [hex_float(element) for element in elements]  # type: ignore[arg-type]
    if dtype == schema.BOOL:
        return ["true" if element else "false" for element in elements]
    if dtype == schema.STRING:
        return [_quoted(element) for element in elements]  # type: ignore[arg-type]
    return [str(element) for element in elements]


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) is None:
        raise BadPackage(
            f"The model has the string {text[:80]!r}, which MIL text cannot hold.",
            hint="Rename it: no quotes, backslashes or line breaks.",
        )
    return f'"{text}"'
