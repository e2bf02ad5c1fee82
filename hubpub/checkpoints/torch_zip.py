"""Tensors of a `.bin` file (torch's zip format), found without executing what the file contains.

The file is a zip of uncompressed members: `<root>/data.pkl`, a pickle that builds a
dict of tensors, and `<root>/data/<key>`, one per storage
(https://github.com/pytorch/pytorch/blob/main/docs/source/notes/serialization.rst).
A pickle is a program for a stack machine. Python's own machine imports and calls what
the program names; the one in this module knows the few instructions that a state dict
needs, and of names only those that torch puts into one. It imports and calls nothing:
a tensor becomes a record of numbers. Anything else refuses the file.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from hubpub.checkpoints.tensors import DTYPES, Tensor
from hubpub.errors import BadWeights, UnsafeWeights

_MAX_PICKLE = 64 << 20  # a state dict of 10,000 tensors has about 2 MB
_MAX_MEMBERS = 100_000
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DAMAGED = "Fetch the source again; the file is incomplete or damaged."
_CONVERT = "Convert the source to safetensors, or use a revision that has safetensors files."

_STORAGES = {
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch FloatStorage": "F32",
    "torch DoubleStorage": "F64",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch ShortStorage": "I16",
    "torch IntStorage": "I32",
    "torch LongStorage": "I64",
    "torch BoolStorage": "BOOL",
}


def tensors(content: mmap.mmap, path: Path, file: int) -> dict[str, Tensor]:
    """Name → where it lies in the mapped file.

    Raises UnsafeWeights where the pickle does anything but build a state dict, BadWeights
    where the file is damaged.
    """
    if content[:1] == b"\x80":
        raise UnsafeWeights(f"{path.name} is a bare pickle, as torch wrote before version 1.6.", hint=_CONVERT)
    members = _members(content, path)
    programs = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(programs) != 1:
        raise BadWeights(f"{path.name} is a zip, but not one that torch.save wrote.", hint=_CONVERT)
    root = programs[0].removesuffix("data.pkl")
    order, length = members.get(root + "byteorder", (0, 0))
    if length and content[order : order + min(length, 8)] != b"little":
        raise BadWeights(f"{path.name} was written on a big-endian machine.", hint=_CONVERT)
    start, size = members[programs[0]]
    if size > _MAX_PICKLE:
        raise UnsafeWeights(f"{path.name} holds a pickle of {size} bytes; no state dict needs that.", hint=_CONVERT)
    found = {}
    for name, view in _state_dict(_run(content[start : start + size], path), path).items():
        # Step counters and the like are left out; a tensor that the network needs is missed by name.
        if isinstance(name, str) and isinstance(view, _View):
            found[name] = _place(view, members.get(f"{root}data/{view.storage.key}"), f"{path.name}: {name}", file)
    return found


def _members(content: mmap.mmap, path: Path) -> dict[str, tuple[int, int]]:
    """Member name → (offset of its bytes, how many), for an uncompressed zip whose members do not overlap."""
    try:
        with zipfile.ZipFile(cast("Any", io.BufferedReader(_Stream(content)))) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError, struct.error, EOFError, OSError) as error:
        raise BadWeights(f"{path.name} is truncated, or is no weight file: {error}.", hint=_DAMAGED) from error
    if len(infos) > _MAX_MEMBERS:
        raise UnsafeWeights(f"{path.name} has {len(infos)} members.", hint=_CONVERT)
    found: dict[str, tuple[int, int]] = {}
    end = 0
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise UnsafeWeights(f"{path.name} has compressed or encrypted members; torch writes none.", hint=_CONVERT)
        header = content[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        signature, name_size, extra_size = _LOCAL_HEADER.unpack(header.ljust(_LOCAL_HEADER.size))
        start = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
        if info.header_offset < end or signature != b"PK\x03\x04" or info.filename in found:
            raise UnsafeWeights(f"{path.name} has members that overlap or are given twice.", hint=_CONVERT)
        end = start + info.file_size
        if end > len(content):
            raise BadWeights(f"{path.name} is truncated: it ends inside {info.filename}.", hint=_DAMAGED)
        found[info.filename] = (start, info.file_size)
    return found


class _Stream(io.RawIOBase):
    """A mapped file as the seekable stream that zipfile reads the directory from."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}[whence]
        if base + offset < 0:
            raise OSError("a position before the start of the file")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._content[self._at : self._at + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(frozen=True, kw_only=True)
class _Global:
    """What the program imports: "module attribute"."""

    name: str


@dataclass(frozen=True, kw_only=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass(frozen=True, kw_only=True)
class _View:
    """A tensor: a storage, seen through an offset, sizes and strides (all in elements)."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Inert:
    """An object of a training tool, which is never made: a name that stands where the object would."""


class _Refused(Exception):
    """The program does something that no state dict needs; the text says what."""


@dataclass(kw_only=True)
class _Machine:
    """The stack machine of the pickle format."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        return self.take(len(self.stack) - self.marks.pop())

    def take(self, count: int) -> list[Any]:
        """Pop the top `count` values; the top one comes last."""
        if not 0 <= count <= len(self.stack):
            raise ValueError("an instruction wants more than there is")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken


def _run(program: bytes, path: Path) -> Any:
    """What the pickle builds, out of dicts, lists, tuples, strings, numbers and _View."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name in _VALUES:
                machine.stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](machine, argument)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                raise _Refused(f"uses the instruction {opcode.name}")
        return machine.stack[-1]
    except _Refused as refused:
        raise UnsafeWeights(f"{path.name} holds a pickle that {refused}.", hint=_CONVERT) from None
    except (ValueError, TypeError, LookupError, EOFError, OverflowError) as error:
        raise BadWeights(f"{path.name} holds a pickle that is damaged.", hint=_DAMAGED) from error


def _import(machine: _Machine, name: str) -> None:
    if name.startswith(_INERT):
        machine.stack.append(_Inert())
        return
    if name not in _CALLS and name not in _STORAGES:
        raise _Refused(f"would run {name.replace(' ', '.')} when it is loaded")
    machine.stack.append(_Global(name=name))


def _set_items(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items for something that is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, _Inert):
            continue
        if not isinstance(key, str | int):
            raise _Refused("has a dict whose keys are neither strings nor numbers")
        target[key] = value


def _append(machine: _Machine, values: list[Any]) -> None:
    if not isinstance(machine.stack[-1], list):
        raise ValueError("values for something that is no list")
    machine.stack[-1].extend(values)


def _dict(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.stack.append({})
    _set_items(machine, items)


def _build(machine: _Machine) -> None:
    """State for an object: torch gives its OrderedDict a `_metadata`, which is ignored."""
    machine.take(1)
    if not isinstance(machine.stack[-1], dict | _Inert):
        raise _Refused("sets the state of something that is no dict")


def _call(machine: _Machine) -> None:
    function, arguments = machine.take(2)
    if isinstance(function, _Inert):
        machine.stack.append(function)
        return
    if not isinstance(function, _Global) or function.name not in _CALLS or not isinstance(arguments, tuple):
        raise _Refused("calls something that is no function")
    machine.stack.append(_CALLS[function.name](*arguments))


def _storage(machine: _Machine) -> None:
    match machine.take(1):
        case [("storage", _Global(name=name), str(key), str(), int(count))] if name in _STORAGES and count >= 0:
            machine.stack.append(_Storage(dtype=_STORAGES[name], key=key, count=count))
        case _:
            raise ValueError("a persistent id that is no storage")


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise ValueError("a tensor with sizes that are no sizes")
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > 16:
        raise ValueError("not a tensor")
    return _View(storage=storage, offset=offset, shape=tuple(shape), strides=tuple(strides))


def _rebuild_parameter(view: Any, *_: Any) -> _View:
    if not isinstance(view, _View):
        raise ValueError("a parameter that is no tensor")
    return view


# PyTorch Lightning's checkpoints hold its callbacks and numpy's numbers beside the state dict.
_INERT = (
    "pytorch_lightning.",
    "lightning.",
    "omegaconf.",
    "numpy.core.multiarray ",
    "numpy._core.multiarray ",
    "numpy dtype",
)
_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
}
# Instructions that put their argument, decoded by pickletools, on the stack.
_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
)
_INSTRUCTIONS: Mapping[str, Callable[[_Machine, Any], object]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.take(3))),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": lambda machine, _: _dict(machine),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.take(1),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "APPEND": lambda machine, _: _append(machine, machine.take(1)),
    "APPENDS": lambda machine, _: _append(machine, machine.since_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, machine.take(2)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.since_mark()),
    "PUT": lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1]),
    "BINPUT": lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1]),
    "MEMOIZE": lambda machine, _: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "GET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "GLOBAL": _import,
    "STACK_GLOBAL": lambda machine, _: _import(machine, "{} {}".format(*machine.take(2))),
    "REDUCE": lambda machine, _: _call(machine),
    "BUILD": lambda machine, _: _build(machine),
    "BINPERSID": lambda machine, _: _storage(machine),
}


def _state_dict(loaded: Any, path: Path) -> dict[Any, Any]:
    """The dict of tensors, which training tools wrap in another one."""
    for _ in range(3):
        if not isinstance(loaded, dict):
            break
        if any(isinstance(value, _View) for value in loaded.values()):
            return loaded
        loaded = next((loaded[key] for key in ("state_dict", "model", "module") if key in loaded), None)
    raise BadWeights(f"{path.name} holds no state dict.", hint=_CONVERT)


def _place(view: _View, member: tuple[int, int] | None, name: str, file: int) -> Tensor:
    """Where a view of a storage lies in the file; raises BadWeights when it reaches beyond its storage."""
    if member is None:
        raise BadWeights(f"{name} has no data in the file.", hint=_DAMAGED)
    start, length = member
    itemsize = np.dtype(DTYPES[view.storage.dtype]).itemsize
    empty = 0 in view.shape
    last = view.offset + sum((size - 1) * step for size, step in zip(view.shape, view.strides, strict=True))
    if not empty and (last >= view.storage.count or (last + 1) * itemsize > length):
        raise BadWeights(f"{name} reaches beyond its storage.", hint=_DAMAGED)
    own = [math.prod(view.shape[axis + 1 :]) for axis in range(len(view.shape))]
    contiguous = all(size == 1 or step == row for size, step, row in zip(view.shape, view.strides, own, strict=True))
    return Tensor(
        file=file,
        dtype=view.storage.dtype,
        shape=view.shape,
        start=start if empty else start + view.offset * itemsize,
        strides=None if contiguous or empty else view.strides,
    )
