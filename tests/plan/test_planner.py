"""Plans are values: the same input gives the same plan, and a knob changes only what depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubpub.errors import BadWeights, ConfigError, LicenceMissing, SourceError, UnknownArchitecture
from hubpub.plan.config import effective
from hubpub.plan.plan import Plan
from hubpub.steps import Archive, FromSource, Measure
from hubpub.verbs.preparation import prepare
from hubpub.verbs.session import Session
from tests.support.sources import make_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "tiny", "sd15")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session.open(root=tmp_path / "store")


def _plan(source: Path, session: Session, **given: Any) -> Plan:
    config = effective({}, {"source": str(source), "to": "me/coreml-tiny", "verify": "weights", **given})
    return prepare(config, session, owner=None).plan


def _keys(plan: Plan, kind: str) -> set[str]:
    return {step.key for step in plan.steps if step.kind() == kind}


def test_the_same_twice(source: Path, session: Session) -> None:
    assert _plan(source, session).to_json() == _plan(source, session).to_json()


def test_variants_share_all_but_the_unet(source: Path, session: Session) -> None:
    both = _plan(source, session)
    one = _plan(source, session, attention=["original"])
    assert _keys(one, "weights") == _keys(both, "weights")
    for kind in ("package", "compile"):
        assert _keys(one, kind) < _keys(both, kind)
        assert len(_keys(both, kind)) == len(_keys(one, kind)) + 1
    assert len(_keys(both, "readback")) == len(_keys(one, "readback")) == 5
    assert len(_keys(both, "archive")) == 2


def test_weights_do_not_depend_on_size_batch_or_target(source: Path, session: Session) -> None:
    plain = _plan(source, session)
    for change in ({"latent_height": 40, "latent_width": 24}, {"batch_one": True}, {"deployment_target": "macOS15"}):
        other = _plan(source, session, **change)
        assert _keys(other, "weights") == _keys(plain, "weights")
        assert _keys(other, "package") != _keys(plain, "package")


def test_bits_change_what_is_palettized_alone(source: Path, session: Session) -> None:
    six, four = _plan(source, session), _plan(source, session, bits=4)
    shared = _keys(six, "weights") & _keys(four, "weights")
    labels = {step.label for step in six.steps if step.key in shared}
    assert labels == {f"weights of {name}, 16-bit" for name in ("vae_decoder", "vae_encoder", "safety_checker")}


def test_the_numeric_gate_is_small_and_the_full_one_is_not(tmp_path: Path, session: Session) -> None:
    source = make_source(tmp_path / "tiny", "sd15")
    numeric = _plan(source, session, verify="numeric", latent_height=64, latent_width=48)
    full = _plan(source, session, verify="full", latent_height=64, latent_width=48)
    measured = {step.height for step in numeric.steps if isinstance(step, Measure) and step.component == "unet"}
    assert measured == {32}
    assert {(step.height, step.width) for step in full.steps if isinstance(step, Measure) and step.attention} == {
        (64, 48)
    }
    # one reference for both attentions, and no weights but the published ones
    assert len(_keys(numeric, "reference")) == len(_keys(numeric, "weights")) == 5


def test_a_misspelt_floor_is_refused(source: Path, session: Session) -> None:
    with pytest.raises(ConfigError, match="no component unett") as caught:
        _plan(source, session, floor={"unett": 20.0})
    assert "Did you mean unet?" in caught.value.hint


def test_steps_come_after_what_they_need(source: Path, session: Session) -> None:
    seen: set[str] = set()
    for step in _plan(source, session).steps:
        assert step.requires() <= seen
        seen.add(step.key)


def test_archives_wait_for_the_gate(source: Path, session: Session) -> None:
    plan = _plan(source, session)
    gates = _keys(plan, "readback")
    archives = [step for step in plan.steps if isinstance(step, Archive)]
    assert all(len(gates & set(step.after)) == 5 for step in archives)
    assert not any(step.after for step in _plan(source, session, verify="off").steps)


def test_the_destination_is_in_the_archives_key(source: Path, session: Session) -> None:
    assert not _keys(_plan(source, session), "archive") & _keys(_plan(source, session, to="me/other"), "archive")


def test_formats(source: Path, session: Session) -> None:
    packages = _plan(source, session, formats=["packages"])
    assert {step.kind() for step in packages.steps} == {"weights", "package", "readback"}
    assert all("/packages/" in target.path_in_repo for target in packages.targets)
    assert not any(isinstance(target.content, FromSource) for target in packages.targets)
    archive = _plan(source, session, formats=["zip"])
    assert [target.path_in_repo for target in archive.targets] == [
        "coreml-tiny_original_compiled.zip",
        "coreml-tiny_split_einsum_v2_compiled.zip",
    ]


def test_a_compiled_folder_holds_what_apps_load_and_nothing_else(source: Path, session: Session) -> None:
    targets = [target.path_in_repo for target in _plan(source, session).targets]
    assert [path for path in targets if path.startswith("original/compiled/")] == [
        f"original/compiled/{name}"
        for name in (
            "TextEncoder.mlmodelc",
            "Unet.mlmodelc",
            "VAEDecoder.mlmodelc",
            "VAEEncoder.mlmodelc",
            "SafetyChecker.mlmodelc",
            "vocab.json",
            "merges.txt",
        )
    ]


def test_no_safety_checker(source: Path, session: Session) -> None:
    assert not any("safety" in step.label for step in _plan(source, session, safety_checker=False).steps)


def test_what_is_no_source(tmp_path: Path, session: Session) -> None:
    with pytest.raises(UnknownArchitecture, match="not a diffusers repo"):
        _plan(tmp_path, session)


def test_a_missing_licence_is_asked_for(tmp_path: Path, session: Session) -> None:
    folder = make_source(tmp_path / "tiny", "sd15")
    (folder / "README.md").unlink()
    with pytest.raises(LicenceMissing) as caught:
        _plan(folder, session)
    assert "--license" in caught.value.hint
    assert _plan(folder, session, license="mit")


def test_missing_weights_are_named(tmp_path: Path, session: Session) -> None:
    folder = make_source(tmp_path / "tiny", "sd15")
    next((folder / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(BadWeights, match="vae"):
        _plan(folder, session)


def test_a_damaged_config_is_named(tmp_path: Path, session: Session) -> None:
    folder = make_source(tmp_path / "tiny", "sd15")
    (folder / "unet" / "config.json").write_text("<html>")
    with pytest.raises(SourceError, match=r"unet/config\.json"):
        _plan(folder, session)
