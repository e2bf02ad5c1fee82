"""Interfaces and operations of what Apple's converter emits, against the programs that hubpub writes for such sources.

The records are of apple/ml-stable-diffusion e12202c (`torch2coreml`), run on tiny random sources of these sizes with
coremltools 9.0; apple_records.json has what is compared. Chunks are cut elsewhere on purpose (between modules, with
names that say what crosses), so they have no record here; networks/chunks.py says how they are.
"""

from __future__ import annotations

import json
from collections import Counter
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
        configs |= _configs(f"controlnet-{record['source']}")
    return component, component.config(configs)


def _size(record: dict[str, Any]) -> Size:
    """The size that Apple's package was made for."""
    shapes = {name: shape for name, shape, _ in record["inputs"]}
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


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record['run']}-{record['component']}")
def test_interfaces_and_operations_are_apples(record: dict[str, Any]) -> None:
    component, config = _component(record)
    network = component.program(config, size=_size(record), attention=record["attention"])
    model = write(network, target="macOS13", floats=config.floats)
    assert _features(model.description.input) == record["inputs"]
    assert _features(model.description.output) == record["outputs"]
    kinds = Counter(operation.type for operation in main_block(model).operations)
    assert {kind: kinds[kind] for kind in record["operations"]} == record["operations"]


def test_xl_vaes_are_computed_in_32_bits_and_others_in_16() -> None:
    for record in RECORDS:
        if record["component"].startswith("vae_"):
            _, config = _component(record)
            assert (config.floats == "fp32") is (record["fp16"] == 0), record["run"]
