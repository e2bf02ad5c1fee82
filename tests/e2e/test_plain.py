"""A network whose graph cannot be proven is converted the plain way: told by name, and right in its numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hubpub.cli.app import app
from hubpub.localhub import LocalHub, running
from hubpub.verbs.demo import SOURCE

torch = pytest.importorskip("torch", reason="the plain way goes through torch and coremltools")
pytest.importorskip("coremltools")
pytestmark = pytest.mark.slow

REPO = "me/coreml-plain"
# A bias of one number looks like any literal of one number, so nothing tells where it is.
REASON = "1 of 326 parameters are not used exactly once: conv_out.bias (0×)."


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's source, its UNet with one output channel; all its other graphs are shipped."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("source") / "plain"
    shutil.copytree(SOURCE, folder)
    config, weights = folder / "unet" / "config.json", folder / "unet" / "diffusion_pytorch_model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"out_channels": 1}))
    tensors = load_file(weights)
    tensors["conv_out.bias"] = np.array([0.25], np.float16)  # no other constant has this value
    save_file(tensors | {"conv_out.weight": tensors["conv_out.weight"][:1].copy()}, weights)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as running_hub:
        yield running_hub


def _hubpub(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def _on(hub: LocalHub) -> list[str]:
    return ["--endpoint", hub.endpoint, "--token", hub.token]


def test_the_plain_way_is_told_by_name_and_right(hub: LocalHub, source: Path, tmp_path: Path) -> None:
    options = ["--to", REPO, "--name", "org/plain", "--attention", "original", "--format", "packages"]
    publish = ["publish", str(source), *options, "--verify", "numeric", *_on(hub)]
    told = _hubpub(*publish, "--bits", "8")
    assert f"unet/original was converted the plain way: {REASON}\n" in told.stdout
    label = f"unet original, converted the plain way ({REASON.removesuffix('.')})"
    assert f"Warning: {label}.\n" in told.stderr
    again = json.loads(_hubpub(*publish, "--bits", "8", "--json").stdout)
    assert again["nothing_to_do"]
    assert again["plain"] == {"unet/original": REASON}

    [plan] = json.loads(_hubpub("plan", str(source), *options, "--bits", "8", "--json").stdout)
    assert label in {step["label"] for step in plan["steps"]}

    folder = tmp_path / "models"
    _hubpub("fetch", REPO, "--variant", "original/packages", "--dest", str(folder), *_on(hub))
    manifest = json.loads(_file(hub, "hubpub.json"))
    conversions = {name: part["conversion"] for name, part in manifest["components"].items()}
    # All but that bias, which stays in the program.
    assert conversions.pop("unet/original") == {"kind": "plain", "reason": REASON, "tensors": 326, "unchanged": 325}
    assert conversions
    assert all(conversion == {"kind": "graph"} for conversion in conversions.values())
    assert f"unet/original was converted the plain way: {REASON}" in _file(hub, "README.md")
    check = manifest["components"]["unet/original"]["verification"]
    assert check["kind"] == "numeric"
    assert check["psnr_graph"] > 60
    _compare(source, folder / "Stable_Diffusion_version_org_plain_unet.mlpackage")


def _file(hub: LocalHub, name: str) -> str:
    from hubpub.remote.hub import Hub

    return Hub(hub.endpoint, hub.token).read(REPO, None, name, limit=1 << 20).decode()


def _compare(source: Path, package: Path) -> None:
    """The published UNet against diffusers' own, with the source's weights."""
    from diffusers import UNet2DConditionModel

    from hubpub import runtime
    from tests.support.tiny_modules import psnr

    module = UNet2DConditionModel.from_pretrained(source / "unet").float()
    generator = np.random.default_rng(5)
    sample, states = (generator.standard_normal(shape).astype(np.float16) for shape in ((2, 4, 32, 32), (2, 64, 1, 77)))
    with runtime.load(package) as model:
        timestep = np.array([500, 500], np.float16)
        got = model.predict({"sample": sample, "timestep": timestep, "encoder_hidden_states": states})["noise_pred"]
    with torch.no_grad():
        expected = module(
            torch.from_numpy(sample).float(),
            torch.tensor([500, 500]),
            torch.from_numpy(states[:, :, 0].transpose(0, 2, 1).copy()).float(),
        ).sample
    assert got.shape == (2, 1, 32, 32)
    assert psnr(expected, torch.from_numpy(got)) > 30
