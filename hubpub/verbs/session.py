"""Where a verb works: store, fetch cache, Hub and progress, each opened once, and how much may run at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from hubpub.engine.progress import Reporter, reporter
from hubpub.engine.store import Store, default_root

if TYPE_CHECKING:
    from hubpub.remote.cache import FetchCache
    from hubpub.remote.hub import Hub


@dataclass(frozen=True, kw_only=True)
class Session:
    """One command, or one call of a verb. What it has opened is closed when the `with` block ends.

    `root` holds the store and the fetch cache (HUBPUB_CACHE). `endpoint` is the address of a
    Hub (None: HF_ENDPOINT, else huggingface.co), or "local" for the embedded one, which runs as long
    as the session. `memory` is in bytes.

    >>> with Session.open(endpoint="local") as session:
    ...     publish("me/my-model", session=session)
    """

    root: Path = field(default_factory=default_root)
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    quiet: bool = True
    jobs: int = field(default_factory=lambda: max(1, min(4, os.cpu_count() or 1)))
    memory: int = field(default_factory=lambda: int(psutil.virtual_memory().available * 0.8))
    _opened: ExitStack = field(default_factory=ExitStack, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, **given: Any) -> Self:
        """A session; arguments that are None take their defaults."""
        return cls(**{key: value for key, value in given.items() if value is not None})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @cached_property
    def store(self) -> Store:
        """The store of finished steps; nobody prunes it before the session ends."""
        store = Store(self.root)
        self._opened.enter_context(store.in_use())
        return store

    @cached_property
    def cache(self) -> FetchCache:
        """What fetch keeps across runs."""
        from hubpub.remote.cache import FetchCache

        return FetchCache(self.root)

    @cached_property
    def report(self) -> Reporter:
        """Where progress is shown."""
        return self._opened.enter_context(reporter(quiet=self.quiet))

    @cached_property
    def hub(self) -> Hub:
        """The Hub that is published to and fetched from. The embedded one has a token of its own."""
        from hubpub.remote.hub import Hub

        if self.endpoint != "local":
            return Hub(endpoint=self.endpoint, token=self.token)
        from hubpub import localhub

        local = self._opened.enter_context(localhub.running(localhub.default_root()))
        return Hub(endpoint=local.endpoint, token=local.token)

    @cached_property
    def source_hub(self) -> Hub:
        """The Hub that sources come from: with "local", the real one with the user's own token."""
        from hubpub.remote.hub import Hub

        if self.endpoint == "local":
            return Hub(endpoint=None, token=self.token)
        if self.hub.trusted_for is not None:  # its token is for the destination only
            token = os.environ.get("HF_TOKEN") or None
            return Hub(endpoint=self.endpoint, token=token, anonymous=token is None)
        return self.hub


@contextmanager
def using(session: Session | None, *, endpoint: str | None = None, token: str | None = None) -> Iterator[Session]:
    """The session that a verb was given, which stays open; else one for as long as the block lasts."""
    if session is not None:
        yield session
        return
    with Session.open(endpoint=endpoint, token=token) as own:
        yield own
