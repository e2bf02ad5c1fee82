"""LoRAs: what they add to the tensors of a model, read from files of all common forms and added while weights are read.

A LoRA holds two thin matrices for a layer; their product, times a scale, is added to the layer's weights:
W' = W + scale · (alpha / rank) · up · down (Hu et al. 2021, arXiv:2106.09685; alpha is rank where a file names none).
For convolutions up is 1×1 and down has the kernel; LyCORIS' LoCon may have a third one between them ("mid").
Names: diffusers' and PEFT's state dicts, kohya's sd-scripts, LyCORIS; diffusers' `loaders/lora_conversion_utils.py`
reads the same and is the oracle of the tests.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hubpub.checkpoints import ldm
from hubpub.checkpoints.names import canonical, some
from hubpub.checkpoints.tensors import TensorInfo
from hubpub.checkpoints.weights import Weights, rounded
from hubpub.errors import BadWeights

_ROWS = 1 << 20  # elements of a product that are computed at once
_KEPT = 4  # merged tensors in memory
_HINT = "Use a LoRA in the form of diffusers, PEFT, kohya or LoCon, trained for this model's family."

# The module's name is what stands before; the rest says which of its tensors it is.
_ENDS = re.compile(
    r"(?P<module>.+?)(?:\.lora\.|\.lora_linear_layer\.|_lora\.|\.lora_)"
    r"(?P<part>down|up|mid|A|B)(?:\.default|\.default_0)?(?:\.weight)?"
)
_PARTS = {"down": "down", "A": "down", "up": "up", "B": "up", "mid": "mid"}
_COMPONENTS = (
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("unet.", "unet"),
)
# What other methods call their tensors.
_FOREIGN = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    "ia3_l": "IA3",
    "lora_B.bias": "LoRA with biases",
}


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a LoRA adds to one tensor: names of the file's tensors, and alpha where its header says one."""

    up: str
    down: str
    mid: str | None = None
    alpha: str | None = None
    stated: float | None = None


def read_lora(
    tensors: Mapping[str, TensorInfo], *, name: str, metadata: Mapping[str, str] | None = None
) -> dict[str, dict[str, Delta]]:
    """By component (unet, text_encoder, text_encoder_2), the module as the file spells it → what is added.

    `name` is the file's, for errors; `metadata` that of its header, where diffusers keeps the alphas of PEFT.
    Raises BadWeights for a tensor that is of no known form: every one is used.
    """
    parts: dict[tuple[str, str], dict[str, str]] = {}
    unknown = []
    for key in tensors:
        if key.endswith((".diff", ".diff_b")):
            raise BadWeights(
                f"{name} holds whole weights beside its LoRA ({key}), which hubpub does not merge yet.", hint=_HINT
            )
        for mark, method in _FOREIGN.items():
            if mark in key:
                raise BadWeights(f"{name} holds {method} ({key}), which hubpub does not merge yet.", hint=_HINT)
        found = _parsed(key)
        if found is None:
            unknown.append(key)
        else:
            component, module, part = found
            its = parts.setdefault((component, module), {})
            if part in its:
                raise BadWeights(f"{name} holds one matrix twice: {its[part]} and {key}.", hint="The file is damaged.")
            its[part] = key
    if unknown:
        raise BadWeights(f"{name} is no LoRA that hubpub knows: it holds {some(unknown)}.", hint=_HINT)
    if not parts:
        raise BadWeights(f"{name} holds no tensors.", hint=_HINT)
    settings = _settings(metadata or {}, name)
    deltas: dict[str, dict[str, Delta]] = {}
    for (component, module), its in parts.items():
        if "up" not in its or "down" not in its:
            lacking = "up" if "up" not in its else "down"
            raise BadWeights(f"{name} lacks the {lacking} matrix of {module}.", hint="The file is incomplete.")
        _check_product(its, tensors, name)
        stated = _stated(settings, component, module, rank=tensors[its["down"]].shape[0], name=name)
        deltas.setdefault(component, {})[module] = Delta(**its, stated=stated)
    return deltas


