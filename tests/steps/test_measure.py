"""The numeric gate: realistic inputs, PSNR of published components, and the error below a floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.values import string_value, tensor_type, tensor_value
from hubpub.errors import BadInput, ParityTooLow
from tests.support import mil_models as mil

torch = pytest.importorskip("torch", reason="the gate runs models")

from hubpub.palettize.palette import pack, palettize  # noqa: E402
from hubpub.runtime import load  # noqa: E402
from hubpub.runtime.features import Feature  # noqa: E402
from hubpub.runtime.samples import realistic  # noqa: E402
from hubpub.steps import Measure  # noqa: E402

F16, F32 = schema.FLOAT16, schema.FLOAT32
CHANNELS = 16


def unet(folder: Path, *, bits: int = 16, gain: float = 1.0) -> Path:
    """sample → conv → conv → noise_pred, with weights of `bits`; `gain` multiplies in between."""
    rng = np.random.default_rng(0)
    shape = (2, CHANNELS, 8, 8)
    kind = tensor_type(F16, shape)
    blobs: list[tuple[int, Any]] = []
    operations = []
    offset = 64

    def add(dtype: int, array: Any) -> int:
        nonlocal offset
        blobs.append((dtype, array))
        here = offset
        offset += 64 + -(-np.asarray(array).nbytes // 64) * 64
        return here

    value = "sample"
    for number in (1, 2):
        weight = (rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 12).astype(np.float16)
        if bits == 16:
            operations.append(mil.const(f"w{number}", mil.blob_value(F16, weight.shape, add(F16, weight))))
        else:
            palette = palettize(weight, bits)
            raw = np.frombuffer(pack(palette.indices, bits), np.uint8)
            attributes = {
                "indices": mil.blob_value(schema.UINT8, raw.shape, add(schema.UINT8, raw)),
                "lut": mil.blob_value(F16, palette.lut.shape, add(F16, palette.lut)),
                "shape": tensor_value(weight.shape, schema.UINT32, (4,)),
            }
            operations.append(
                mil.operation(
                    "constexpr_lut_to_dense", {f"w{number}": tensor_type(F16, weight.shape)}, attributes=attributes
                )
            )
        arguments = {"x": value, "weight": f"w{number}", "pad_type": string_value("same")}
        operations.append(mil.operation("conv", {f"c{number}": kind}, arguments))
        operations.append(
            mil.operation("mul", {f"g{number}": kind}, {"x": f"c{number}", "y": tensor_value([gain], F16)})
        )
        value = f"g{number}"
    operations.append(
        mil.operation("cast", {"noise_pred": tensor_type(F32, shape)}, {"x": value, "dtype": string_value("fp32")})
    )
    body = mil.block(operations, ["noise_pred"])
    model = mil.model(
        {"main": mil.function(body, opset="CoreML6", sample=kind)},
        spec=7,
        inputs=[mil.feature("sample", shape, dtype=mil.ARRAY.FLOAT16)],
        outputs=[mil.feature("noise_pred", shape)],
    )
    return mil.save_package(folder / f"{bits}.mlpackage", model, blobs)


def gate(package: Path, full: Path, *, bits: int, floor: float | None, shift: float = 0.0) -> dict[str, Any]:
    """The gate, where the fp32 run of the full package (plus `shift`) stands for the source's own modules."""
    with load(full, precision="fp32") as model:
        arrays = realistic(model.inputs, params={})
        expected = model.predict(arrays)["noise_pred"] + shift
    step = Measure(
        family="sd1",
        component="unet",
        config={},
        checkpoint={"files": []},
        attention=None,
        height=16,
        width=16,
        batch=1,
        target="macOS13",
        bits=bits,
        floor=floor,
        floor_program=60.0,
    )
    return step.compare(
        lambda precision: load(package, precision=precision),
        lambda precision: load(full, precision=precision),
        arrays,
        {"noise_pred": expected},
    )


def test_measurements(tmp_path: Path) -> None:
    reference = unet(tmp_path, bits=16)
    numbers = {}
    for bits, floor in ((8, 35.0), (6, 25.0), (4, 12.0), (2, None)):
        found = gate(unet(tmp_path, bits=bits), reference, bits=bits, floor=floor)
        json.dumps(found)
        assert found["psnr_program"] > 60
        assert f"{found['psnr']:.1f} dB at {bits} bits" in found["summary"]
        numbers[bits] = found["psnr"]
    assert numbers[8] > numbers[6] > numbers[4] > numbers[2]
    alone = gate(reference, reference, bits=16, floor=35.0)
    assert alone["psnr"] < alone["psnr_program"]


def test_a_program_that_computes_something_else_is_caught(tmp_path: Path) -> None:
    reference = unet(tmp_path, bits=16)
    with pytest.raises(ParityTooLow, match=r"unet in fp32 is \d+\.\d dB from the source's own; the floor is 60 dB"):
        gate(reference, reference, bits=16, floor=None, shift=0.01)


def test_a_missed_floor_names_numbers_and_layers(tmp_path: Path) -> None:
    reference, package = unet(tmp_path, bits=16), unet(tmp_path, bits=4)
    with pytest.raises(ParityTooLow, match=r"with 4-bit weights is \d+\.\d dB .* floor is 80 dB.*c1 \(conv") as caught:
        gate(package, reference, bits=4, floor=80.0)
    assert caught.value.floor == 80.0
    assert caught.value.measured is not None
    assert 5 < caught.value.measured < 80


def test_infinity_is_too_low_without_any_floor(tmp_path: Path) -> None:
    reference = unet(tmp_path, bits=16, gain=60000.0)  # fp16 overflows, fp32 does not
    with pytest.raises(ParityTooLow, match="gives NaN or infinity, first in g1") as caught:
        gate(reference, reference, bits=16, floor=None)
    assert caught.value.measured is None


def test_inputs_are_realistic_and_the_same_every_time() -> None:
    def item(name: str, *shape: int) -> Feature:
        return Feature(name=name, shape=shape, dtype=np.dtype(np.float32))

    features = [
        item("input_ids", 1, 77),
        item("sample", 2, 4, 64, 64),
        item("timestep", 2),
        item("encoder_hidden_states", 2, 768, 1, 77),
        item("time_ids", 2, 6),
        item("z", 1, 4, 64, 64),
        item("x", 1, 3, 64, 64),
        item("additional_residual_3", 2, 8, 4, 4),
    ]
    made = realistic(features, params={"timesteps": 1000, "size": (512, 512)})
    again = realistic(features, params={"timesteps": 1000, "size": (512, 512)})
    assert all(np.array_equal(made[name], again[name]) for name in made)
    assert made["input_ids"][0, :3].tolist() == [49406, 320, 1125]
    assert made["input_ids"][0, -1] == 49407
    assert made["sample"].std() == pytest.approx(1, abs=0.02)
    assert made["timestep"].tolist() == [749, 249]
    assert made["z"].std() == pytest.approx(1 / 0.18215, rel=0.02)
    assert -1 <= made["x"].min() < -0.3 < 0.3 < made["x"].max() <= 1
    assert made["time_ids"].tolist() == [[512, 512, 0, 0, 512, 512]] * 2
    toy = realistic(features[:1], params={"vocabulary": 50})["input_ids"]
    assert toy.max() == 49 == toy[0, -1]
    assert toy[0, 0] == 48
    with pytest.raises(BadInput, match="not an input of a Stable Diffusion component"):
        realistic([item("audio", 1)], params={})
