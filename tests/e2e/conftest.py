"""The embedded Hub and the real client, in both of its upload modes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hubpub.localhub import LocalHub, running
from hubpub.remote.cache import FetchCache
from hubpub.remote.hub import Hub


@pytest.fixture(params=["xet", "lfs"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the client sends large files: through hf_xet, or the LFS protocol."""
    _choose(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHub]:
    """An embedded Hub of this test's own."""
    with running(tmp_path / "hub") as started:
        yield started


@pytest.fixture
def hub(local: LocalHub) -> Hub:
    """A connection with the token that may write."""
    return Hub(local.endpoint, local.token)


@pytest.fixture
def cache(tmp_path: Path) -> FetchCache:
    """A store of this test's own."""
    return FetchCache(tmp_path / "store")


@pytest.fixture
def lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The LFS protocol, where the mode does not matter and requests are to be seen."""
    _choose("lfs", monkeypatch)


def _choose(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", mode == "lfs")
