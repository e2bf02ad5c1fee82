"""The tensors of weight files, mapped and never executed."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints import safetensors, torch_zip
from hubpub.checkpoints.tensors import DTYPES, Tensor, TensorInfo
from hubpub.errors import BadWeights

_CHUNK = 1 << 18  # elements converted or checked at once: the pieces stay in the processor's cache
_WORTH_COMPILED = 1 << 17  # elements from which on importing numba is worth its half second
_DAMAGED = "Fetch the source again; the file is incomplete or damaged."


def open_weights(paths: Sequence[Path]) -> Weights:
    """Open a component's weight files (all shards together) without executing anything.

    Raises BadWeights for a file that is missing, empty, truncated, a git-LFS pointer or
    a web page, and UnsafeWeights for one that would have to be executed.
    """
    tensors: dict[str, Tensor] = {}
    maps: list[mmap.mmap] = []
    for number, path in enumerate(paths):
        content = _map(path)
        maps.append(content)
        match path.suffix:
            case ".safetensors":
                header = safetensors.tensors(content, path, number)
            case ".bin" | ".ckpt" | ".pt" | ".pth":
                header = torch_zip.tensors(content, path, number)
            case _:
                raise BadWeights(f"{path.name} is no kind of weight file that hubpub reads.", hint="Use safetensors.")
        for name in header.keys() & tensors.keys():
            raise BadWeights(f"The tensor {name} is in two of the weight files {', '.join(p.name for p in paths)}.")
        tensors |= header
    return Weights(tensors=tensors, maps=maps, paths=paths)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a weight file says before its data: where each tensor lies, and texts about the file."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of one weight file. Raises BadWeights and UnsafeWeights, as open_weights does."""
    with open_weights([path]) as weights:
        return Header(tensors=weights.located, metadata=weights.metadata())


def parse_header(start: bytes, size: int, name: str) -> Header:
    """The same of a safetensors file of `size` bytes of which only the beginning is here."""
    path = Path(name)
    return Header(
        tensors=safetensors.tensors(start, path, 0, size=size),
        metadata=safetensors.metadata(start, path),
    )


