"""The embedded Hub and the real client, as for the end-to-end tests."""

from __future__ import annotations

from tests.e2e.conftest import hub, lfs, local, memory, mode

__all__ = ["hub", "lfs", "local", "memory", "mode"]
