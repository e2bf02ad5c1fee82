"""The action, this repository's release workflow and the one that init writes: their steps, executed in order.

The Hub is the embedded one; in front of it, where Trusted Publishing is tried, stands what GitHub and the Hub do for
it: an identity for the job, a token of one repo for the identity, and refusals where such a token opens nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from hubpub.cli.app import app
from hubpub.localhub import LocalHub, running
from hubpub.remote.hub import Hub
from tests.support.actions_runner import ROOT, Done, Machine, load, python_path, run_action, run_job
from tests.support.sources import make_source

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="the steps are for bash"),
    pytest.mark.skipif(shutil.which("jq") is None, reason="GitHub's runners have jq"),
]

ACTION = ROOT / ".github" / "actions" / "publish"
REPO = "me/coreml-tiny-palettized"
INPUTS = {
    "source": "./tiny",
    "to": REPO,
    "attention": "original",
    "formats": "packages zip",
    "verify": "weights",
    "extra-args": "--name\norg/tiny\n--no-safety-checker\n",
}


_CONFIG = f"""
attention = ["original"]
formats = ["packages", "zip"]
verify = "weights"
safety_checker = false

[[models]]
source = "./tiny"
name = "org/tiny"
to = "{REPO}"
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as started:
        yield started


@pytest.fixture(scope="module")
def machine(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A runner whose workspace has a source; what it keeps in caches lasts for the module."""
    workspace = tmp_path_factory.mktemp("workspace")
    make_source(workspace / "tiny", "sd15")
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "hubpub", "templates"):
        (workspace / name).symlink_to(ROOT / name)  # the checkout of this repository
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUBPUB_", "GITHUB_"))}
    return Machine(
        temp=tmp_path_factory.mktemp("runner"),
        workspace=workspace,
        env={
            **env,
            "PATH": python_path(),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path_factory.mktemp("hf")),
            "GITHUB_ACTIONS": "true",
            "OMP_NUM_THREADS": "2",
            # pip looks whether all is installed, and installs nothing
            "PIP_DRY_RUN": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
        },
        secrets={"HF_TOKEN": hub.token},
    )


@pytest.fixture(scope="module")
def published(hub: LocalHub, machine: Machine) -> Done:
    return run_action(ACTION, {**INPUTS, "token": hub.token, "tag": "v1"}, machine)


def _fresh(machine: Machine, **changes: Any) -> Machine:
    """Another runner with the same services: no steps in its store."""
    shutil.rmtree(machine.temp / "hubpub-store", ignore_errors=True)
    shutil.rmtree(machine.workspace / ".hubpub", ignore_errors=True)
    given = {name: getattr(machine, name) for name in ("temp", "workspace", "env", "secrets", "caches")}
    return Machine(**{**given, **changes})


def _filled(machine: Machine) -> Machine:
    """A runner whose store has what the first publish made."""
    runner = _fresh(machine)
    shutil.copytree(next(iter(machine.caches.values())), machine.temp / "hubpub-store" / "steps")
    return runner


def test_the_action_publishes_and_says_so(hub: LocalHub, machine: Machine, published: Done) -> None:
    assert published.failed is None, published.log
    outputs = published.outputs
    state = Hub(hub.endpoint, hub.token).state(REPO)
    assert state is not None
    assert state.manifest is not None
    assert outputs["repo"] == REPO
    assert outputs["commit"] == state.commit
    assert outputs["commit"] == Hub(hub.endpoint, hub.token).commit(REPO, "v1")
    assert outputs["tag"] == "v1"
    assert outputs["url"] == f"{hub.endpoint}/{REPO}"
    assert int(outputs["bytes-sent"]) > 1_000_000
    assert outputs["nothing-to-do"] == "false"
    assert json.loads(Path(outputs["manifest"]).read_text(encoding="utf-8")) == state.manifest
    result = json.loads(Path(outputs["result"]).read_text(encoding="utf-8"))
    assert [model["repo_id"] for model in result] == [REPO]
    assert Path(outputs["summary"]).read_text(encoding="utf-8") == published.summary


def test_the_summary_has_variants_and_measurements(published: Done) -> None:
    assert f"`./tiny` → `{REPO}`: published" in published.summary
    assert "| `original/packages` |" in published.summary
    assert "| `original/zip` |" in published.summary
    assert "| unet/original | 6 |" in published.summary
    assert "reading every weight back" in published.summary


def test_again_on_a_fresh_runner_the_cache_has_every_step(hub: LocalHub, machine: Machine, published: Done) -> None:
    assert len(machine.caches) == 1
    again = run_action(ACTION, {**INPUTS, "token": hub.token, "tag": "v1"}, _fresh(machine))
    assert again.failed is None, again.log
    assert "Check what was brought back" in again.ran
    assert "0 damaged" in again.log
    assert again.outputs["nothing-to-do"] == "true"
    assert again.outputs["bytes-sent"] == "0"
    assert "Keep finished steps" not in again.ran


def test_a_failure_has_a_summary_and_keeps_its_steps(hub: LocalHub, machine: Machine, published: Done) -> None:
    runner = _fresh(machine, caches=dict(machine.caches))
    failed = run_action(ACTION, {**INPUTS, "token": hub.read_token, "bits": "8"}, runner)
    assert failed.failed == "Publish"
    assert "CannotWrite (exit status 4)" in failed.summary
    assert failed.outputs["repo"] == REPO
    assert failed.outputs["commit"] == ""
    assert "Keep finished steps" in failed.ran


@pytest.mark.parametrize("dangerous", ["./tiny; touch hacked; $(touch hacked) `touch hacked`", "--help"])
def test_inputs_are_words_and_never_code(machine: Machine, dangerous: str) -> None:
    done = run_action(ACTION, {**INPUTS, "source": dangerous, "cache": "false", "dry-run": "true"}, machine)
    assert done.failed == "Publish"
    assert not list(machine.workspace.rglob("hacked"))
    assert "neither an existing folder nor a repo id" in done.summary


def test_a_typing_error_publishes_nothing(machine: Machine) -> None:
    done = run_action(ACTION, {**INPUTS, "dry-run": "yes", "cache": "false"}, machine)
    assert done.failed == "Publish"
    assert "::error::Input dry-run is 'yes'" in done.log


def test_a_dry_run_needs_no_token_and_changes_nothing(hub: LocalHub, machine: Machine, published: Done) -> None:
    before = len(hub.requests)
    done = run_action(ACTION, {**INPUTS, "to": "me/coreml-other", "dry-run": "true"}, _fresh(machine))
    assert done.failed is None, done.log
    assert "dry run" in done.summary
    assert "steps would run first" in done.summary
    assert all(seen.method in ("GET", "HEAD") for seen in hub.requests[before:])
    assert not any("whoami" in seen.path for seen in hub.requests[before:])


def test_of_several_models_each_is_published_and_one_that_fails_is_named(
    hub: LocalHub, machine: Machine, published: Done
) -> None:
    second = '[[models]]\nsource = "./gone"\n[[models]]\nsource = "./tiny"\nname = "org/tiny"\nto = "me/coreml-third"\n'
    config = machine.workspace / "several.toml"
    config.write_text(_CONFIG + second, encoding="utf-8")
    done = run_action(ACTION, {"config": "several.toml", "token": hub.token, "cache": "false"}, _filled(machine))
    assert done.failed == "Publish"
    result = json.loads(Path(done.outputs["result"]).read_text(encoding="utf-8"))
    assert [model["source"] for model in result] == ["./tiny", "./gone", "./tiny"]
    assert result[0]["nothing_to_do"]
    assert result[1]["error"]["exit_status"] == 2
    assert result[2]["commit"] == Hub(hub.endpoint, hub.token).commit("me/coreml-third")
    assert f"| `./tiny` | `{REPO}` | nothing to do |" in done.summary
    assert "| `./gone` |  | **failed** |" in done.summary


def test_with_a_config_fetch_needs_no_more_words(
    hub: LocalHub, published: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "hubpub.toml").write_text(_CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    where = ["--endpoint", hub.endpoint, "--token", hub.token]
    fetched = CliRunner().invoke(app, ["fetch", "--variant", "original/packages", *where])
    assert fetched.exit_code == 0, fetched.output
    assert fetched.stdout.strip() == "models/coreml-tiny-palettized_original_packages"
    assert len(list((tmp_path / fetched.stdout.strip()).iterdir())) == 4
    (tmp_path / "hubpub.toml").write_text(
        _CONFIG + '[fetch]\nvariant = "original/compiled"\nzip = true\n', encoding="utf-8"
    )
    fetched = CliRunner().invoke(app, ["fetch", *where])
    assert fetched.exit_code == 0, fetched.output
    assert (tmp_path / fetched.stdout.strip() / "Unet.mlmodelc").is_dir()
    assert "original" in CliRunner().invoke(app, ["variants", *where]).stdout


# -- Trusted Publishing ----------------------------------------------------------------------------------------


@dataclass
class Front:
    """A Hub that trusts a job, before the embedded one."""

    hub: LocalHub
    trusts: str | None
    endpoint: str = ""
    paths: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body."""
        self.paths.append(f"{method} {path}")
        parts = urlsplit(path)
        authorization = headers.get("Authorization", "")
        if parts.path == "/identity":  # GitHub
            audience = parse_qs(parts.query).get("audience")
            good = authorization == "Bearer of-the-job" and audience == [self.endpoint]
            return _json(200 if good else 403, {"value": "identity"})
        if parts.path == "/oauth/token":
            asked = json.loads(body)
            if asked["subject_token"] != "identity" or asked["resource"] != self.trusts:
                return _json(400, {"error": "invalid_grant"})
            return _json(200, {"access_token": "hf_jwt_hour", "token_type": "bearer", "expires_in": 3600})
        if authorization == "Bearer hf_jwt_hour":
            if f"/{self.trusts}" not in parts.path and parts.path != "/api/validate-yaml":
                return _json(401, {"error": "Invalid credentials"})
            headers.replace_header("Authorization", f"Bearer {self.hub.token}")
        return self._forward(method, path, headers, body)

    def _forward(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.hub.endpoint).netloc, timeout=60)
        sent = {name: value for name, value in headers.items() if name.lower() not in ("host", "transfer-encoding")}
        connection.request(method, path, body=body, headers=sent)
        response = connection.getresponse()
        data = response.read()
        skipped = ("connection", "transfer-encoding", "date", "server")
        told = [(name, value) for name, value in response.getheaders() if name.lower() not in skipped]
        connection.close()
        return response.status, told, data


