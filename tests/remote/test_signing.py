"""Signatures of manifests, by sigstore's real client against an instance of our own: what passes and what does not."""

from __future__ import annotations

import base64
import gc
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import ConfigError, SignatureInvalid, SigningFailed, ToolMissing
from hubpub.remote import signing
from hubpub.remote.signing import Wanted

pytest.importorskip("sigstore")

from tests.support.sigstore_instance import ISSUER, WORKFLOW, Instance, running, token

MANIFEST = b'{"format": 1, "files": []}\n'
ME = Wanted(identity=WORKFLOW, issuer=ISSUER)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Instance, Path]]:
    with running(tmp_path_factory.mktemp("sigstore")) as started:
        yield started


@pytest.fixture
def instance(services: tuple[Instance, Path], monkeypatch: pytest.MonkeyPatch) -> Instance:
    """The instance is the one that is used, and a CI job's identity is at hand."""
    monkeypatch.setenv(signing.TRUST, str(services[1]))
    monkeypatch.setenv(signing.TOKEN, token())
    return services[0]


@pytest.fixture(scope="module")
def bundle(services: tuple[Instance, Path]) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signing.TRUST, str(services[1]))
        patch.setenv(signing.TOKEN, token())
        return signing.sign(MANIFEST)[0].encode()


def test_who_signed_is_told(instance: Instance, bundle: bytes) -> None:
    signing.check()
    for wanted in (ME, Wanted(identity=WORKFLOW), Wanted()):
        signer = signing.verify(MANIFEST, bundle, wanted=wanted)
        assert (signer.identity, signer.issuer) == (WORKFLOW, ISSUER)


def test_a_person_is_known_by_address(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(signing.TOKEN, token("me@example.org"))
    signature = signing.sign(MANIFEST)[0].encode()
    assert signing.verify(MANIFEST, signature, wanted=Wanted(identity="me@example.org")).identity == "me@example.org"


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # sigstore leaves its own server's socket open
def test_a_person_logs_in_with_a_browser(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[str] = []

    def browser(address: str) -> bool:
        visited.append(address)
        with urlopen(address) as page:
            return bool(page.read())

    monkeypatch.delenv(signing.TOKEN)
    monkeypatch.setattr("webbrowser.open", browser)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    signing.check()
    assert not visited  # nobody is asked before there is something to sign
    signature = signing.sign(MANIFEST)[0].encode()
    assert signing.verify(MANIFEST, signature, wanted=Wanted()).identity == "me@example.org"
    assert len(visited) == 1
    gc.collect()


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(identity="https://github.com/you/models/.github/workflows/publish.yml@refs/heads/main"),
        Wanted(identity=WORKFLOW, issuer="https://other.example"),
    ],
)
def test_somebody_else(instance: Instance, bundle: bytes, wanted: Wanted) -> None:
    with pytest.raises(SignatureInvalid):
        signing.verify(MANIFEST, bundle, wanted=wanted)


def test_an_issuer_alone_is_refused(instance: Instance, bundle: bytes) -> None:
    with pytest.raises(ConfigError, match="issuer"):
        signing.verify(MANIFEST, bundle, wanted=Wanted(issuer=ISSUER))


def test_a_manifest_that_was_changed(instance: Instance, bundle: bytes) -> None:
    with pytest.raises(SignatureInvalid, match="digest mismatch"):
        signing.verify(MANIFEST.replace(b"1", b"2"), bundle, wanted=Wanted())


