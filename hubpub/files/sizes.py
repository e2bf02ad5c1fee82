"""Numbers of bytes, for people."""

from __future__ import annotations


def human(size: float) -> str:
    """Bytes as people say them: 1.3 GB (powers of ten, as the Hub shows them)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
