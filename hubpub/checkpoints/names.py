"""Names of tensors: the spellings of many years, and whether a checkpoint fits a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hubpub.checkpoints.tensors import TensorInfo
from hubpub.errors import BadWeights


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


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a checkpoint's tensors match a network's: the network's name → the checkpoint's, and what is left over."""

    names: Mapping[str, str]
    ignored: tuple[str, ...]  # tensors of the checkpoint that the network does not use, and need not


def fit(
    checkpoint: Mapping[str, TensorInfo],
    shapes: Mapping[str, Sequence[int]],
    *,
    ignored: Sequence[str],
    component: str,
    files: Sequence[str],
) -> Fit:
    """Match a network's tensors (name → shape) with those of a checkpoint that was read from `files`.

    `ignored` are regular expressions of tensors that the source's own library would skip
    (`position_ids`, EMA copies, a vision tower beside the text encoder). Raises BadWeights
    that lists all tensors that are missing, of another shape, or not part of the network.
    Axes of length 1 do not count: a linear layer is a 1×1 convolution.
    """
    names = match_names(checkpoint, shapes)
    spare = sorted(set(checkpoint) - set(names.values()))
    skipped = ignored_names(spare, ignored)
    missing = [name for name in shapes if name not in names]
    unknown = [name for name in spare if name not in skipped]
    misshapen = [
        f"{held} {checkpoint[held].shape} instead of {tuple(shapes[name])}"
        for name, held in names.items()
        if significant(checkpoint[held].shape) != significant(shapes[name])
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(shapes)} tensors are missing ({some(missing)})")
    if misshapen:
        problems.append(f"{len(misshapen)} tensors are of another shape ({some(misshapen)})")
    if unknown:
        problems.append(f"{len(unknown)} tensors are not part of the network ({some(unknown)})")
    if problems:
        raise BadWeights(
            f"The weights of the source's {component} in {some(files)} do not fit its config: {'; '.join(problems)}.",
            hint="Its config.json and its weights are not of the same model, or of a kind that hubpub does not know.",
        )
    return Fit(names=names, ignored=tuple(name for name in spare if name in skipped))


def significant(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its axes of length 1, which move no element."""
    return tuple(size for size in shape if size != 1)


def some(items: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are."""
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def ignored_names(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Those of `names` that one of the regular expressions matches wholly, as they are or in canonical()'s spelling."""
    expressions = [re.compile(pattern) for pattern in patterns]
    return {name for name in names if any(e.fullmatch(name) or e.fullmatch(canonical(name)) for e in expressions)}
