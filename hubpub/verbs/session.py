"""Where a verb works: store, Hub, progress, and how much may run at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import psutil

from hubpub.engine.progress import Quiet, Reporter
from hubpub.engine.store import Store, default_root

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub


@dataclass(frozen=True, kw_only=True)
class Session:
    """Where things happen: the store, the Hub, the reporter, and how much may run at once."""

    store: Store
    endpoint: str | None = None
    token: str | None = None
    separate_source: bool = False  # sources come from the client's own endpoint, not from `endpoint`
    source_token: str | None = None
    report: Reporter = field(default_factory=Quiet)
    jobs: int = field(default_factory=lambda: max(1, min(4, os.cpu_count() or 1)))
    memory: int = field(default_factory=lambda: int(psutil.virtual_memory().available * 0.8))

    @classmethod
    def open(cls, **given: Any) -> Session:
        """A session with the default store; arguments that are None take their defaults."""
        given = {key: value for key, value in given.items() if value is not None}
        given.setdefault("store", Store(default_root()))
        return cls(**given)

    @cached_property
    def hub(self) -> Hub:
        """The Hub that is published to and fetched from."""
        from hubpub.remote.hub import Hub

        return Hub(endpoint=self.endpoint, token=self.token)

    @cached_property
    def source_hub(self) -> Hub:
        """The Hub that sources come from."""
        from hubpub.remote.hub import Hub

        if self.separate_source:
            return Hub(endpoint=None, token=self.source_token)
        if self.hub.trusted_for is not None:  # its token is for the destination only
            token = os.environ.get("HF_TOKEN") or None
            return Hub(endpoint=self.endpoint, token=token, anonymous=token is None)
        return self.hub
