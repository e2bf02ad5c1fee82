"""Interfaces and operations of what Apple's converter emits, against the programs that hubpub writes for such sources.

The records are of apple/ml-stable-diffusion e12202c (`torch2coreml`), run on tiny random sources of these sizes with
coremltools 9.0; apple_records.json has what is compared, and under `also` the runs that emitted the same once more
(palettized, or of another option). Chunks are cut elsewhere on purpose (between modules, with names that say what
crosses), so they have no record here; networks/chunks.py says how they are. Other differences are in DIFFERENCES.
Of the last records names and shapes alone are known, from Apple's traces, which did not become packages. Left out of
those: a text of 64 tokens, and XL without --xl-version (a UNet that is not told the size), which hubpub has not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hubpub import architectures
from hubpub.architectures import Component
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.program import main_block, write
from hubpub.networks import Size
from tests.support.sources import components

RECORDS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "apple_records.json").read_text(encoding="utf-8"))
_DTYPES = {schema.ArrayFeatureType.FLOAT16: "FLOAT16", schema.ArrayFeatureType.FLOAT32: "FLOAT32"}
_PIXELS = 8  # for each latent pixel


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where hubpub's program is another one on purpose, and why; the rest of the record must agree."""

    reason: str
    size: Size | None = None  # the size of ours, where it is not that of Apple's
    inputs: Mapping[str, tuple[list[int], str]] = field(default_factory=dict)  # ours, of those that differ
    outputs: Sequence[list[Any]] | None = None  # ours, all of them
    floats: str | None = None  # ours, where Apple's are others
    operations: Mapping[str, int] = field(default_factory=dict)  # ours, of those that differ


_BATCH_ONE = Size(height=32, width=32, batch=1)
_XL = "Families are told by model_index.json, so there is no --xl-version to forget: XL's outputs are hidden_embeds."
DIFFERENCES = {
    ("sd1-v2-batch1-controlnet", "controlnet"): Difference(
        reason="Apple's ControlNet has two rows even beside a UNet of one, which then cannot take its answers.",
        size=_BATCH_ONE,
        inputs={
            "sample": ([1, 4, 32, 32], "FLOAT16"),
            "timestep": ([1], "FLOAT16"),
            "encoder_hidden_states": ([1, 64, 1, 77], "FLOAT16"),
            "controlnet_cond": ([1, 3, 256, 256], "FLOAT16"),
        },
        outputs=[
            [f"additional_residual_{number}", [1, channels, side, side], "FLOAT32"]
            for number, (channels, side) in enumerate(
                [(32, 32), (32, 32), (32, 16), (64, 16), (64, 8), (64, 8), (64, 8)]
            )
        ],
    ),
    ("sdxl-customvae", "vae_decoder"): Difference(
        reason="Apple's --custom-vae-version makes XL's decoder fp16 but leaves the encoder fp32; ours are both fp32.",
        inputs={"z": ([1, 4, 64, 64], "FLOAT32")},
        floats="fp32",
    ),
    ("sdxl-vae-encoder-only-then-te", "text_encoder"): Difference(
        reason=_XL, outputs=[["hidden_embeds", [1, 77, 64], "FLOAT32"], ["pooled_outputs", [1, 64], "FLOAT32"]]
    ),
    ("sdxl-vae-encoder-only-then-te", "text_encoder_2"): Difference(
        reason=f"{_XL} Apple's names also stand at the wrong outputs.",
        outputs=[["hidden_embeds", [1, 77, 96], "FLOAT32"], ["pooled_outputs", [1, 96], "FLOAT32"]],
    ),
    ("sd1-orig-macos15-te", "text_encoder"): Difference(
        reason="From macOS 15 on hubpub's CLIP has scaled_dot_product_attention, which Apple's converter takes apart.",
        operations={"matmul": 0, "softmax": 0},
    ),
}

# Where the recorded sources differ from our tiny ones: fewer heads, one layer of text more, a refiner of four levels.
_THREE_LAYERS = {"num_hidden_layers": 3}
_RECORDED: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {"unet": {"attention_head_dim": 2}},
    "sd21": {"unet": {"attention_head_dim": [1, 2, 2]}},
    "sdxl": {"unet": {"attention_head_dim": [1, 2, 2]}},
    "sdxl-refiner": {
        "unet": {
            "attention_head_dim": [1, 2, 2, 2],
            "block_out_channels": [32, 64, 64, 64],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": 2,
        }
    },
    "controlnet-sd15": {"": {"attention_head_dim": 2}},
}


