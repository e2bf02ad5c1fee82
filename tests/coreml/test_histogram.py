"""Names of operations in metadata.json, as Apple's compiler gives them."""

from __future__ import annotations

import pytest

from hubpub.coreml.histogram import guessed, histogram, histogram_key


@pytest.mark.parametrize(
    ("operation", "keys"),
    [
        ("conv", ["Conv", "Ios16.conv", "Ios17.conv", "Ios18.conv"]),
        ("slice_by_index", ["SliceByIndex", "SliceByIndex", "Ios17.sliceByIndex", "Ios18.sliceByIndex"]),
        ("relu", ["Relu", "Ios16.relu", "Ios16.relu", "Ios18.relu"]),
        ("reduce_mean", ["ReduceMean", "Ios16.reduceMean", "Ios16.reduceMean", "Ios16.reduceMean"]),
        ("split", ["Split", "Split", "Split", "Split"]),
        (
            "constexpr_lut_to_dense",
            ["ConstexprLutToDense", *["Ios16.constexprLutToDense"] * 2, "Ios18.constexprLutToDense"],
        ),
    ],
)
def test_keys_by_operation_set(operation: str, keys: list[str]) -> None:
    assert [histogram_key(operation, f"ios{number}") for number in (15, 16, 17, 18)] == [(key, True) for key in keys]


@pytest.mark.parametrize("opset", ["ios16", "ios17", "ios18"])
def test_mochi_diffusion_knows_split_attention_on_every_target(opset: str) -> None:
    """A compute plan of an iOS 18 program still says ios16.einsum, so nothing redefined it in between."""
    assert histogram_key("einsum", opset) == ("Ios16.einsum", True)


def test_unseen_operations_get_a_guessed_key() -> None:
    assert histogram_key("brand_new", "ios17") == ("Ios17.brandNew", False)
    assert histogram_key("upsample_nearest_neighbor", "ios18") == ("UpsampleNearestNeighbor", False)
    assert guessed({"conv": 1, "brand_new": 2}, "ios17") == ["Ios17.brandNew"]
    assert histogram({"conv": 1, "brand_new": 2}, "ios17") == {"Ios17.brandNew": 2, "Ios17.conv": 1}
