"""Accidents made impossible: no network but loopback, no home, no token, no store of the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Libraries read these when they are imported, so they are set before any test module is.
_SCRATCH = Path(tempfile.mkdtemp(prefix="hubpub-tests-"))
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "HUBPUB_"))]:
    del os.environ[_name]
os.environ.update(
    HOME=str(_SCRATCH / "home"),
    HF_HOME=str(_SCRATCH / "hf"),
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HUBPUB_CACHE=str(_SCRATCH / "store"),
    HUBPUB_HUB=str(_SCRATCH / "hub"),
    TOKENIZERS_PARALLELISM="false",
)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference facts and fixtures that is not part of a user's clone."""
    if not SHARED.is_dir():
        pytest.skip("the shared reference folder is not beside this checkout")
    return SHARED