def _configs(family: str) -> dict[str, Any]:
    """The configs of the recorded source of that kind."""
    configs = {part.folder: dict(part.config) for part in components(family, tiny=True)}
    for folder in configs:
        configs[folder] |= _RECORDED.get(family, {}).get(
            folder, _THREE_LAYERS if folder.startswith("text_encoder") else {}
        )
    return configs


def _component(record: dict[str, Any]) -> tuple[Component, Any]:
    """The component, and its config: a refiner's and a ControlNet's come from a source of their own."""
    configs = _configs(record["source"])
    index = {"_class_name": "StableDiffusionXLPipeline" if "sdxl" in record["source"] else "StableDiffusionPipeline"}
    index |= {"requires_aesthetics_score": record["source"] == "sdxl-refiner"}
    component = architectures.detect(index, configs).component(record["component"])
    if record["component"] == "refiner":
        configs |= _configs("sdxl-refiner")
    if record["component"] == "controlnet":
        configs |= _configs("controlnet-sd15")  # the only one that was recorded, also under XL
    return component, component.config(configs)


def _size(record: dict[str, Any]) -> Size:
    """The size that Apple's package was made for."""
    shapes = {name: shape for name, shape, *_ in record["inputs"]}
    if "sample" in shapes:
        batch, _, height, width = shapes["sample"]
    elif "z" in shapes:
        batch, _, height, width = shapes["z"]
    else:
        sides = shapes["x"][2:] if "x" in shapes else shapes.get("images", (0, 512, 512))[1:3]
        batch, height, width = 1, sides[0] // _PIXELS, sides[1] // _PIXELS
    return Size(height=height, width=width, batch=batch)


def _features(features: Any) -> list[list[Any]]:
    arrays = [(one.name, one.type.multiArrayType) for one in features]
    return [[name, list(array.shape), _DTYPES[array.dataType]] for name, array in arrays]


def _program(record: dict[str, Any], size: Size) -> schema.Model:
    component, config = _component(record)
    network = component.program(config, size=size, attention=record["attention"])
    return write(network, target=record["target"], floats=config.floats)


def _key(record: dict[str, Any]) -> tuple[str, str]:
    return record["run"], record["component"]


def _operations(record: dict[str, Any]) -> dict[str, int]:
    difference = DIFFERENCES.get(_key(record))
    return {**record["operations"], **(difference.operations if difference else {})}


def _expected(record: dict[str, Any]) -> tuple[Size, list[Any], list[Any]]:
    """Size, inputs and outputs that ours must have: Apple's, but for the DIFFERENCES."""
    inputs, outputs = record["inputs"], record["outputs"]
    difference = DIFFERENCES.get(_key(record))
    if difference is None:
        return _size(record), inputs, outputs
    ours = [[name, *difference.inputs.get(name, known)] for name, *known in inputs]
    return difference.size or _size(record), ours, list(difference.outputs or outputs)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: "-".join(_key(record)))
def test_interfaces_and_operations_are_apples(record: dict[str, Any]) -> None:
    size, inputs, outputs = _expected(record)
    model = _program(record, size)
    for features, expected in ((model.description.input, inputs), (model.description.output, outputs)):
        known = 3 if "fp16" in record else 2  # name, shape and, of a package, dtype
        assert [feature[:known] for feature in _features(features)] == expected
    kinds = Counter(operation.type for operation in main_block(model).operations)
    assert {kind: kinds[kind] for kind in record["operations"]} == _operations(record)


def test_every_difference_is_one() -> None:
    """An entry of DIFFERENCES that agrees with its record is no difference any more."""
    records = {_key(record): record for record in RECORDS}
    for key, difference in DIFFERENCES.items():
        record = records[key]
        theirs = (_size(record), record["inputs"], record["outputs"], record["operations"])
        assert difference.reason
        assert (*_expected(record), _operations(record)) != theirs, key


@pytest.mark.parametrize(
    "record", [record for record in RECORDS if record["component"].startswith("vae_")], ids=lambda r: "-".join(_key(r))
)
def test_xl_vaes_are_computed_in_32_bits_and_others_in_16(record: dict[str, Any]) -> None:
    difference = DIFFERENCES.get(_key(record))
    floats = (difference and difference.floats) or ("fp32" if record["fp16"] == 0 else "fp16")
    types = Counter(
        output.type.tensorType.dataType
        for operation in main_block(_program(record, _size(record))).operations
        for output in operation.outputs
        if operation.type != "const"
    )
    assert (types[schema.FLOAT16] == 0) is (floats == "fp32")
