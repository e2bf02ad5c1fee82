"""serve: the embedded Hub for as long as the process lasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hubpub import localhub
from hubpub.localhub import LocalHub


def serve(root: Path | None, *, port: int, ready: Callable[[LocalHub], None]) -> None:
    """Serve a data folder (None: HUBPUB_HUB) until Ctrl-C; `ready` is called once the port is open."""
    localhub.serve(root or localhub.default_root(), port=port, ready=ready)
