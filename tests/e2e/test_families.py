"""Families beside Stable Diffusion 1 and 2, with real parts: sources go in, a release comes out of the embedded Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hubpub.cli.app import app
from hubpub.localhub import LocalHub, running
from hubpub.remote.hub import Hub
from tests.support.sources import make_source

FAMILIES = (
    "sd15",
    "sd15-inpaint",
    "sd15-lcm",
    "sdxl",
    "sdxl-refiner",
    "controlnet-sd15",
    "controlnet-sdxl",
)
WEIGHTS = ["--verify", "weights"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as running_hub:
        yield running_hub


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for family in FAMILIES:
        make_source(folder / family, family)
    make_source(folder / "controlnet-depth", "controlnet-sdxl", seed=1)
    return folder


def _hubpub(hub: LocalHub | None, *arguments: str, status: int = 0) -> str:
    connection = ["--endpoint", hub.endpoint, "--token", hub.token] if hub else []
    result = CliRunner().invoke(app, [*arguments, *connection])
    assert result.exit_code == status, result.output
    return result.stdout if not status else result.output


def _manifest(hub: LocalHub, repo: str) -> dict[str, Any]:
    state = Hub(hub.endpoint, hub.token).state(repo)
    assert state is not None
    assert state.manifest is not None
    return dict(state.manifest)


def _paths(manifest: dict[str, Any], variant: str) -> set[str]:
    """The models and files of a variant."""
    inside = (
        file["path"].removeprefix(f"{variant}/") for file in manifest["files"] if file["path"].startswith(variant)
    )
    ends = (".mlmodelc", ".mlpackage")
    return {next((path[: path.index(end) + len(end)] for end in ends if end in path), path) for path in inside}


XL = [
    *("--refiner", "{}/sdxl-refiner", "--controlnet", "{}/controlnet-sdxl", "--controlnet", "{}/controlnet-depth"),
    *("--attention", "original", *WEIGHTS),
]


@pytest.fixture(scope="module")
def xl(hub: LocalHub, sources: Path) -> dict[str, Any]:
    """SDXL with its refiner and two ControlNets, published."""
    more = [word.format(sources) for word in XL]
    _hubpub(hub, "publish", str(sources / "sdxl"), "--to", "me/xl", *more)
    return _manifest(hub, "me/xl")


@pytest.mark.slow
def test_an_xl_release_has_the_names_that_apps_know(xl: dict[str, Any]) -> None:
    assert _paths(xl, "original/compiled") == {
        "TextEncoder.mlmodelc",
        "TextEncoder2.mlmodelc",
        "Unet.mlmodelc",
        "UnetRefiner.mlmodelc",
        "ControlledUnet.mlmodelc",
        "controlnet/LocalControlnetSdxl.mlmodelc",
        "controlnet/LocalControlnetDepth.mlmodelc",
        "VAEDecoder.mlmodelc",
        "VAEEncoder.mlmodelc",
        "vocab.json",
        "merges.txt",
    }
    parts = ["text_encoder", "text_encoder_2", "unet", "refiner", "control-unet", "vae_decoder", "vae_encoder"]
    own = {f"Stable_Diffusion_version_local_sdxl_{part}.mlpackage" for part in parts}
    controls = {f"ControlNet_local_controlnet-{name}.mlpackage" for name in ("sdxl", "depth")}
    assert _paths(xl, "original/packages") == own | controls


@pytest.mark.slow
def test_the_control_unet_shares_the_weights_of_the_unet(xl: dict[str, Any]) -> None:
    digests = {file["path"]: file["sha256"] for file in xl["files"] if file["path"].endswith("weight.bin")}
    stem = "original/packages/Stable_Diffusion_version_local_sdxl_{}.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    assert digests[stem.format("unet")] == digests[stem.format("control-unet")]
    assert digests[stem.format("unet")] != digests[stem.format("refiner")]


@pytest.mark.slow
def test_an_xl_release_comes_back_and_nothing_is_wrong(
    hub: LocalHub, xl: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = _hubpub(hub, "fetch", "me/xl", "--variant", "original/compiled", "--dest", "xl", "--app-config", "app.json")
    assert "StableDiffusionXLPipeline" in told or "StableDiffusionXLPipeline" in (tmp_path / "app.json").read_text()
    config = json.loads((tmp_path / "app.json").read_text())
    assert config["swift_pipeline"] == "StableDiffusionXLPipeline"
    assert config["refiner"] is True
    assert set(config["controlnets"]) == {"LocalControlnetSdxl", "LocalControlnetDepth"}
    assert (tmp_path / "xl/controlnet/LocalControlnetDepth.mlmodelc/model.mil").is_file()
    assert "0 errors" in _hubpub(hub, "audit", "me/xl")
    assert "0 errors" in _hubpub(None, "audit", "xl")
    assert "all as published" in _hubpub(hub, "verify", "me/xl")
    card = Hub(hub.endpoint, hub.token).read("me/xl", config["commit"], "README.md", limit=1 << 20).decode()
    for said in ("iPad", "force_upcast", "`LocalControlnetDepth` (local/controlnet-depth)", "UnetRefiner"):
        assert said in card
    command = xl["command"]
    assert "--refiner ./sdxl-refiner --controlnet ./controlnet-sdxl --controlnet ./controlnet-depth" in command


@pytest.mark.slow
def test_packages_of_all_sources_are_measured_against_them(hub: LocalHub, xl: dict[str, Any], sources: Path) -> None:
    """Both ControlNets have one interface, base and refiner have one set of names: each is compared with its own."""
    pytest.importorskip("diffusers", reason="packages are compared with diffusers' modules")
    named = [word.format(sources) for word in XL[:6]]
    told = json.loads(_hubpub(hub, "verify", "me/xl", "--source", str(sources / "sdxl"), *named, "--json"))
    measured = [one for one in told["measured"] if one["against"] == "the source"]
    components = [one["component"] for one in measured]
    assert sorted(components) == sorted(
        ["text_encoder", "text_encoder_2", "unet", "refiner", "control-unet", "vae_decoder", "vae_encoder"]
        + ["controlnet"] * 2
    )
    assert all(one["passed"] for one in measured)


@pytest.mark.slow
def test_chunks_take_the_place_of_the_whole_and_go_again(hub: LocalHub, sources: Path) -> None:
    common = [str(sources / "sd15"), "--to", "me/cut", "--bits", "16", "--attention", "original", *WEIGHTS]
    _hubpub(hub, "publish", *common, "--chunk-unet")
    names = _paths(_manifest(hub, "me/cut"), "original/compiled")
    assert {"UnetChunk1.mlmodelc", "UnetChunk2.mlmodelc"} <= names
    assert "Unet.mlmodelc" not in names
    assert "0 errors" in _hubpub(hub, "audit", "me/cut")
    _hubpub(hub, "publish", *common)
    names = _paths(_manifest(hub, "me/cut"), "original/compiled")
    assert "Unet.mlmodelc" in names
    assert not any("Chunk" in name for name in names)
    state = Hub(hub.endpoint, hub.token).state("me/cut")
    assert state is not None
    assert not any("Chunk" in file.path or "_chunk" in file.path for file in state.files)


@pytest.mark.slow
def test_a_controlnet_is_a_release_of_its_own(hub: LocalHub, sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "mlsd"
    shutil.copytree(sources / "controlnet-sd15", source)
    readme = (source / "README.md").read_text().replace("language:", "base_model: org/sd-1-5\nlanguage:")
    (source / "README.md").write_text(readme)
    name = ["--name", "lllyasviel/sd-controlnet-mlsd"]
    _hubpub(hub, "publish", str(source), *name, "--to", "me/mlsd", "--attention", "original", *WEIGHTS)
    manifest = _manifest(hub, "me/mlsd")
    assert _paths(manifest, "original/compiled") == {"controlnet/LllyasvielSdControlnetMlsd.mlmodelc"}
    assert _paths(manifest, "original/packages") == {"ControlNet_lllyasviel_sd-controlnet-mlsd.mlpackage"}
    assert manifest["card"]["base_model"] == ["org/sd-1-5"]
    assert "0 errors" in _hubpub(hub, "audit", "me/mlsd")
    _hubpub(hub, "fetch", "me/mlsd", "--variant", "original/compiled", "--dest", str(tmp_path / "out"))
    assert (tmp_path / "out/controlnet/LllyasvielSdControlnetMlsd.mlmodelc/model.mil").is_file()
    assert "all as published" in _hubpub(hub, "verify", "me/mlsd")


@pytest.mark.slow
def test_a_few_step_model_is_drawn_as_its_authors_do(hub: LocalHub, sources: Path) -> None:
    common = ["--attention", "original", "--format", "packages", *WEIGHTS]
    _hubpub(hub, "publish", str(sources / "sd15-lcm"), "--to", "me/lcm", "--guidance-embedding", "7.5", *common)
    manifest = _manifest(hub, "me/lcm")
    assert manifest["guidance_embedding"] == 7.5
    assert manifest["drawing"] == {"steps": 4, "guidance": 7.5}
    assert manifest["scheduler"] == "LCM"
    assert "--guidance-embedding 7.5" in manifest["command"]
    head = Hub(hub.endpoint, hub.token).state("me/lcm")
    assert head is not None
    card = Hub(hub.endpoint, hub.token).read("me/lcm", str(head.commit), "README.md", limit=1 << 20).decode()
    assert "4 steps, guidance 1: a guidance scale of 7.5 is built into the UNet" in card


@pytest.mark.slow
def test_the_settings_of_a_cards_example_are_taken(hub: LocalHub, sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "turbo"
    shutil.copytree(sources / "sd15", source)
    with (source / "README.md").open("a") as card:
        card.write("\n```python\nimage = pipe(prompt, num_inference_steps=1, guidance_scale=0.0).images[0]\n```\n")
    common = ["--attention", "original", "--format", "packages", *WEIGHTS]
    _hubpub(hub, "publish", str(source), "--to", "me/turbo", *common)
    assert _manifest(hub, "me/turbo")["drawing"] == {"steps": 1, "guidance": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "refiner", "floor"), [("sdxl", "sdxl-refiner", 35.0), ("sd15-inpaint", None, 30.0)])
def test_pictures_are_those_of_diffusers(
    sources: Path, tmp_path: Path, family: str, refiner: str | None, floor: float
) -> None:
    """Two encoders, the hand-over to a refiner, and an inpainting UNet's nine channels, against diffusers."""
    pytest.importorskip("diffusers", reason="pictures are compared with diffusers'")
    more = ["--refiner", str(sources / refiner)] if refiner else []
    drawn = ["--prompt", "a cat", "--prompt-steps", "6", "--bits", "16", "--attention", "original"]
    drawn += ["--latent-height", "16", "--latent-width", "16"]
    out = tmp_path / "out"
    _hubpub(None, "convert", str(sources / family), "-o", str(out), *more, *drawn, "--format", "packages", *WEIGHTS)
    [picture] = json.loads((out / "hubpub.json").read_text())["pictures"]
    assert picture["psnr"] > floor