class Weights(Mapping[str, npt.NDArray[Any]]):
    """The tensors of a component's weight files, by the names the files give them.

    `weights[name]` is a read-only view of the mapped file for every dtype that numpy
    knows, and an exactly widened float32 copy for bfloat16.
    """

    def __init__(self, *, tensors: Mapping[str, Tensor], maps: Sequence[mmap.mmap], paths: Sequence[Path]) -> None:
        self._tensors = dict(tensors)
        self._maps = list(maps)
        self._paths = list(paths)

    @property
    def located(self) -> Mapping[str, Tensor]:
        """Where each tensor lies."""
        return self._tensors

    def metadata(self) -> Mapping[str, str]:
        """What the first file's header says of itself; nothing, where it is no safetensors file."""
        first = self._paths[0]
        return safetensors.metadata(self._maps[0], first) if first.suffix == ".safetensors" else {}

    def renamed(self, tensors: Mapping[str, Tensor]) -> Weights:
        """The same files with other tensors in them: views of those that they hold."""
        return Weights(tensors=tensors, maps=self._maps, paths=self._paths)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        tensor = self._tensors[name]
        array = self._raw(name)
        return _widened(array) if tensor.dtype == "BF16" else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor, in the order of the files."""
        return {name: TensorInfo(shape=tensor.shape, dtype=tensor.dtype) for name, tensor in self._tensors.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """The tensor's dtype in the file, as safetensors spells it: F16, BF16, F32, I64, …"""
        return self._tensors[name].dtype

    def nbytes(self, name: str) -> int:
        """Bytes of the tensor in the file."""
        tensor = self._tensors[name]
        return math.prod(tensor.shape) * np.dtype(DTYPES[tensor.dtype]).itemsize

    def float16(self, name: str) -> npt.NDArray[np.float16]:
        """The tensor rounded to float16, C order: a view of the file where it holds just that, else a copy.

        Raises BadWeights, naming the tensor, where a value is infinite, not a number, or
        too large for float16 (|w| > 65,504).
        """
        array = self._raw(name)
        result = array if self._is_float16(name, array) else np.empty(array.shape, np.float16)
        for _ in self._pieces(name, _CHUNK, result.reshape(-1)):
            pass
        return result

    def pieces(self, name: str, size: int) -> Iterator[npt.NDArray[np.float16]]:
        """The elements of float16(name), `size` at a time; memory: one piece, whatever dtype the file has."""
        return self._pieces(name, size, None)

    def _pieces(
        self, name: str, size: int, target: npt.NDArray[np.float16] | None
    ) -> Iterator[npt.NDArray[np.float16]]:
        array = self._raw(name)
        # A strided tensor is flattened by copying it, which only old `.bin` files need.
        source = np.require(array, requirements="A").reshape(-1)
        mapped = self._is_float16(name, array)
        convert = _check if mapped else _converter(self.dtype(name), array.size)
        for start in range(0, source.size, size):
            piece = source[start : start + size]
            if target is not None:
                halves = target[start : start + size]
            else:
                halves = piece if mapped else np.empty(piece.size, np.float16)
            if not convert(piece, halves):
                raise _too_wide(f"The tensor {name} of {self._paths[self._tensors[name].file].name}")
            yield halves
            self.release(name, first=start, count=size)

    def _is_float16(self, name: str, array: npt.NDArray[Any]) -> bool:
        """Whether the file holds the tensor just as float16() returns it."""
        return self.dtype(name) == "F16" and array.flags.c_contiguous and array.flags.aligned

    def release(self, name: str, *, first: int = 0, count: int | None = None) -> None:
        """Give the pages of `count` elements (default: all) back to the system; reading them again reads the file."""
        tensor = self._tensors[name]
        if tensor.strides is not None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        itemsize = np.dtype(DTYPES[tensor.dtype]).itemsize
        elements = math.prod(tensor.shape)
        last = elements if count is None else min(first + count, elements)
        start = -(-(tensor.start + first * itemsize) // mmap.PAGESIZE) * mmap.PAGESIZE
        length = tensor.start + last * itemsize - start
        if length > 0:
            self._maps[tensor.file].madvise(mmap.MADV_DONTNEED, start, length)

    def close(self) -> None:
        """Release the maps (arrays that still use them keep them alive)."""
        for content in self._maps:
            with contextlib.suppress(BufferError):  # an array still looks into it; the map goes with the last one
                content.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _raw(self, name: str) -> npt.NDArray[Any]:
        tensor = self._tensors[name]
        kind = np.dtype(DTYPES[tensor.dtype])
        strides = None if tensor.strides is None else [step * kind.itemsize for step in tensor.strides]
        return np.ndarray(tensor.shape, kind, self._maps[tensor.file], tensor.start, strides)


def rounded(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float16]:
    """Computed values as float16, to the nearest. BadWeights, naming the tensor, for one too large or no number."""
    halves = np.empty(values.size, np.float16)
    if not _converter("F32", values.size)(values, halves):
        raise _too_wide(f"The tensor {name}, with its LoRAs,")
    return halves


def _too_wide(what: str) -> BadWeights:
    return BadWeights(
        f"{what} holds values that are infinite, not a number, or too large for float16.",
        hint="The checkpoint is broken, or was never meant for 16 bits; use another revision of it.",
    )


def _check(source: npt.NDArray[Any], target: npt.NDArray[np.float16]) -> bool:
    """Whether no float16 has the exponent of infinities and NaNs (three times as fast as np.isfinite)."""
    return bool((target.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0) < 0x7C00)


def _round(source: npt.NDArray[Any], target: npt.NDArray[np.float16]) -> bool:
    """Round `source` into `target`; whether all of it is finite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        target[...] = source
    return _check(source, target)


def _converter(dtype: str, size: int) -> Callable[[npt.NDArray[Any], npt.NDArray[np.float16]], bool]:
    """How a tensor of that dtype and size is best rounded; all ways give the same bits."""
    if dtype not in ("F32", "BF16"):
        return _round
    if size < _WORTH_COMPILED:
        return _round if dtype == "F32" else lambda source, target: _round(_widened(source), target)
    from hubpub.checkpoints import rounding

    if dtype == "F32":
        return lambda source, target: rounding.round_float32(source.view(np.uint32), target.view(np.uint16))
    return lambda source, target: rounding.round_bfloat16(source, target.view(np.uint16))


def _widened(bfloat16: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return (bfloat16.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _map(path: Path) -> mmap.mmap:
    """The mapped file, after checks that detect an incomplete download."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
            if not start:
                raise BadWeights(f"The weight file {path.name} is empty.", hint=_DAMAGED)
            if start.startswith(b"version https://git-lfs"):
                raise BadWeights(
                    f"{path.name} is a git-LFS pointer, not the weights it points to.",
                    hint="Run `git lfs pull` in the source's checkout.",
                )
            if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
                raise BadWeights(
                    f"{path.name} is a web page, not a weight file.",
                    hint="The download saved an error or a sign-in page; fetch the source again.",
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise BadWeights(f"The weight file {path} is missing.", hint="Fetch the source again.") from None
    except OSError as error:
        raise BadWeights(f"The weight file {path} cannot be read: {error.strerror}.") from error
