"""doctor: every line says how it is and what to do; what is broken is exit status 4."""

from __future__ import annotations

import json
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hubpub.cli.app import app
from hubpub.engine.store import Store
from hubpub.localhub import Fault, Faults, LocalHub, running
from hubpub.verbs import doctor
from hubpub.verbs.doctor import Check
from hubpub.verbs.session import Session

NAMES = [
    "python",
    "packages",
    "numeric",
    "coreml",
    "local",
    "report",
    "sign",
    "compiler",
    "memory",
    "disk",
    "store",
    "endpoint",
    "token",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUBPUB_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


def _doctor(*words: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *words])


def _checks(hub: LocalHub, token: str) -> tuple[int, dict[str, Any]]:
    done = _doctor("--json", "--endpoint", hub.endpoint, "--token", token)
    return done.exit_code, {check["name"]: check for check in json.loads(done.stdout)}


def _store(root: Path) -> Check:
    with Session.open(root=root) as session:
        return doctor.store(session)


def _committed(root: Path) -> Path:
    store = Store(root)
    payload = store.work_folder("ab" * 32)
    (payload / "file").write_bytes(b"12345")
    return store.commit("ab" * 32, payload, kind="fill", label="a step", measurements={}, seconds=1.0).payload


def test_a_sound_machine(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub") as hub:
        status, checks = _checks(hub, hub.token)
        text = _doctor("--endpoint", hub.endpoint, "--token", hub.token).stdout
    assert status == 0
    assert list(checks) == NAMES
    assert checks["token"]["state"] == "ok"
    assert "may write to repos of me" in checks["token"]["found"]
    assert checks["store"]["found"].endswith("is not there yet")
    assert not root.exists()  # looking changes nothing
    for check in checks.values():
        assert check["state"] == "ok" or check["to_do"]
        assert f"{check['name']:9} " in text


def test_tokens(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub") as hub:
        status, checks = _checks(hub, hub.read_token)
        assert (status, checks["token"]["state"]) == (0, "note")
        assert "may only read" in checks["token"]["found"]
        status, checks = _checks(hub, "hf_nonsense_token")
        assert (status, checks["token"]["state"]) == (4, "broken")
        anonymous = _doctor("--json", "--endpoint", hub.endpoint)
    checks = {check["name"]: check for check in json.loads(anonymous.stdout)}
    assert (checks["token"]["state"], checks["token"]["found"]) == ("note", "none")
    assert "hf auth login" in checks["token"]["to_do"]


def test_a_hub_that_is_not_there(root: Path) -> None:
    done = _doctor("--endpoint", "http://127.0.0.1:9")
    assert done.exit_code == 4
    assert "BROKEN  endpoint" in done.stdout
    assert "1 of 12 checks failed: endpoint." in done.stderr


def test_a_hub_that_fails(root: Path, tmp_path: Path) -> None:
    faults = Faults()
    faults.add(Fault(kind="status", path="/api/models", status=503))
    with running(tmp_path / "hub", faults=faults) as hub:
        status, checks = _checks(hub, hub.token)
    assert (status, checks["endpoint"]["state"]) == (4, "broken")
    assert "503" in checks["endpoint"]["found"]


def test_offline_is_a_choice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    done = _doctor("--endpoint", "http://127.0.0.1:9")
    assert done.exit_code == 0, done.output
    assert "HF_HUB_OFFLINE is set" in done.stdout


def test_a_store_that_lost_bytes(root: Path) -> None:
    payload = _committed(root)
    assert _store(root).state == "ok"
    (payload / "file").chmod(0o600)
    (payload / "file").write_bytes(b"123")
    found = _store(root)
    assert (found.state, found.to_do.split("`")[1]) == ("broken", "hubpub cache verify")
    assert "a step" in found.found
    cured = CliRunner().invoke(app, ["cache", "verify"])
    assert cured.exit_code == 9
    assert _store(root).state == "ok"


def test_a_store_whose_entry_cannot_be_read(root: Path) -> None:
    (_committed(root).parent / "entry.json").write_text("{", encoding="utf-8")
    found = _store(root)
    assert (found.state, found.to_do.split("`")[1]) == ("broken", "hubpub cache verify")
    cured = CliRunner().invoke(app, ["cache", "verify"])
    assert cured.exit_code == 9
    assert "1 steps read, 1 damaged." in cured.stdout
    assert _store(root).state == "ok"


def test_what_killed_runs_left(root: Path) -> None:
    Store(root).work_folder("cd" * 32)
    found = _store(root)
    assert found.state == "note"
    assert "1 folders of killed runs" in found.found


Memory = namedtuple("Memory", "total available")
Disk = namedtuple("Disk", "total used free")


def test_little_memory_and_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: Memory(8 * 10**9, 2 * 10**9))
    assert (doctor.memory().state, "--verify weights" in doctor.memory().to_do) == ("note", True)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: Memory(5 * 10**8, 10**8))
    assert doctor.memory().state == "broken"
    monkeypatch.setattr(doctor.disks.shutil, "disk_usage", lambda place: Disk(10**12, 0, 10**9))
    assert (doctor.disk(root).state, "HUBPUB_CACHE" in doctor.disk(root).to_do) == ("note", True)


@pytest.mark.skipif(sys.platform == "win32", reason="folders are closed in another way there")
def test_a_disk_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: False)
    assert doctor.disk(tmp_path / "store").state == "broken"


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_importable", lambda module: module not in ("torch", "numba", "uvicorn", "vl_convert", "sigstore")
    )
    parts = ("packages", "numeric", "local", "report", "sign")
    assert [doctor.packages(part).state for part in parts] == ["broken", "note", "note", "note", "note"]
    assert all(f"hubpub[{part}]" in doctor.packages(part).to_do for part in parts[1:])
    assert "hubpub[numeric]" in doctor.packages("numeric").to_do
    assert doctor.packages("numeric").found.startswith("without torch; diffusers ")


def test_a_module_of_a_package_that_is_not_there() -> None:
    assert doctor._importable("google.protobuf")
    assert not doctor._importable("no_such_package.module")


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))
    assert doctor.python().state == "broken"


def test_only_what_is_broken_ends_with_a_status() -> None:
    doctor.raise_broken([Check(name="a", state="ok", found=""), Check(name="b", state="note", found="", to_do="c")])
    with pytest.raises(doctor.PreflightError) as caught:
        doctor.raise_broken([Check(name="a", state="broken", found="x", to_do="y")])
    assert caught.value.exit_status == 4
    assert [(problem.message, problem.hint) for problem in caught.value.problems] == [("a: x", "y")]
