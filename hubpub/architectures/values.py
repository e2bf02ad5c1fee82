"""Values of a config.json, with the defaults of diffusers and transformers; refused by name where they do not fit.

Each takes the network's name for messages, the config, the key and the library's default, and
raises UnknownArchitecture for what is no such value, or larger than any known network has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from hubpub.architectures.component import Config
from hubpub.errors import UnknownArchitecture

_HINT = "hubpub refuses what it would convert wrongly; please report the model if you think that it should work."

# More than any known network has, so that a damaged config does not ask for a program without end.
_MOST = 1 << 20
_MOST_LEVELS = 16
_MOST_OF: Mapping[str, int] = {
    "layers_per_block": 32,
    "num_hidden_layers": 256,
    "transformer_layers_per_block": 64,
    "reverse_transformer_layers_per_block": 64,
}


def refuse_foreign(name: str, config: Config, *, fixed: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise UnknownArchitecture for a value of a key in `fixed` that the network does not implement.

    Equal numbers are equal, whatever their type; of a list, as diffusers takes it (one for each block), all must be
    allowed. Keys that diffusers does not know change nothing there, and nothing here.
    """
    for key in sorted(config.keys() & fixed.keys()):
        value = config[key]
        values = value if isinstance(value, list) and value else [value]
        if not all(any(_same(one, allowed) for allowed in fixed[key]) for one in values):
            raise refused(name, key, value)


def _same(value: object, allowed: object) -> bool:
    """Equal, and both or neither a text or null (0 is False, and 1.0 is 1)."""
    return value == allowed and isinstance(value, str) is isinstance(allowed, str)


def refused(name: str, key: str, value: object) -> UnknownArchitecture:
    """The error for a value that cannot be honoured."""
    return UnknownArchitecture(
        f"The {name}'s config sets {key} to {value!r}, which hubpub does not support yet.", hint=_HINT
    )


def is_integer(value: object, most: int = _MOST) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def integer(name: str, config: Config, key: str, default: int) -> int:
    value = whole(config.get(key, default))
    if not is_integer(value, _MOST_OF.get(key, _MOST)):
        raise refused(name, key, value)
    return int(value)


def whole(value: Any) -> Any:
    """A number that some tools write as 8.0 → 8; a list of equal ones → one of them; anything else as it is."""
    if isinstance(value, list) and value and all(one == value[0] for one in value):
        value = value[0]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    if value not in (0, 1):
        raise refused(name, key, value)
    return bool(value)


def integers(name: str, config: Config, key: str, default: tuple[int, ...]) -> list[int]:
    value = config.get(key, default)
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST_LEVELS:
        raise refused(name, key, value)
    value = [whole(item) for item in value]
    if not all(is_integer(item, _MOST_OF.get(key, _MOST)) for item in value):
        raise refused(name, key, value)
    return list(value)


def per_block(name: str, config: Config, key: str, default: int, count: int) -> list[int]:
    """One number for all blocks, or a list with one for each."""
    value = config.get(key, default)
    if is_integer(single := whole(value), _MOST_OF.get(key, _MOST)) and not isinstance(value, list):
        return [single] * count
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
