"""Every error that hubpub can raise is raised in a test, by hubpub itself; here those that no other test reaches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

import hubpub
from hubpub import errors
from hubpub.errors import FilesChanged, NotEnoughMemory, PublishError
from tests.e2e.releases import converted, release, tree
from tests.support.sources import make_source

TESTS = Path(__file__).resolve().parent
PACKAGE = Path(hubpub.__file__).parent


def _classes() -> list[type[errors.HubpubError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HubpubError)]


def _calls(folder: Path) -> Iterator[ast.Call]:
    for path in folder.rglob("*.py"):
        if path.name != "errors.py" or path.parent != PACKAGE:
            yield from (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call))


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@cache
def _made_by_hubpub() -> frozenset[str]:
    """Names that something in the package is made of."""
    return frozenset(_name(call.func) for call in _calls(PACKAGE))


@cache
def _caught_in_tests() -> frozenset[str]:
    """What a `pytest.raises(…)` names alone: such a test fails unless just that, or narrower, is raised."""
    return frozenset(
        _name(call.args[0])
        for call in _calls(TESTS)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "raises" and call.args
    )


@pytest.mark.parametrize("kind", _classes(), ids=lambda kind: kind.__name__)
def test_every_class_is_raised_in_a_test_or_only_gathers_others(kind: type[errors.HubpubError]) -> None:
    if kind.__name__ in _made_by_hubpub():
        assert kind.__name__ in _caught_in_tests(), f"no test reaches {kind.__name__}"
    else:
        assert kind.__subclasses__(), f"nothing raises {kind.__name__}"


def test_a_machine_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "tiny", "sd15")
    small = psutil.virtual_memory()._replace(total=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    with pytest.raises(NotEnoughMemory, match=r"of memory, and this machine has 1\.0 MB") as caught:
        hubpub.convert(source, out=tmp_path / "out", verify="weights")
    assert caught.value.hint == "Use a larger machine."
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_changed(tmp_path: Path) -> None:
    from hubpub.remote.destinations import release_files

    folder = tmp_path / "release"
    release_files(release(folder, tree(size=1000)), folder)
    (folder / "original" / "packages" / "vocab.json").write_bytes(b"{}")
    with pytest.raises(FilesChanged, match="are not as they were published") as caught:
        hubpub.verify(folder)
    assert "original/packages/vocab.json has 2 bytes instead of 8" in caught.value.findings


def test_a_revision_that_is_no_release(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the embedded Hub needs hubpub[local]")
    from hubpub.localhub import running
    from hubpub.verbs.restore import restore
    from hubpub.verbs.session import Session

    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "notes.txt").write_bytes(b"mine")
    with running(tmp_path / "hub") as hub:
        hub.storage.import_folder("me/x", tmp_path / "repo")
        with (
            Session.open(endpoint=hub.endpoint, token=hub.token) as session,
            pytest.raises(PublishError, match="has no manifest of hubpub"),
        ):
            restore("me/x", "main", session=session, dry_run=True)


def test_bytes_that_changed_are_one_cause(tmp_path: Path) -> None:
    """In the store, in a check and before an upload: who wants to know of that alone catches IntegrityError."""
    assert {kind.__name__ for kind in errors.IntegrityError.__subclasses__()} == {
        "Damaged",
        "DigestMismatch",
        "FilesChanged",
    }
    statuses = {"Damaged": 6, "DigestMismatch": 8, "FilesChanged": 9}
    assert {name: getattr(errors, name).exit_status for name in statuses} == statuses
    folder = tmp_path / "release"
    converted(folder, "original")
    (folder / "original" / "packages" / "vocab.json").write_bytes(b"[]")
    with pytest.raises(errors.IntegrityError) as found:
        hubpub.verify(folder)
    assert isinstance(found.value, FilesChanged)
    with pytest.raises(errors.IntegrityError) as refused:
        hubpub.publish(folder, dry_run=True, endpoint="http://127.0.0.1:9", token="x")
    assert isinstance(refused.value, errors.DigestMismatch)