def assign(
    deltas: Mapping[str, Delta],
    weights: Mapping[str, Sequence[int]],
    *,
    component: str,
    name: str,
    infos: Mapping[str, TensorInfo],
) -> dict[str, Delta]:
    """The tensor of the network (one of `weights`, name → shape) → what is added to it.

    Raises BadWeights that names the modules which the network has not, or of other shapes.
    """
    modules = {weight.removesuffix(".weight"): weight for weight in weights if weight.endswith(".weight")}
    places = {_flat(canonical(module)): weight for module, weight in modules.items()}
    if component == "unet":
        places |= {_flat(old): modules[module] for module, old in ldm.unet_modules(modules).items()}
    found: dict[str, Delta] = {}
    lost, twice, misfits = [], [], []
    for module, delta in deltas.items():
        weight = places.get(_flat(canonical(module)))
        if weight is None:
            lost.append(module)
            continue
        if weight in found:
            twice.append(module)
        found[weight] = delta
        shape = _shape(delta, infos)
        if _without_point(shape) != _without_point(weights[weight]):
            misfits.append(f"{module} {shape} instead of {tuple(weights[weight])}")
    problems = [f"the model has no {some(lost)}"] if lost else []
    if twice:
        problems.append(f"it changes {some(twice)} twice, under two names")
    if misfits:
        problems.append(some(misfits))
    if problems:
        raise BadWeights(
            f"The LoRA {name} does not fit the model's {component}: {'; '.join(problems)}.",
            hint="Choose a LoRA that was trained for this model's family.",
        )
    return found


