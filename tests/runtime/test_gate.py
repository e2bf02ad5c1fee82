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
from hubpub.runtime import load, psnr  # noqa: E402
from hubpub.runtime.features import Feature  # noqa: E402
from hubpub.runtime.samples import realistic  # noqa: E402
from hubpub.steps import verify  # noqa: E402

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


def gate(
    package: Path, full: Path, *, bits: int, floor: float | None, floor_fp16: float = 35.0, shift: float = 0.0
) -> dict[str, Any]:
    """The gate, where the fp32 run of the full package (plus `shift`) stands for the source's own modules."""
    with load(full, precision="fp32") as model:
        arrays = realistic(model.inputs, params={})
        expected = model.predict(arrays)["noise_pred"] + shift
    folder = package.parent / "expected"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "reference.npz", **{"input/sample": arrays["sample"], "output/noise_pred": expected})
    params = {"component": "unet", "bits": bits, "floor": floor, "floor_fp16": floor_fp16, "floor_graph": 60.0}
    return verify.run(params, {"package": package, "full": full, "expected": folder}, folder)


def test_measurements(tmp_path: Path) -> None:
    reference = unet(tmp_path, bits=16)
    numbers = {}
    for bits, floor in ((8, 35.0), (6, 25.0), (4, 12.0), (2, None)):
        found = gate(unet(tmp_path, bits=bits), reference, bits=bits, floor=floor)
        json.dumps(found)
        assert found["psnr_fp16"] > 60
        assert f"{found['psnr']:.1f} dB at {bits} bits" in found["summary"]
        numbers[bits] = found["psnr"]
    assert numbers[8] > numbers[6] > numbers[4] > numbers[2]
    alone = gate(reference, reference, bits=16, floor=35.0)
    assert alone["psnr"] == alone["psnr_fp16"] < alone["psnr_graph"]


def test_a_graph_that_computes_something_else_is_caught(tmp_path: Path) -> None:
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


def test_the_floor_of_half_precision_counts_too(tmp_path: Path) -> None:
    reference = unet(tmp_path, bits=16)
    with pytest.raises(ParityTooLow, match="unet at fp16 is"):
        gate(unet(tmp_path, bits=8), reference, bits=8, floor=None, floor_fp16=150.0)


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


@pytest.mark.slow
def test_a_text_encoder_agrees_with_transformers(tmp_path: Path) -> None:
    """The whole way: a toy source, its graph, filled, run here; against the library that the source is for."""
    pytest.importorskip("coremltools", reason="making a graph needs coremltools")
    transformers = pytest.importorskip("transformers", reason="it computes what is expected")
    from hubpub import architectures
    from hubpub.sources.metadata import read_facts
    from hubpub.steps import export, fill
    from tests.support.sources import make_source

    source = make_source(tmp_path / "source", "sd15", only=["text_encoder"])
    facts = read_facts(lambda path: (source / path).read_bytes() if (source / path).exists() else None, name="toy")
    architecture = architectures.detect(facts.model_index, facts.configs)
    component = next(one for one in architecture.components if one.name == "text_encoder")
    params = architectures.export_params(
        component, facts.configs, attention="original", latent=None, batch=2, target="macOS13"
    )
    for name in ("graph", "16", "6"):
        (tmp_path / name).mkdir()
    export.run(params, {}, tmp_path / "graph")
    weights = sorted(path.name for path in (source / "text_encoder").glob("*.safetensors"))
    metadata = {"author": "", "license": "", "version": "", "short_description": "", "user_defined": {}}
    for bits in (16, 6):
        fill_params = {
            "component": "text_encoder", "bits": bits, "palettizes": True, "weights": weights, "metadata": metadata
        }  # fmt: skip
        given = {"graph": tmp_path / "graph", "source": source / "text_encoder"}
        fill.run(fill_params, given, tmp_path / str(bits))
    packages = {bits: tmp_path / str(bits) / "model.mlpackage" for bits in (16, 6)}
    model = load(packages[16], precision="fp32")
    arrays = realistic(model.inputs, params={"vocabulary": model.table_sizes("input_ids")[0]})
    outputs = model.predict(arrays)
    reference = transformers.CLIPTextModel.from_pretrained(source / "text_encoder").float()
    with torch.no_grad():
        expected = reference(torch.from_numpy(arrays["input_ids"]).long())
    hidden, pooled = expected.last_hidden_state.numpy(), expected.pooler_output.numpy()
    # not more, because the graph holds 1.702 as an fp16 number
    assert psnr(hidden, outputs["last_hidden_state"]) > 85
    assert psnr(pooled, outputs["pooled_outputs"]) > 85
    with load(packages[16]) as half, load(packages[6]) as palettized:
        at_half = psnr(hidden, half.predict(arrays)["last_hidden_state"])
        assert 25 < psnr(hidden, palettized.predict(arrays)["last_hidden_state"]) < at_half
        assert at_half > 50
