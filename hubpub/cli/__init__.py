"""The program: argv in, one verb called, result shown. No logic, and nothing heavy until a command runs."""

from __future__ import annotations

from hubpub.cli import fetch, local, packages, publish, report, restore, setup, store
from hubpub.cli.app import app, completing

__all__ = ["main"]

for _group in (publish, restore, fetch, packages, report, local, store, setup):
    _group.register(app)


def main() -> None:
    """Entry point of `hubpub`."""
    with completing():
        app(prog_name="hubpub")
