"""The YAML at the head of a card, whoever wrote it: read as data, and bounded before anything is made of it."""

from __future__ import annotations

from typing import Any, Final

import yaml

# A page of evaluation results is a tenth of this.
MAX_BYTES: Final = 1 << 20
_MAX_VALUES: Final = 100_000


def load(block: str) -> dict[str, Any]:
    """The mapping that a block of YAML holds; empty for an empty block.

    ValueError where it is too large, no YAML or no mapping, refers to itself, or where
    aliases and merges make it large (ten lines can mean a billion values).
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
        raise ValueError("it is no mapping of keys to values")
    return data


def _count(node: yaml.Node, counted: dict[yaml.Node, int | None]) -> int:
    """How many values a node stands for, each alias followed; None in `counted` is one that is being counted."""
    if node in counted:
        known = counted[node]
        if known is None:
            raise ValueError("it holds a value that contains itself")
        return known
    counted[node] = None
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(one, counted) for one in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(one, counted) for pair in node.value for one in pair)
    if total > _MAX_VALUES:
        raise ValueError(f"its aliases stand for more than {_MAX_VALUES} values")
    counted[node] = total
    return total
