"""Which weight files of a folder are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hubpub.errors import BadWeights

_DAMAGED = "Fetch the source again; files are missing."
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_NAME = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(?P<fp16>\.fp16)?"
    r"(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?P<late_fp16>\.fp16)?\.(?P<kind>safetensors|bin)"
)
# The best that a folder may hold comes first: (kind, fp16).
_PREFERENCE = (("safetensors", True), ("safetensors", False), ("bin", True), ("bin", False))


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
            f"The source's folder {folder!r} holds an incomplete set of weight files: {what}.",
            hint=_DAMAGED,
        )
    return tuple(path for _, _, path in files)