def _json(status: int, value: Any) -> tuple[int, list[tuple[str, str]], bytes]:
    data = json.dumps(value).encode()
    return status, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))], data


@contextmanager
def _front(hub: LocalHub, trusts: str | None) -> Iterator[Front]:
    front = Front(hub=hub, trusts=trusts)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else b""
            body = body or self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, data = front.answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _chunks(self) -> bytes:
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    front.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _identified(machine: Machine, front: Front) -> Machine:
    env = {
        **machine.env,
        "HF_ENDPOINT": front.endpoint,
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{front.endpoint}/identity?api=1",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job",
    }
    return _fresh(machine, env=env)


def test_trusted_publishing_needs_no_token(hub: LocalHub, machine: Machine, published: Done) -> None:
    """The repo exists; the job's identity is enough, and routes that its token does not open are not asked."""
    repo = "me/coreml-trusted"
    Hub(hub.endpoint, hub.token).api.create_repo(repo)
    with _front(hub, repo) as front:
        done = run_action(ACTION, {**INPUTS, "to": repo}, _identified(machine, front))
    assert done.failed is None, done.log
    assert done.outputs["repo"] == repo
    assert done.outputs["commit"] == Hub(hub.endpoint, hub.token).commit(repo)
    assert any(path.startswith("POST /oauth/token") for path in front.paths)
    assert not any("whoami" in path or "repos/create" in path for path in front.paths)


