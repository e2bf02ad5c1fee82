"""Several models in one go: one that fails keeps none of the others from being published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hubpub.errors import HubpubError
from hubpub.verbs.publish import Published


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model to publish: where it is from, where it goes (None: the default), and how."""

    source: str
    repo_id: str | None
    publish: Callable[[], Published]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of one model: either `published` or `error`."""

    source: str
    repo_id: str | None
    published: Published | None = None
    error: HubpubError | None = None
    seconds: float

    @property
    def label(self) -> str:
        """What tells it from the others: one source may go to several repos."""
        return f"{self.source} → {self.repo_id}" if self.repo_id else self.source

    def to_json(self) -> dict[str, Any]:
        """The receipt, or the error, for programs."""
        told: dict[str, Any] = {"source": self.source, "repo_id": self.repo_id, "seconds": round(self.seconds, 3)}
        if self.published is not None:
            told |= self.published.to_json()
        if self.error is not None:
            told["error"] = {
                "name": type(self.error).__name__,
                "exit_status": self.error.exit_status,
                "message": self.error.message,
                "hint": self.error.hint,
            }
        return told


def attempts(work: Iterable[Work]) -> Iterator[Attempt]:
    """Publish each model, in order. An error of ours ends that model only; Ctrl-C and faults of hubpub end all."""
    for model in work:
        started = time.monotonic()
        published, error = None, None
        try:
            published = model.publish()
        except HubpubError as caught:
            error = caught
        yield Attempt(
            source=model.source,
            repo_id=published.receipt.repo_id if published else model.repo_id,
            published=published,
            error=error,
            seconds=time.monotonic() - started,
        )