class Merged:
    """A checkpoint with LoRAs added: each tensor exists merged only while it is read, rounded once from fp32."""

    def __init__(self, base: Weights, loras: Sequence[tuple[Weights, Mapping[str, Delta], float]]) -> None:
        """`loras`: the file, the base's name of each tensor → what is added, and the scale."""
        self._base = base
        self._loras = tuple(loras)
        self._changed = {name for _, deltas, _ in loras for name in deltas}
        self._kept: dict[str, npt.NDArray[np.float16]] = {}  # a palette reads its tensor twice
        self._lock = Lock()

    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name → shape and dtype: the base's."""
        return self._base.tensors()

    def float16(self, name: str) -> npt.NDArray[np.float16]:
        """The whole tensor, merged."""
        if name not in self._changed:
            return self._base.float16(name)
        return self._whole(name).reshape(self._base.shape(name))

    def pieces(self, name: str, size: int) -> Iterator[npt.NDArray[np.float16]]:
        """The elements of float16(name), `size` at a time."""
        if name not in self._changed:
            yield from self._base.pieces(name, size)
            return
        values = self._whole(name)
        for start in range(0, values.size, size):
            yield values[start : start + size]

    def release(self, name: str) -> None:
        """Give the memory of a tensor back to the system."""
        with self._lock:
            self._kept.pop(name, None)
        self._base.release(name)

    def close(self) -> None:
        """Release all files."""
        self._base.close()
        for file, _, _ in self._loras:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _whole(self, name: str) -> npt.NDArray[np.float16]:
        """All merged elements; the last few tensors are kept until they are released."""
        with self._lock:
            kept = self._kept.get(name)
        if kept is None:
            kept = self._merge(name)
            with self._lock:
                self._kept[name] = kept
                while len(self._kept) > _KEPT:
                    del self._kept[next(iter(self._kept))]
        return kept

    def _merge(self, name: str) -> npt.NDArray[np.float16]:
        """Some rows at a time, so that only they exist in fp32."""
        array = self._base[name]
        rows = array.reshape(array.shape[0], -1)
        whole = np.empty(rows.size, np.float16)
        # rounded() reports what is too large or no number; numpy need not warn of it before.
        with np.errstate(over="ignore", invalid="ignore"):
            factors = [
                _factors(file, deltas[name], scale, rows.shape) for file, deltas, scale in self._loras if name in deltas
            ]
            step = max(1, _ROWS // max(1, rows.shape[1]))
            for start in range(0, rows.shape[0], step):
                merged = rows[start : start + step].astype(np.float32)
                for up, down in factors:
                    merged += up[start : start + step] @ down
                place = start * rows.shape[1]
                whole[place : place + merged.size] = rounded(merged.reshape(-1), name)
        self._base.release(name)
        return whole


def _factors(
    file: Weights, delta: Delta, scale: float, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Two fp32 matrices whose product, (rows, everything else), is what is added."""
    up = _float32(file, delta.up)
    down = _float32(file, delta.down)
    rank = down.shape[0]
    alpha = delta.stated if delta.stated is not None else float(rank)
    if delta.alpha is not None:
        alpha = float(_float32(file, delta.alpha).reshape(-1)[0])
    factor = np.float32(scale * alpha / rank)
    up = up.reshape(up.shape[0], -1)
    if delta.mid is not None:
        # (rank, rank, k, k) between them; down's second axis goes last but for the kernel
        middle = _float32(file, delta.mid)
        inner = np.einsum("rskl,si->rikl", middle, down.reshape(rank, -1))
        return up * factor, np.ascontiguousarray(inner.reshape(middle.shape[0], -1))
    return up * factor, down.reshape(rank, -1).reshape(rank, shape[1])


def _float32(file: Weights, name: str) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(file[name], np.float32)


# -- names -----------------------------------------------------------------------------------------------------


def _parsed(key: str) -> tuple[str, str, str] | None:
    """(component, module, part) of a tensor's name."""
    name = re.sub(r"^(base_model\.model\.)+", "", key)
    component = "unet"
    for prefix, its in _COMPONENTS:
        if name.startswith(prefix):
            component, name = its, name.removeprefix(prefix)
            break
    name = re.sub(r"^(base_model\.model\.)+", "", name)
    if name.endswith((".alpha", "_lora.alpha")):
        module = re.sub(r"(\.lora|_lora|\.lora_linear_layer)?\.alpha$", "", name)
        return component, _module(module), "alpha"
    match = _ENDS.fullmatch(name)
    if match is None or (match["part"] in "AB" and "lora_" not in name):
        return None
    return component, _module(match["module"]), _PARTS[match["part"]]


def _module(name: str) -> str:
    """A module as networks name it: older attention processors have names of their own, in text encoders as well."""
    name = re.sub(r"\.processor\.to_(q|k|v|out)$", r".to_\1", name)
    name = re.sub(r"\.self_attn\.to_(q|k|v|out)$", r".self_attn.\1_proj", name)
    return re.sub(r"\.to_out$", ".to_out.0", name)


def _flat(module: str) -> str:
    """A name as kohya writes it, with underscores for dots; so all spellings of a module are one."""
    return re.sub(r"^text_model_", "", module.replace(".", "_"))


def _settings(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """PEFT's settings in a header of diffusers (`lora_adapter_metadata`), by component and key."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict):
        raise BadWeights(f"{name} has a header with lora_adapter_metadata that is no JSON object.", hint=_HINT)
    return held


def _stated(settings: Mapping[str, Any], component: str, module: str, *, rank: int, name: str) -> float | None:
    """The alpha that the header gives to a module: its own, or that of all; None without a header.

    A pipeline's settings have the component before them (`save_lora_weights`), those of a UNet alone have not
    (`save_lora_adapter`). rsLoRA divides alpha by the root of the rank: here that is an alpha that much larger.
    """
    if not settings:
        return None
    prefix = "" if component == "unet" and "lora_alpha" in settings else f"{component}."
    if settings.get(f"{prefix}use_dora"):
        raise BadWeights(f"{name} holds DoRA (use_dora in its header), which hubpub does not merge yet.", hint=_HINT)
    value = settings.get(f"{prefix}lora_alpha", rank)
    pattern = settings.get(f"{prefix}alpha_pattern")
    for key, alpha in pattern.items() if isinstance(pattern, dict) else ():
        # PEFT takes regular expressions; diffusers writes names, with ^ where the name is a whole one.
        plain = key.removeprefix("^")
        if not re.fullmatch(r"[\w.]+", plain):
            raise BadWeights(f"{name} has an alpha_pattern that is no module's name in its header: {key}.", hint=_HINT)
        if module == plain or (plain == key and module.endswith(f".{key}")):
            value = alpha
            break
    # The bound keeps integers of any length from overflowing.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise BadWeights(f"{name} has an alpha that is no number in its header, for {module}.", hint=_HINT)
    return float(value) * math.sqrt(rank) if settings.get(f"{prefix}use_rslora") else float(value)


# -- shapes ----------------------------------------------------------------------------------------------------


def _check_product(parts: Mapping[str, str], tensors: Mapping[str, TensorInfo], name: str) -> None:
    """Raise BadWeights where the matrices cannot be multiplied."""
    up, down = tensors[parts["up"]].shape, tensors[parts["down"]].shape
    middle = tensors[parts["mid"]].shape if "mid" in parts else None
    good = len(up) >= 2 and len(down) >= 2 and math.prod(up[2:]) == 1 and 0 not in (*up, *down)
    if middle is None:
        good = good and up[1] == down[0]
    else:
        good = good and len(middle) == 4 and middle[:2] == (up[1], down[0]) and math.prod(down[2:]) == 1
    if not good or ("alpha" in parts and math.prod(tensors[parts["alpha"]].shape) != 1):
        raise BadWeights(
            f"{name} has matrices that do not fit each other: {parts['up']} {up} and {parts['down']} {down}.",
            hint="The file is damaged.",
        )


def _shape(delta: Delta, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
    """The shape of what is added."""
    up, down = tensors[delta.up].shape, tensors[delta.down].shape
    kernel = tensors[delta.mid].shape[2:] if delta.mid is not None else down[2:]
    return (up[0], down[1], *kernel)


def _without_point(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without a 1×1 kernel: such a convolution is a linear layer."""
    return tuple(shape[:2]) if math.prod(shape[2:]) == 1 else tuple(shape)
