"""The token is in no file, no output, no error and no command line, whether a publish fails or not."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from hubpub.localhub import Fault, LocalHub
from hubpub.remote.hub import Hub
from tests.e2e.releases import REPO, converted


def environment(home: Path, local: LocalHub) -> dict[str, str]:
    """All that hubpub and its libraries write goes below `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUBPUB_"))}
    folders = {name: str(home / name) for name in ("HOME", "HF_HOME", "HUBPUB_CACHE", "TMPDIR", "XDG_CACHE_HOME")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    return {**kept, **folders, "HF_ENDPOINT": local.endpoint, "HF_TOKEN": local.token, "HF_DEBUG": "1"}


def run(words: list[str], home: Path, local: LocalHub) -> tuple[int, set[str]]:
    """Run `hubpub`, its output into a file below `home`: the exit status, and every command line seen meanwhile."""
    seen: set[str] = set()
    with (home / f"output-{time.monotonic_ns()}").open("wb") as output:
        program = subprocess.Popen(
            [sys.executable, "-m", "hubpub", *words],
            stdout=output, stderr=subprocess.STDOUT, env=environment(home, local), cwd=home,
        )  # fmt: skip
        while program.poll() is None:
            seen |= set(command_lines(program.pid))
            time.sleep(0.02)
    return program.returncode, seen


def command_lines(pid: int) -> Iterator[str]:
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            yield " ".join([process.name(), *process.cmdline()])
    except psutil.Error:  # it has just ended
        return


def test_the_token_is_nowhere(local: LocalHub, hub: Hub, tmp_path: Path, lfs: None) -> None:
    home = tmp_path / "home"
    home.mkdir()
    words = ["publish", converted(tmp_path / "release", "original"), "--debug", "--report", "report"]
    seen: set[str] = set()

    local.faults.add(Fault(kind="status", method="POST", path="/commit/", status=403))
    status, lines = run(words, home, local)
    assert status == 4  # CannotWrite
    seen |= lines
    local.faults.clear()
    status, lines = run([*words, "--json"], home, local)
    assert status == 0
    seen |= lines
    assert run(["fetch", REPO, "--dest", "models", "--debug"], home, local)[0] == 0
    assert hub.commit(REPO) is not None  # the token was used

    assert any("hubpub publish" in line for line in seen)
    secrets = [local.token.encode(), base64.b64encode(local.token.encode()), local.token.removeprefix("hf_").encode()]
    assert all(len(secret) > 10 for secret in secrets)
    assert not [line for line in seen if local.token in line]
    files = [path for path in home.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"hubpub.json", "digests.json", "result.json", "summary.md"} & names
    assert sum(path.stat().st_size for path in files if path.name.startswith("output-")) > 1000
    for path in files:
        data = path.read_bytes()
        assert not [secret for secret in secrets if secret in data], path
