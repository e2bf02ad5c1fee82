"""What hf_xet may hold in memory is bounded, unless its user says otherwise; and it knows the names of the bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hubpub.remote.hub.session import _FRUGAL

PROGRAM = """
import json, os
from hubpub.remote.hub import session
session.install()
print(json.dumps({name: os.environ.get(name) for name in session._FRUGAL}))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, _FRUGAL),
        (dict.fromkeys(_FRUGAL, "7"), dict.fromkeys(_FRUGAL, "7")),
        ({"HF_XET_HIGH_PERFORMANCE": "1"}, dict.fromkeys(_FRUGAL)),
    ],
)
def test_bounds_are_set_where_the_user_has_set_none(given: dict[str, str], expected: dict[str, str | None]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _FRUGAL}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | given,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == expected


def test_hf_xet_knows_the_names() -> None:
    found = find_spec("hf_xet")
    assert found is not None
    assert found.origin is not None
    library = next(path for path in Path(found.origin).parent.iterdir() if path.suffix in (".so", ".pyd"))
    content = library.read_bytes()
    for name in _FRUGAL:
        assert name.encode() in content
