"""A source component's weight files: which to read, and their tensors, mapped and never executed.

safetensors are read by this module itself: the format is a length, a JSON header and
plain arrays (https://github.com/huggingface/safetensors#format), and the library's numpy
reader copies every tensor and says "error while deserializing" for a truncated file, a
git-LFS pointer and a web page alike. `.bin` files are read by `hubpub.checkpoints.torch_zip`.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints import torch_zip
from hubpub.checkpoints.tensors import DTYPES, Tensor
from hubpub.errors import BadWeights

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_NAME = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(?P<fp16>\.fp16)?"
    r"(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?P<late_fp16>\.fp16)?\.(?P<kind>safetensors|bin)"
)
# The best that a folder may hold comes first: (kind, fp16).
_PREFERENCE = (("safetensors", True), ("safetensors", False), ("bin", True), ("bin", False))
_MAX_HEADER = 100_000_000  # the limit of the safetensors library
_CHUNK = 1 << 18  # elements converted or checked at once: the pieces stay in the processor's cache
_WORTH_COMPILED = 1 << 17  # elements from which on importing numba is worth its half second
_DAMAGED = "Fetch the source again; the file is incomplete or damaged."


def choose(files: Iterable[str], *, folder: str) -> tuple[str, ...]:
    """The weight files of a component among a repo's `files` (paths as the repo lists them), in reading order.

    fp16 safetensors before safetensors before fp16 `.bin` before `.bin`; of each, one
    file before shards. Other variants (`non_ema`) and other frameworks' files are not
    looked at. Raises BadWeights where nothing is left, or where shards are missing.
    """
    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    found: dict[tuple[str, bool, bool, str], list[tuple[int, int, str]]] = {}
    for path in files:
        match = _NAME.fullmatch(path.removeprefix(prefix)) if path.startswith(prefix) else None
        if match is None:
            continue
        group = (match["kind"], bool(match["fp16"] or match["late_fp16"]), match["shard"] is not None, match["stem"])
        found.setdefault(group, []).append((int(match["shard"] or 1), int(match["shards"] or 1), path))
    for kind, fp16 in _PREFERENCE:
        for sharded in (False, True):
            for stem in _STEMS:
                if group_files := found.get((kind, fp16, sharded, stem)):
                    return _complete(sorted(group_files), folder)
    raise BadWeights(
        f"The source's folder {folder!r} holds no weights.",
        hint="hubpub reads *.safetensors and *.bin files with the names that diffusers and transformers give them.",
    )


def _complete(files: Sequence[tuple[int, int, str]], folder: str) -> tuple[str, ...]:
    """The paths of all shards, once each; `files` are (number, of how many, path), sorted."""
    total = files[0][1]
    numbers = [number for number, of, _ in files if of == total]
    if numbers != list(range(1, total + 1)) or len(numbers) != len(files):
        missing = sorted(set(range(1, total + 1)) - set(numbers))
        what = f"shards {missing[:5]} of {total} are missing" if missing else "shards of several sets lie side by side"
        raise BadWeights(
            f"The source's folder {folder!r} holds an incomplete set of weight files: {what}.", hint=_DAMAGED
        )
    return tuple(path for _, _, path in files)


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
                header = _safetensors(content, path, number)
            case ".bin":
                header = torch_zip.tensors(content, path, number)
            case _:
                raise BadWeights(f"{path.name} is no kind of weight file that hubpub reads.", hint="Use safetensors.")
        for name in header.keys() & tensors.keys():
            raise BadWeights(f"The tensor {name} is in two of the weight files {', '.join(p.name for p in paths)}.")
        tensors |= header
    return Weights(tensors=tensors, maps=maps, paths=paths)


def canonical(name: str) -> str:
    """One spelling for all names that a tensor has had over the years; two names with the same one are the same tensor.

    Facts: diffusers renamed the VAE attention's query/key/value/proj_attn to
    to_q/to_k/to_v/to_out.0 (its `ModelMixin._fix_state_dict_keys_on_load`), transformers 5
    dropped `text_model.` from CLIPTextModel and the inner `vision_model.` of CLIPVisionModel,
    and wrappers put `module.` or `model.` before everything.
    """
    for wrapper in ("state_dict.", "module.", "model.", "text_model."):
        name = name.removeprefix(wrapper)
    name = name.replace("vision_model.vision_model.", "vision_model.")
    old = re.fullmatch(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    if old:
        new = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}[old[2]]
        name = f"{old[1]}.{new}.{old[3]}"
    return name


def match_names(available: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """Wanted name → the name under which a source holds it; what the source lacks is left out.

    A name that is there literally wins. Raises BadWeights when two others would do.
    """
    available = set(available)
    by_canonical: dict[str, list[str]] = {}
    for name in sorted(available):
        by_canonical.setdefault(canonical(name), []).append(name)
    found = {}
    for name in wanted:
        candidates = [name] if name in available else by_canonical.get(canonical(name), [])
        if len(candidates) > 1:
            raise BadWeights(f"The source holds {name} under several names: {', '.join(candidates)}.")
        if candidates:
            found[name] = candidates[0]
    return found


def fitting_names(
    available: Iterable[str], wanted: Sequence[str], *, ignored: Sequence[str], component: str
) -> dict[str, str]:
    """match_names() of a network's tensors, all of which a source must hold, and no others but the `ignored` ones.

    Raises BadWeights that names what is missing and what is not known.
    """
    available = tuple(available)
    held = match_names(available, wanted)
    missing = [name for name in wanted if name not in held]
    spare = sorted(set(available) - set(held.values()))
    unknown = sorted(set(spare) - ignored_names(spare, ignored))
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(wanted)} tensors are missing ({some(missing)})")
    if unknown:
        problems.append(f"{len(unknown)} tensors are not part of the network ({some(unknown)})")
    if problems:
        raise BadWeights(
            f"The weights of the source's {component} do not fit its config: {'; '.join(problems)}.",
            hint="Its config.json and its weights are not of the same model, or of a kind that hubpub does not know.",
        )
    return held


def some(items: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are."""
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def ignored_names(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Those of `names` that one of the regular expressions matches wholly, as they are or in canonical()'s spelling."""
    expressions = [re.compile(pattern) for pattern in patterns]
    return {name for name in names if any(e.fullmatch(name) or e.fullmatch(canonical(name)) for e in expressions)}


class Weights(Mapping[str, npt.NDArray[Any]]):
    """The tensors of a component's weight files, by the names the files give them.

    `weights[name]` is a read-only view of the mapped file for every dtype that numpy
    knows, and an exactly widened float32 copy for bfloat16.
    """

    def __init__(self, *, tensors: Mapping[str, Tensor], maps: Sequence[mmap.mmap], paths: Sequence[Path]) -> None:
        self._tensors = dict(tensors)
        self._maps = list(maps)
        self._paths = list(paths)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        tensor = self._tensors[name]
        array = self._raw(name)
        return _widened(array) if tensor.dtype == "BF16" else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def names(self) -> tuple[str, ...]:
        """All names, in the order of the files."""
        return tuple(self._tensors)

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
                rounded = target[start : start + size]
            else:
                rounded = piece if mapped else np.empty(piece.size, np.float16)
            if not convert(piece, rounded):
                raise BadWeights(
                    f"The tensor {name} of {self._paths[self._tensors[name].file].name} holds values that are "
                    "infinite, not a number, or too large for float16.",
                    hint="The checkpoint is broken, or was never meant for 16 bits; use another revision of it.",
                )
            yield rounded
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
    """The file in memory, after the checks that tell what a failed download left there."""
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


def _safetensors(content: mmap.mmap, path: Path, file: int) -> dict[str, Tensor]:
    """Name → where it lies, in the order of the data; every number is checked against the file's size."""
    if len(content) < 8:
        raise BadWeights(f"{path.name} is truncated: {len(content)} bytes.", hint=_DAMAGED)
    (length,) = struct.unpack("<Q", content[:8])
    if length > _MAX_HEADER or content[8:9] != b"{":
        raise BadWeights(f"{path.name} is not a safetensors file.", hint=_DAMAGED)
    data = 8 + length
    if data > len(content):
        raise BadWeights(f"{path.name} is truncated in its header.", hint=_DAMAGED)
    try:
        header = json.loads(content[8:data], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path.name} has a header that is not valid: {error}.", hint=_DAMAGED) from error
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if isinstance(entry, dict) and isinstance(kind := entry.get("dtype"), str) and kind not in DTYPES:
            raise BadWeights(
                f"{path.name} stores {name} as {kind}, which hubpub does not read.",
                hint="Use a source with float16, bfloat16 or float32 weights.",
            )
        tensor = _entry(entry, data, file)
        if tensor is None:
            raise BadWeights(
                f"{path.name} describes the tensor {name} in a way that contradicts itself.", hint=_DAMAGED
            )
        found[name] = tensor
    ordered = dict(sorted(found.items(), key=lambda item: item[1].start))
    end = data
    for name, tensor in ordered.items():
        if tensor.start != end:
            raise BadWeights(f"{path.name} has tensors that overlap or leave gaps, at {name}.", hint=_DAMAGED)
        end += math.prod(tensor.shape) * np.dtype(DTYPES[tensor.dtype]).itemsize
    if end != len(content):
        what = f"is truncated: {len(content)} of {end}" if end > len(content) else f"has {len(content) - end} surplus"
        raise BadWeights(f"{path.name} {what} bytes.", hint=_DAMAGED)
    return ordered


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _entry(entry: Any, data: int, file: int) -> Tensor | None:
    """One tensor of the header; None when it is malformed or its size does not follow from its shape."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if dtype in DTYPES:
            if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
                return None
            if end - start != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize or start < 0:
                return None
            return Tensor(file=file, dtype=dtype, shape=tuple(shape), start=data + start, strides=None)
        case _:
            return None
