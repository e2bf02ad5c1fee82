"""Parses the YAML front matter of untrusted cards, with limits on its size."""

from __future__ import annotations

from typing import Any, Final

import yaml

# Ten times a page of evaluation results.
MAX_BYTES: Final = 1 << 20
_MAX_VALUES: Final = 100_000


def load(block: str) -> dict[str, Any]:
    """The mapping in a block of YAML; empty for an empty block.

    Raises ValueError if the block is too large, is not YAML or not a mapping, refers to itself,
    or expands to too many values through aliases and merges (ten lines can expand to a billion).
    """
    if len(block) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} characters")
    try:
        loader = yaml.SafeLoader(block)
        node = loader.get_single_node()
        if node is None:
            return {}
        _count(node, {})
        data = loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError("it is not a mapping of keys to values")
    return data


def _count(node: yaml.Node, counted: dict[yaml.Node, int | None]) -> int:
    """The number of values in a node, with aliases expanded; None in `counted` marks a node being counted."""
    if node in counted:
        count = counted[node]
        if count is None:
            raise ValueError("it contains a value that contains itself")
        return count
    counted[node] = None
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(item, counted) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(item, counted) for pair in node.value for item in pair)
    if total > _MAX_VALUES:
        raise ValueError(f"its aliases expand to more than {_MAX_VALUES} values")
    counted[node] = total
    return total