def test_where_the_hub_does_not_trust_the_job_the_token_comes_second(
    hub: LocalHub, machine: Machine, published: Done
) -> None:
    with _front(hub, None) as front:
        runner = _identified(machine, front)
        done = run_action(ACTION, {**INPUTS, "token": hub.token}, runner)
        assert done.failed is None, done.log
        assert done.outputs["nothing-to-do"] == "true"
        assert f"::warning::{front.endpoint} does not trust this job to publish to {REPO}" in done.log
        alone = run_action(ACTION, INPUTS, runner)
    assert alone.failed == "Publish"
    assert "CannotWrite (exit status 4)" in alone.summary
    assert "Trusted Publishers" in alone.summary


# -- workflows -------------------------------------------------------------------------------------------------


def _models(plan: Done) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads(plan.outputs["models"])
    return models


def _check_release(workflow: dict[str, Any], machine: Machine) -> None:
    """By hand: plan, then a job per model; the proposal is for pull requests only."""
    runner = _fresh(machine)
    plan = run_job(workflow, "plan", runner)
    assert plan is not None
    assert plan.failed is None, plan.log
    assert _models(plan) == [{"source": "./tiny", "to": REPO, "destination": REPO}]
    row = {"matrix": {"model": _models(plan)[0]}, "needs": {"plan": {"outputs": plan.outputs}}}
    done = run_job(workflow, "publish", runner, **row)
    assert done is not None
    assert done.failed is None, done.log
    assert f"`./tiny` → `{REPO}`: nothing to do" in done.summary
    assert "| `original/packages` |" in done.summary
    assert run_job(workflow, "propose", runner, **row) is None


