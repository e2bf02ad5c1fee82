"""`verify --source`: packages made earlier are run against the source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import hubpub
from hubpub.cli import app
from hubpub.errors import ConfigError
from hubpub.verbs.demo import SOURCE
from hubpub.verbs.measure import Measured, measure, raise_low
from hubpub.verbs.session import Session

pytest.importorskip("torch", reason="packages are run with torch")
pytest.importorskip("diffusers", reason="the source is run with diffusers")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model in both attentions, 6 bits."""
    out = tmp_path_factory.mktemp("release")
    hubpub.convert(SOURCE, formats=["packages"], out=out, verify="weights")
    return out


@pytest.fixture
def session() -> Iterator[Session]:
    with Session.open() as opened:
        yield opened


def test_a_release_is_measured_against_its_source(release: Path, session: Session) -> None:
    found = measure(str(release), str(SOURCE), session=session, floors={})
    by = {(one.component, one.packages[0].partition("/")[0], one.against.partition("/")[0]): one for one in found}
    assert all(one.passed for one in found)
    assert by["unet", "original", "the source"].bits == 6
    assert by["vae_decoder", "original", "the source"].bits == 16
    assert 25 < by["unet", "split_einsum_v2", "the source"].psnr < by["vae_decoder", "original", "the source"].psnr
    assert by["unet", "split_einsum_v2", "original"].psnr > by["unet", "original", "the source"].psnr + 10, (
        "attentions differ by fp16's rounding alone: they agree far better than palettized weights do with the source"
    )
    shared = by["text_encoder", "original", "the source"]
    assert [name.partition("/")[0] for name in shared.packages] == ["original", "split_einsum_v2"], "run once"
    raise_low(found)


def test_another_source_is_noticed(release: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(SOURCE, other)
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    values = np.frombuffer(data[start:], np.float16)
    weights.write_bytes(data[:start] + np.ascontiguousarray(values[::-1]).tobytes())
    done = CliRunner().invoke(app, ["verify", str(release / "original"), "--source", str(other), "--json"])
    assert done.exit_code == 5, done.output
    low = [one for one in json.loads(done.stdout)["measured"] if not one["passed"]]
    assert [one["component"] for one in low] == ["unet"]


def test_what_cannot_be_measured_is_said(release: Path, session: Session, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no packages"):
        measure(str(tmp_path / "empty"), str(SOURCE), session=session, floors={})
    with pytest.raises(ConfigError, match="no component unett"):
        measure(str(release), str(SOURCE), session=session, floors={"unett": 3.0})


def test_no_number_never_passes() -> None:
    one = Measured(packages=("unet",), component="unet", bits=2, against="the source", psnr=float("nan"), floor=None)
    assert not one.passed
    assert one.to_json()["psnr"] is None
