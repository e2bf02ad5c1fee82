"""Plans are values: the same input gives the same plan, and a knob changes what hears it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hubpub.errors import BadWeights, LicenceMissing, SourceError, UnknownArchitecture
from hubpub.plan.config import effective
from hubpub.plan.planner import Plan
from hubpub.steps.step import FromSource, FromStep
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
    return {step.key for step in plan.steps if step.kind == kind}


def test_the_same_twice(source: Path, session: Session) -> None:
    assert _plan(source, session).to_json() == _plan(source, session).to_json()


def test_variants_share_all_but_the_unet(source: Path, session: Session) -> None:
    both = _plan(source, session)
    one = _plan(source, session, attention=["original"])
    for kind in ("export", "fill", "readback", "compile"):
        assert _keys(one, kind) < _keys(both, kind)
        assert len(_keys(both, kind)) == len(_keys(one, kind)) + 1
    assert len(_keys(both, "archive")) == 2


def test_bits_change_what_is_palettized_alone(source: Path, session: Session) -> None:
    six, four = _plan(source, session), _plan(source, session, bits=4)
    assert _keys(six, "export") == _keys(four, "export")
    shared = _keys(six, "fill") & _keys(four, "fill")
    labels = {step.label for step in six.steps if step.key in shared}
    assert labels == {"vae_decoder, 16-bit", "vae_encoder, 16-bit", "safety_checker, 16-bit"}


def test_steps_come_after_what_they_need(source: Path, session: Session) -> None:
    seen: set[str] = set()
    for step in _plan(source, session).steps:
        assert step.requires() <= seen
        seen.add(step.key)


def test_archives_wait_for_the_gate(source: Path, session: Session) -> None:
    plan = _plan(source, session)
    gates = _keys(plan, "readback")
    archives = [step for step in plan.steps if step.kind == "archive"]
    assert all(len(gates & set(step.after)) == 5 for step in archives)
    assert not any(step.after for step in _plan(source, session, verify="off").steps)


def test_the_destination_is_in_the_archives_key(source: Path, session: Session) -> None:
    assert not _keys(_plan(source, session), "archive") & _keys(_plan(source, session, to="me/other"), "archive")


def test_formats(source: Path, session: Session) -> None:
    packages = _plan(source, session, formats=["packages"])
    assert {step.kind for step in packages.steps} == {"export", "fill", "readback"}
    assert all("/packages/" in target.path_in_repo for target in packages.targets)
    assert not any(isinstance(target.given, FromSource) for target in packages.targets)
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


def test_a_graph_that_cannot_be_proven_is_gone_round(source: Path, session: Session) -> None:
    proven = _plan(source, session, verify="numeric")
    export = next(step for step in proven.steps if step.label.startswith("graph of unet original"))
    out = session.store.work_folder(export.key)
    session.store.commit(
        export.key, out, kind="export", label=export.label, measurements={"unproven": "Two are one."}, seconds=1.0
    )
    plan = _plan(source, session, verify="numeric")
    [plain] = (step for step in plan.steps if step.kind == "plain")
    assert plain.label == "unet original, converted the plain way (Two are one)"
    assert plain.heavy
    assert plain.memory > 16 * plain.size / 2
    planned = next(one for one in plan.components if (one.component.name, one.attention) == ("unet", "original"))
    assert planned.plain == plain.key
    for step in (plan.step(planned.fill), plan.step(planned.readback or "")):
        assert step.inputs["graph"] == FromStep(key=plain.key)
        assert step.inputs["source"] == FromStep(key=plain.key)
    # What the source itself computes is asked of the source's own files, as ever; and nothing else is another.
    assert _keys(plan, "reference") == _keys(proven, "reference") - _unet_reference(proven) | _unet_reference(plan)
    assert _keys(plan, "export") == _keys(proven, "export")
    others = {step.key for step in proven.steps if "unet" not in step.label and step.kind != "archive"}
    assert others <= {step.key for step in plan.steps}


def _unet_reference(plan: Plan) -> set[str]:
    return {step.key for step in plan.steps if step.label == "run unet of the source"}
