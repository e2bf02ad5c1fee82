"""ci: what a CI job needs around publish: keys of its cache, and a token by Trusted Publishing."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hubpub.errors import CannotWrite
from hubpub.verbs.session import Session

# What the bytes of finished steps depend on.
_LOCK = ("hubpub", "coremltools", "diffusers", "numba", "numpy", "protobuf", "torch", "transformers")


def cache_keys(plans: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """`key` and `restore-key` of plans (as `hubpub plan --json` prints them): machine, tools, sources, steps."""
    commits = [plan["source"]["commit"] or "folder" for plan in plans]
    steps = sorted(step["key"] for plan in plans for step in plan["steps"])
    machine = f"{platform.system()}-{platform.machine()}".lower()
    start = f"hubpub-{machine}-{_digest(_lock())}-{_digest(commits)}-"
    return {"key": f"{start}{_digest(steps)}", "restore-key": start}


def trust_for(repo: str) -> str | None:
    """Ask for a token of Trusted Publishing for one repo (HF_OIDC_RESOURCE).

    Where the Hub refuses and HF_TOKEN is there, that one stays in use, and the refusal is returned.
    """
    os.environ["HF_OIDC_RESOURCE"] = repo
    if not os.environ.get("HF_TOKEN"):
        return None  # publish itself says what is missing
    try:
        with Session.open() as session:
            assert session.hub.token
    except CannotWrite as error:
        del os.environ["HF_OIDC_RESOURCE"]
        return error.message
    return None


def _lock() -> Iterable[str]:
    for name in _LOCK:
        try:
            yield f"{name}=={version(name)}"
        except PackageNotFoundError:
            continue


def _digest(texts: Iterable[str]) -> str:
    """16 hex digits."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