def _check_proposal(workflow: dict[str, Any], machine: Machine) -> None:
    """On a pull request: no secret, no publish, and a page that can be a comment."""
    runner = _fresh(machine, event="pull_request", secrets={})
    plan = run_job(workflow, "plan", runner)
    assert plan is not None
    assert plan.failed is None, plan.log
    strategy = {"job-index": 0}
    row = {"matrix": {"model": _models(plan)[0]}, "needs": {"plan": {"outputs": plan.outputs}}, "strategy": strategy}
    assert run_job(workflow, "publish", runner, **row) is None
    done = run_job(workflow, "propose", runner, **row)
    assert done is not None
    assert done.failed is None, done.log
    page = runner.artifacts["dry-run-0"].read_text(encoding="utf-8")
    assert f"`./tiny` → `{REPO}`: dry run" in page
    assert len(page) < 65536


@pytest.fixture
def configured(machine: Machine) -> Iterator[Machine]:
    config = machine.workspace / "hubpub.toml"
    config.write_text(_CONFIG, encoding="utf-8")
    yield machine
    config.unlink()


def test_the_release_workflow(configured: Machine, published: Done) -> None:
    _check_release(load(ROOT / ".github" / "workflows" / "release.yml"), configured)


def test_the_release_workflow_on_a_pull_request(configured: Machine, published: Done) -> None:
    _check_proposal(load(ROOT / ".github" / "workflows" / "release.yml"), configured)


def test_the_release_workflow_without_a_config(machine: Machine) -> None:
    workflow = load(ROOT / ".github" / "workflows" / "release.yml")
    plan = run_job(workflow, "plan", machine)
    assert plan is not None
    assert plan.failed is None, plan.log
    needs = {"plan": {"outputs": plan.outputs}}
    assert run_job(workflow, "publish", machine, needs=needs, matrix={}) is None


def test_the_workflow_that_init_writes(
    configured: Machine, published: Done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["init", "org/tiny", "--yes"])
    assert result.exit_code == 0, result.output
    workflow = load(tmp_path / ".github" / "workflows" / "hubpub.yml")
    _check_release(workflow, configured)
    _check_proposal(workflow, configured)