BAD = [
    (["sd15", "--refiner", "{}/sdxl-refiner"], "Stable Diffusion 1.x model has no refiner"),
    (["sdxl", "--refiner", "{}/sd15"], "local/sd15 is no refiner: it is Stable Diffusion 1.x"),
    (["sdxl", "--controlnet", "{}/controlnet-sd15"], "does not fit: it takes 64 channels of text, the UNet 160"),
    (["sd15-inpaint", "--controlnet", "{}/controlnet-sd15"], "it takes 4 input channels, the UNet 9"),
    (["sd15", "--controlnet", "{}/sdxl"], "local/sdxl is no ControlNet"),
    (["sd15", *["--controlnet", "{}/controlnet-sd15"] * 2], "would both be controlnet/LocalControlnetSd15"),
    (["controlnet-sd15", "--chunk-unet", "--bits", "16"], "ControlNet is not cut into chunks"),
    (["sd15", "--chunk-unet"], "small enough for every device"),
    (["sd15", "--guidance-embedding", "5"], "takes no guidance embedding"),
    (["controlnet-sd15", "--prompt", "a cat"], "draws nothing by itself"),
    (["sdxl", "--latent-height", "34", "--latent-width", "32"], "both sides must be multiples of 4"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_what_does_not_fit_is_said_before_any_work(sources: Path, arguments: list[str], said: str) -> None:
    family, *more = (word.format(sources) for word in arguments)
    told = _hubpub(None, "plan", str(sources / family), *more, *WEIGHTS, status=2)
    assert said in " ".join(told.split())


def test_an_xl_source_without_its_second_encoder_is_refused(sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "xl"
    shutil.copytree(sources / "sdxl", source, ignore=shutil.ignore_patterns("text_encoder_2"))
    told = _hubpub(None, "plan", str(source), *WEIGHTS, status=3)
    assert "StableDiffusionXLPipeline without text_encoder_2/config.json" in " ".join(told.split())
