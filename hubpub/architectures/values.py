"""Values of a config.json, with the defaults of diffusers and transformers; refused by name where they do not fit.

Each takes the network's name for messages, the config, the key and the library's default, and
raises UnknownArchitecture for what is no such value, or larger than any known network has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from hubpub.architectures.component import Config
from hubpub.errors import UnknownArchitecture

_HINT = "hubpub refuses what it would convert wrongly; please report the model if you think that it should work."

# Written into a config by training scripts (diffusers' EMAModel); they say nothing about the network.
TRAINING = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)

# More than any known network has, so that a damaged config does not ask for a program without end.
_MOST = 1 << 20
_MOST_LEVELS = 16
_MOST_OF: Mapping[str, int] = {
    "layers_per_block": 32,
    "num_hidden_layers": 256,
    "transformer_layers_per_block": 64,
    "reverse_transformer_layers_per_block": 64,
}


def refuse_foreign(name: str, config: Config, *, fixed: Mapping[str, tuple[Any, ...]], known: Collection[str]) -> None:
    """Raise UnknownArchitecture for a value that the network does not implement, or a key that we do not know."""
    for key in sorted(config):
        value = config[key]
        if key in fixed:
            if not any(value == allowed and type(value) is type(allowed) for allowed in fixed[key]):
                raise refused(name, key, value)
        elif key not in known and not key.startswith("_") and value not in (None, False):
            raise refused(name, key, value)


def refused(name: str, key: str, value: object) -> UnknownArchitecture:
    """The error for a value that cannot be honoured."""
    return UnknownArchitecture(
        f"The {name}'s config sets {key} to {value!r}, which hubpub does not support yet.", hint=_HINT
    )


def is_integer(value: object, most: int = _MOST) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def integer(name: str, config: Config, key: str, default: int) -> int:
    value = config.get(key, default)
    if not is_integer(value, _MOST_OF.get(key, _MOST)):
        raise refused(name, key, value)
    return int(value)


def count(name: str, key: str, value: object) -> int:
    """An item of a list that may be 0."""
    if (value != 0 or isinstance(value, bool)) and not is_integer(value, _MOST_OF.get(key, _MOST)):
        raise refused(name, key, value)
    assert isinstance(value, int)
    return value


def number(name: str, config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise refused(name, key, value)
    return float(value)


def boolean(name: str, config: Config, key: str, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise refused(name, key, value)
    return value


def integers(name: str, config: Config, key: str, default: tuple[int, ...]) -> list[int]:
    value = config.get(key, default)
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST_LEVELS:
        raise refused(name, key, value)
    if not all(is_integer(item, _MOST_OF.get(key, _MOST)) for item in value):
        raise refused(name, key, value)
    return list(value)


def per_block(name: str, config: Config, key: str, default: int, count: int) -> list[int]:
    """One number for all blocks, or a list with one for each."""
    value = config.get(key, default)
    if is_integer(value, _MOST_OF.get(key, _MOST)):
        return [value] * count
    numbers = integers(name, config, key, (default,) * count)
    if len(numbers) != count:
        raise refused(name, key, value)
    return numbers


def blocks(name: str, config: Config, key: str, default: tuple[str, ...], allowed: tuple[str, ...]) -> list[str]:
    value = config.get(key, default)
    if not isinstance(value, list | tuple) or not value:
        raise refused(name, key, value)
    for block in value:
        if block not in allowed:
            raise refused(name, key, block)
    return list(value)
