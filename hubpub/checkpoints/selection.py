"""Which weight files of a folder are read: those that diffusers' or transformers' own loader takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hubpub.errors import BadWeights

_DAMAGED = "Fetch the source again; files are missing."
_NAME = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(?:\.(?P<variant>[A-Za-z0-9_]+))??"
    r"(?:-(?P<shard>\d{5})-of-(?P<shards>\d{5}))?(?:\.(?P<late>[A-Za-z0-9_]+))??\.(?P<kind>safetensors|bin)"
)
_INDEX = re.compile(r"(?P<stem>\w+?)\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json")
# Variants that are taken where a folder has nothing else, the best first: EMA copies and others are never meant.
_ALONE = ("fp16", "bf16", "fp32")

# kind, sharded, stem, variant ("" for none)
_Group = tuple[str, bool, str, str]


def choose(files: Iterable[str], *, folder: str, variant: str | None = None) -> tuple[str, ...]:
    """The weight files of a component among a repo's `files` (paths as the repo lists them), in reading order.

    Without `variant` those that the loaders take with default arguments: safetensors before `.bin`; of each, diffusers
    takes shards with an index before one file, transformers one file before shards
    (`ModelMixin.from_pretrained`, `PreTrainedModel.from_pretrained`). With `variant`, the files of that name, or the
    plain ones where this folder has none of it, as `DiffusionPipeline.from_pretrained(variant=)` does. A folder that
    has nothing but fp16 files is read as if they had been asked for, which the loaders refuse.
    Raises BadWeights where nothing is left, or where shards are missing.
    """
    groups, indexes = _grouped(files, folder)
    variants = [variant, ""] if variant else ["", *_ALONE]
    for name in variants:
        for group in _order(name, indexes):
            if found := groups.get(group):
                return _complete(sorted(found), folder)
    raise BadWeights(
        f"The source's folder {folder!r} holds no weights.",
        hint="hubpub reads *.safetensors and *.bin files with the names that diffusers and transformers give them.",
    )


def passed_over(files: Iterable[str], *, folder: str, chosen: Iterable[str]) -> tuple[str, ...]:
    """The weight files of the folder that were not chosen."""
    groups, _ = _grouped(files, folder)
    every = {path for group in groups.values() for _, _, path in group}
    return tuple(sorted(every - set(chosen)))


def variants_of(files: Iterable[str], *, folder: str) -> set[str]:
    """The variants that a folder has weight files of."""
    return {variant for _, _, _, variant in _grouped(files, folder)[0] if variant}


def _grouped(
    files: Iterable[str], folder: str
) -> tuple[dict[_Group, list[tuple[int, int, str]]], set[tuple[str, str, str]]]:
    """Weight files as (number of the shard, of how many, path) by group; and (kind, stem, variant) of the indexes."""
    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    groups: dict[_Group, list[tuple[int, int, str]]] = {}
    indexes = set()
    for path in files:
        if not path.startswith(prefix):
            continue
        name = path.removeprefix(prefix)
        if match := _NAME.fullmatch(name):
            sharded, variant = match["shard"] is not None, match["variant"] or match["late"] or ""
            group = (match["kind"], sharded, match["stem"], variant)
            groups.setdefault(group, []).append((int(match["shard"] or 1), int(match["shards"] or 1), path))
        elif match := _INDEX.fullmatch(name):
            indexes.add((match["kind"], match["stem"], match["variant"] or ""))
    return groups, indexes


def _order(variant: str, indexes: set[tuple[str, str, str]]) -> Iterable[_Group]:
    """The groups of a variant in the order in which the loaders look for them."""
    for kind in ("safetensors", "bin"):
        for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
            first = stem == "diffusion_pytorch_model" and (kind, stem, variant) in indexes
            for sharded in (True, False) if first else (False, True):
                yield kind, sharded, stem, variant


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
