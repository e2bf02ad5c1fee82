"""The embedded Hub and the real client, as for the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import cache, hub, lfs, local, mode

__all__ = ["cache", "hub", "lfs", "local", "mode"]
