"""The numeric gate: realistic inputs, PSNR of published components, and the error below a floor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import read_model
from hubpub.coreml.structure import differences
from hubpub.coreml.values import string_value, tensor_type, tensor_value
from hubpub.errors import BadInput, BadPackage, ParityTooLow
from tests.support import mil_models as mil
from tests.support.component_bench import Bench

torch = pytest.importorskip("torch", reason="the gate runs models")

from hubpub.networks import Size  # noqa: E402
from hubpub.palettize.palette import pack, palettize  # noqa: E402
from hubpub.runtime import load  # noqa: E402
from hubpub.runtime.features import Feature  # noqa: E402
from hubpub.runtime.samples import realistic  # noqa: E402
from hubpub.steps import Measure  # noqa: E402
from hubpub.steps.measure import answers  # noqa: E402

F16, F32 = schema.FLOAT16, schema.FLOAT32
CHANNELS = 16


def unet(folder: Path, *, bits: int = 16, gain: float = 1.0) -> dict[str, Path]:
    """sample → conv → conv → noise_pred, with weights of `bits`; `gain` multiplies in between."""
    return {"unet": _convs(folder / f"{bits}.mlpackage", (1, 2), "sample", "noise_pred", bits=bits, gain=gain)}


def chunks(folder: Path, *, bits: int = 16, gain: float = 1.0) -> dict[str, Path]:
    """The same, cut between the convs."""
    return {
        "unet_chunk1": _convs(folder / f"{bits}-1.mlpackage", (1,), "sample", "hidden", bits=bits, gain=gain),
        "unet_chunk2": _convs(folder / f"{bits}-2.mlpackage", (2,), "hidden", "noise_pred", bits=bits, gain=gain),
    }


def _convs(path: Path, numbers: tuple[int, ...], given: str, made: str, *, bits: int, gain: float) -> Path:
    """`given` → these of the two convs → `made`."""
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

    value = given
    for number in (1, 2):
        weight = (rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 12).astype(np.float16)
        if number not in numbers:
            continue
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
        arguments: dict[str, Any] = {"x": value, "weight": f"w{number}", "pad_type": string_value("same")}
        operations.append(mil.operation("conv", {f"c{number}": kind}, arguments))
        operations.append(
            mil.operation("mul", {f"g{number}": kind}, {"x": f"c{number}", "y": tensor_value([gain], F16)})
        )
        value = f"g{number}"
    operations.append(
        mil.operation("cast", {made: tensor_type(F32, shape)}, {"x": value, "dtype": string_value("fp32")})
    )
    body = mil.block(operations, [made])
    model = mil.model(
        {"main": mil.function(body, opset="CoreML6", **{given: kind})},
        spec=7,
        inputs=[mil.feature(given, shape, dtype=mil.ARRAY.FLOAT16)],
        outputs=[mil.feature(made, shape)],
    )
    return mil.save_package(path, model, blobs)


def gate(
    packages: dict[str, Path], full: dict[str, Path], *, bits: int, floor: float | None, shift: float = 0.0
) -> dict[str, Any]:
    """The gate, where the fp32 run of the full packages (plus `shift`) stands for the source's own modules."""
    with load(next(iter(full.values())), precision="fp32") as model:
        arrays = realistic(model.inputs.values(), params={})
    expected = answers(list(full.values()), arrays, ["noise_pred"], precision="fp32")["noise_pred"] + shift
    step = Measure(
        family="sd1",
        component="unet",
        pieces=list(packages),
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
        lambda piece, precision: load(packages[piece], precision=precision),
        lambda piece, precision: load(full[piece], precision=precision),
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


def test_chunks_are_measured_as_the_whole(tmp_path: Path) -> None:
    whole = gate(unet(tmp_path, bits=6), unet(tmp_path), bits=6, floor=25.0)
    cut = gate(chunks(tmp_path, bits=6), chunks(tmp_path), bits=6, floor=25.0)
    assert cut["psnr"] == pytest.approx(whole["psnr"], abs=0.1)
    assert cut["psnr_program"] > 60
    assert cut["outputs"].keys() == {"noise_pred"}


@pytest.mark.parametrize("coarse", [1, 2])
def test_a_missed_floor_names_the_layers_of_the_chunk_that_loses(tmp_path: Path, coarse: int) -> None:
    reference = chunks(tmp_path, bits=16)
    name = f"unet_chunk{coarse}"
    with pytest.raises(ParityTooLow, match=r"The unet with 4-bit weights is \d+\.\d dB .* floor is 80 dB") as caught:
        gate(reference | {name: chunks(tmp_path, bits=4)[name]}, reference, bits=4, floor=80.0)
    lost = caught.value.message.partition("Most is lost in ")[2]
    layers = dict(re.findall(r"(c\d) \(conv 100 → (\d+) dB\)", lost))
    assert next(iter(layers)) == f"c{coarse}", "what loses most comes first"
    assert int(layers.pop(f"c{coarse}")) < 40
    assert all(int(left) > 75 for left in layers.values()), "the other chunk is given what the source's weights give"


def test_infinity_in_a_chunk_is_named(tmp_path: Path) -> None:
    reference = chunks(tmp_path, gain=60000.0)
    with pytest.raises(ParityTooLow, match="gives NaN or infinity, first in g1"):
        gate(reference, reference, bits=16, floor=None)
    plain = chunks(tmp_path / "plain")
    second = plain | {"unet_chunk2": reference["unet_chunk2"]}
    with pytest.raises(ParityTooLow, match="gives NaN or infinity, first in g2"):
        gate(second, second, bits=16, floor=None)


def test_an_answer_that_no_package_gives_is_named(tmp_path: Path) -> None:
    first, second = chunks(tmp_path).values()
    with load(first) as model:
        arrays = realistic(model.inputs.values(), params={})
    assert answers([first, second], arrays, ["noise_pred"], precision="fp16").keys() == {"noise_pred"}
    with pytest.raises(BadPackage, match=f"{first.name} has no output noise_pred"):
        answers([first], arrays, ["noise_pred"], precision="fp16")


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
        item("text_embeds", 2, 1280),
        item("controlnet_cond", 2, 3, 64, 64),
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
    scores = realistic([item("time_ids", 2, 5)], params={"size": (768, 512)})["time_ids"]
    assert scores.tolist() == [[768, 512, 0, 0, 2.5], [768, 512, 0, 0, 6]]
    assert made["text_embeds"].std() == pytest.approx(1, abs=0.05)
    assert np.unique(made["controlnet_cond"]).tolist() == [0, 1]
    toy = realistic(features[:1], params={"vocabulary": 50})["input_ids"]
    assert toy.max() == 49 == toy[0, -1]
    assert toy[0, 0] == 48
    with pytest.raises(BadInput, match="not an input of a Stable Diffusion component"):
        realistic([item("audio", 1)], params={})


def test_a_unet_without_a_middle_block_is_itself_at_another_size(tmp_path: Path) -> None:
    """Its way up begins with twice the end of its way down, which is no fault."""
    bench = Bench(tmp_path, "unet", family="sd15-small")
    weights = bench.weights(16)
    large, small = (
        bench.package(weights, attention="split_einsum_v2", size=Size(height=side, width=side, batch=batch))
        for side, batch in ((64, 2), (32, 1))
    )
    assert differences(read_model(large), read_model(small)) == []
