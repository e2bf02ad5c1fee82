"""Answers of a Hub that make no sense: each call ends in a result or in an error of ours."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from huggingface_hub import set_client_factory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubpub.errors import HubpubError
from hubpub.remote import offers
from hubpub.remote.hub import Hub, session
from hubpub.remote.hub.publish import Target, _tags
from hubpub.sources.source import Source
from tests.fuzz.test_fuzz import changed
from tests.support import manifests

COMMIT = "c" * 40
LFS = {"oid": "a" * 64, "size": 2000, "pointerSize": 130}
MANIFEST = json.dumps(manifests.manifest()).encode()
CARD = b"---\nlicense: mit\n---\n"
ANSWERS: dict[str, Any] = {
    "/api/models/me/x/tree/": [
        {"type": "file", "path": "original/packages/A.mlpackage/w", "size": 2000, "oid": "b" * 40, "lfs": LFS},
        {"type": "file", "path": "README.md", "size": len(CARD), "oid": "b" * 40},
        {"type": "file", "path": "hubpub.json", "size": len(MANIFEST), "oid": "b" * 40},
        {"type": "directory", "path": "original", "size": 0, "oid": "b" * 40},
    ],
    "/api/models/me/x/refs": {
        "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}],
        "converts": [],
        "tags": [{"name": "v1", "ref": "refs/tags/v1", "targetCommit": COMMIT}],
    },
    "/api/models/me/x/discussions": {
        "discussions": [
            {
                "num": 1, "title": "x (hubpub)", "author": {"name": "me"}, "createdAt": "2026-01-01T00:00:00.000Z",
                "status": "open", "isPullRequest": True, "repo": {"type": "model", "name": "me/x"},
            }
        ],
        "count": 1,
        "start": 0,
    },
    "/api/models/me/x": {"id": "me/x", "sha": COMMIT, "private": False, "siblings": [{"rfilename": "README.md"}]},
    "/api/whoami-v2": {
        "name": "me", "type": "user", "orgs": [{"name": "org"}],
        "auth": {"accessToken": {"role": "fineGrained", "displayName": "ci", "fineGrained": {
            "global": ["x"], "scoped": [{"entity": {"name": "me"}, "permissions": ["repo.write"]}]}}},
    },
    "/api/validate-yaml": {"errors": [], "warnings": [{"message": "odd"}]},
}  # fmt: skip

CALLS: dict[str, Callable[[Hub], object]] = {
    "state": lambda hub: [offer.size for offer in offers.offers(_state(hub))],
    "snapshot": lambda hub: hub.snapshot(Source(kind="hub", location="me/x", name="me/x")),
    "card": lambda hub: hub.card_data("me/x"),
    "whoami": lambda hub: hub.whoami(),
    "validate": lambda hub: hub.validate_card("---\nlicense: mit\n---\n"),
    "pull request": lambda hub: Target(repo_id="me/x", create_pr=True).current(hub),
    "branch": lambda hub: Target(repo_id="me/x", branch="b").current(hub),
    "tags": lambda hub: _tags(hub, "me/x"),
}
_numbers = itertools.count()


def _state(hub: Hub) -> Any:
    state = hub.state("me/x")
    assert state is not None
    return state


class Answers:
    """A Hub that gives sound answers, but for one path."""

    def __init__(self) -> None:
        self.odd: dict[str, httpx2.Response] = {}

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        found = next((name for name in ANSWERS if path.startswith(name)), None)
        if request.url.params.get("p", "0") != "0":
            return httpx2.Response(200, json={"discussions": [], "count": 0, "start": 0})
        if found is not None:
            return self.odd.get(found) or httpx2.Response(200, json=ANSWERS[found])
        return httpx2.Response(200, content=MANIFEST if path.endswith(".json") else CARD)


@pytest.fixture(scope="module")
def answers() -> Iterator[Answers]:
    made = Answers()
    session.install()
    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(made)))
    yield made
    set_client_factory(session._make_client)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "bounded", lambda patience: 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits, too


def hub() -> Hub:
    """With a token of its own: the client remembers whose a token is."""
    return Hub("http://127.0.0.1:9", f"hf_{'x' * 20}{next(_numbers)}")


@pytest.mark.parametrize("call", CALLS)
def test_sound_answers_are_understood(call: str, answers: Answers) -> None:
    answers.odd = {}
    assert CALLS[call](hub()) is not None


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
@pytest.mark.parametrize("path", ANSWERS)
def test_values_of_another_kind(path: str, answers: Answers, data: st.DataObject) -> None:
    answers.odd = {path: httpx2.Response(200, content=data.draw(changed(json.dumps(ANSWERS[path]).encode())))}
    _all_calls()


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"[]", b"{}", b'"x"', b"[" * 9000, b"\xff\xfe", b"[{}]"])
@pytest.mark.parametrize("status", [200, 400, 403, 404, 500])
def test_bodies_that_are_no_answer(path: str, body: bytes, status: int, answers: Answers) -> None:
    answers.odd = {path: httpx2.Response(status, content=body)}
    _all_calls()


def _all_calls() -> None:
    for call in CALLS.values():
        try:
            call(hub())
        except HubpubError:
            continue
