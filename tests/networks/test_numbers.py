"""Each network against the source's own module, of diffusers or transformers, in fp32 and at fp16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def _check(bench: Bench, weights: Path, size: Size, *, attention: str | None, target: str) -> None:
    arrays, expected = read_reference(bench.reference(size) / FILE)
    package = bench.package(weights, attention=attention, size=size, target=target)
    for precision, floor in (("fp32", 80.0), ("fp16", 55.0)):
        outputs = answers(package, arrays, expected, precision=precision)
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