def test_keys_that_nobody_trusts(
    instance: Instance, bundle: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever makes an instance of sigstore can sign as anybody; only the trusted one counts."""
    with running(tmp_path) as (_, trust):
        monkeypatch.setenv(signing.TRUST, str(trust))
        with pytest.raises(SignatureInvalid):
            signing.verify(MANIFEST, bundle, wanted=Wanted())


@pytest.mark.parametrize("log", ["log", "certificates_log", "ca"])
def test_each_key_is_checked(log: str, instance: Instance, bundle: bytes, tmp_path: Path) -> None:
    """The CA, the log of certificates and the log of signatures: none may be another's."""
    other = Instance()
    for name in {"log", "certificates_log", "ca"} - {log}:
        setattr(other, name, getattr(instance, name))
    other.url = instance.url
    other.root = other._root() if log == "ca" else instance.root
    (tmp_path / "trust.json").write_text(json.dumps(other.trust_config()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signing.TRUST, str(tmp_path / "trust.json"))
        with pytest.raises(SignatureInvalid):
            signing.verify(MANIFEST, bundle, wanted=Wanted())


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something can be replaced."""
    yield above
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*above, key))


junk = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=99).map(
    lambda data: base64.b64encode(data).decode()
) | st.lists(st.none(), max_size=2) | st.just({})  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_bundle_that_was_changed(services: tuple[Instance, Path], bundle: bytes, data: st.DataObject) -> None:
    """It is refused, or what was changed has no meaning; no other error escapes."""
    told = json.loads(bundle)
    where = data.draw(st.sampled_from(list(places(told))))
    now = data.draw(junk)
    if where:
        holder = told
        for key in where[:-1]:
            holder = holder[key]
        holder[where[-1]] = now
    else:
        told = now
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signing.TRUST, str(services[1]))
        try:
            signer = signing.verify(MANIFEST, json.dumps(told).encode(), wanted=Wanted())
        except SignatureInvalid:
            return
        assert signer.identity == WORKFLOW


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 5000))
def test_a_bundle_that_is_damaged(services: tuple[Instance, Path], bundle: bytes, noise: bytes, at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signing.TRUST, str(services[1]))
        for damaged in (noise, bundle[:at], bundle[:at] + noise + bundle[at + len(noise) :]):
            try:
                assert signing.verify(MANIFEST, damaged, wanted=Wanted()).identity == WORKFLOW
            except SignatureInvalid:
                continue


@pytest.mark.parametrize(
    ("given", "says"),
    [("", "nobody is at a terminal"), ("no token", "malformed"), (token(lives=-60), "malformed")],
    ids=["none", "no token", "expired"],
)
def test_no_identity(given: str, says: str, instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(signing.TOKEN, given)
    with pytest.raises(SigningFailed, match=says) as caught:
        signing.sign(MANIFEST)
    assert not given or given not in str(caught.value)
    assert "terminal" in caught.value.hint or "again" in caught.value.hint


def test_a_github_job_without_the_right(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(signing.TOKEN)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(SigningFailed) as caught:
        signing.check()
    assert "id-token: write" in caught.value.hint


def test_services_that_refuse(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = token()
    monkeypatch.setenv(signing.TOKEN, secret)
    monkeypatch.setattr(instance, "refuses", True)
    with pytest.raises(SigningFailed) as caught:
        signing.sign(MANIFEST)
    assert secret not in f"{caught.value} {caught.value.hint}"


def test_services_that_are_not_there(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = Instance()
        nowhere.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "trust.json").write_text(json.dumps(nowhere.trust_config()), encoding="utf-8")
        monkeypatch.setenv(signing.TRUST, str(tmp_path / "trust.json"))
        time.monotonic()
        with pytest.raises(SigningFailed):
            signing.sign(MANIFEST)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"mediaType": "x"}', '{"trustedRoot": {}}'])
def test_a_trust_config_that_is_none(
    text: str | None, bundle: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "trust.json").write_text(text, encoding="utf-8")
    monkeypatch.setenv(signing.TRUST, str(tmp_path / "trust.json"))
    with pytest.raises(ConfigError, match=signing.TRUST):
        signing.verify(MANIFEST, bundle, wanted=Wanted())


def test_the_public_keys_that_sigstore_brings(bundle: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline the public instance's keys are those that came with the library, and ours are not among them."""
    monkeypatch.delenv(signing.TRUST, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SignatureInvalid):
        signing.verify(MANIFEST, bundle, wanted=Wanted(), offline=True)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "find_spec", lambda name: None)
    for call in (signing.check, lambda: signing.sign(b""), lambda: signing.verify(b"", b"", wanted=Wanted())):
        with pytest.raises(ToolMissing) as caught:
            call()
        assert "hubpub[sign]" in caught.value.hint
