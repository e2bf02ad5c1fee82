"""Each network against the source's own module, of diffusers or transformers, in fp32 and at fp16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hubpub.networks import Size
from hubpub.steps.measure import answers
from hubpub.steps.reference import FILE, read_reference
from tests.support.component_bench import Bench

pytest.importorskip("torch", reason="networks are run with torch")
pytest.importorskip("diffusers", reason="networks are compared with diffusers' modules")

from hubpub.runtime.measure import psnr

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder", "safety_checker")


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Bench]:
    made: dict[tuple[str, str], Bench] = {}

    def bench(family: str, component: str) -> Bench:
        if (family, component) not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{component}")
            made[family, component] = Bench(folder, component, family=family)
        return made[family, component]

    return bench


def _check(
    bench: Bench,
    weights: Path,
    size: Size,
    *,
    attention: str | None,
    target: str,
    fp32: float = 80.0,
    fp16: float = 55.0,
) -> None:
    arrays, expected = read_reference(bench.reference(size) / FILE)
    package = bench.package(weights, attention=attention, size=size, target=target)
    for precision, floor in (("fp32", fp32), ("fp16", fp16)):
        outputs = answers([package], arrays, expected, precision=precision)
        for name, values in expected.items():
            assert psnr(values, outputs[name]) > floor, (name, precision, attention, size, target)


@pytest.mark.parametrize("family", ["sd15", "sd21"])
@pytest.mark.parametrize("component", COMPONENTS[:-1])
def test_every_network(benches: Callable[[str, str], Bench], family: str, component: str) -> None:
    bench = benches(family, component)
    weights = bench.weights(16)
    forms = ("original", "split_einsum", "split_einsum_v2") if "attention" in bench.component.knobs else (None,)
    for attention in forms:
        _check(bench, weights, Size(height=32, width=32, batch=2), attention=attention, target="macOS13")


@pytest.mark.parametrize("target", ["macOS14", "macOS15"])
@pytest.mark.parametrize("component", COMPONENTS)
def test_other_targets(benches: Callable[[str, str], Bench], component: str, target: str) -> None:
    bench = benches("sd15", component)
    attention = "split_einsum_v2" if "attention" in bench.component.knobs else None
    size = Size(height=40, width=24, batch=1)
    _check(bench, bench.weights(16), size, attention=attention, target=target)


# What families have beside Stable Diffusion 1.x and 2.x as they are: (source, component).
OTHERS = [
    ("sd15-inpaint", "unet"),
    ("sd15-pix2pix", "unet"),
    ("sd15-lcm", "unet"),
    ("sd15-small", "unet"),
    ("sd15", "control-unet"),
    ("sdxl", "text_encoder"),
    ("sdxl", "text_encoder_2"),
    ("sdxl", "unet"),
    ("sdxl", "control-unet"),
    ("sdxl", "vae_decoder"),
    ("sdxl", "vae_encoder"),
    ("sdxl-small", "unet"),
    ("sdxl-refiner", "unet"),
    ("sdxl-refiner", "text_encoder_2"),
    ("controlnet-sd15", "controlnet"),
    ("controlnet-sd21", "controlnet"),
    ("controlnet-sdxl", "controlnet"),
]


@pytest.mark.parametrize(("family", "component"), OTHERS)
def test_networks_of_all_families(benches: Callable[[str, str], Bench], family: str, component: str) -> None:
    bench = benches(family, component)
    weights = bench.weights(16)
    forms = ("split_einsum_v2",) if "attention" in bench.component.knobs else (None,)
    if (family, component) in (("sdxl", "unet"), ("controlnet-sd15", "controlnet")):
        forms = ("original", "split_einsum", "split_einsum_v2")
    for attention in forms:
        size = Size(height=32, width=40, batch=2)
        _check(bench, weights, size, attention=attention, target="macOS13", fp32=90.0, fp16=60.0)


@pytest.mark.parametrize(
    ("family", "component"), [("sdxl", "unet"), ("sdxl-refiner", "unet"), ("sdxl", "control-unet")]
)
def test_xl_with_one_row(benches: Callable[[str, str], Bench], family: str, component: str) -> None:
    """Apple's converter gives two rows of time_ids to a UNet of one, and fails."""
    bench = benches(family, component)
    size = Size(height=32, width=32, batch=1)
    _check(bench, bench.weights(16), size, attention="original", target="macOS13", fp32=90.0, fp16=60.0)


CHUNKED = [
    ("sd15", "unet"),
    ("sd15-small", "unet"),
    ("sd15", "control-unet"),
    ("sdxl", "unet"),
    ("sdxl-refiner", "unet"),
]


@pytest.mark.parametrize("bits", [16, 6])
@pytest.mark.parametrize(("family", "component"), CHUNKED)
def test_chunk_after_chunk_is_the_whole(
    benches: Callable[[str, str], Bench], family: str, component: str, bits: int
) -> None:
    bench = benches(family, component)
    size = Size(height=32, width=32, batch=2)
    arrays, expected = read_reference(bench.reference(size) / FILE)
    whole = bench.package(bench.weights(bits), attention="split_einsum_v2", size=size)
    chunks = [
        part.package(part.weights(bits), attention="split_einsum_v2", size=size)
        for part in (bench.piece(f"{component}_chunk{number}") for number in (1, 2))
    ]
    one, other = (answers(packages, arrays, expected, precision="fp16") for packages in ([whole], chunks))
    np.testing.assert_array_equal(one["noise_pred"], other["noise_pred"])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_unet_with_a_controlnet_is_that_of_diffusers(
    benches: Callable[[str, str], Bench], tmp_path: Path, family: str
) -> None:
    """The ControlNet's answers go into the UNet, as an app passes them on; against both modules of diffusers."""
    control, unet = benches(f"controlnet-{family}", "controlnet"), benches(family, "control-unet")
    size = Size(height=32, width=32, batch=2)
    arrays, residuals = read_reference(control.reference(size) / FILE)
    for bits, floor in ((16, 60.0), (6, 25.0)):
        packages = [bench.package(bench.weights(bits), attention="original", size=size) for bench in (control, unet)]
        measured = answers(packages, arrays, ["noise_pred"], precision="fp16")
        expected = unet.answers(size, {**arrays, **residuals})
        assert psnr(expected["noise_pred"], measured["noise_pred"]) > floor
