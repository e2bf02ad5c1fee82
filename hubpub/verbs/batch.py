"""Several models in one go: one that fails keeps none of the others from being published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hubpub.errors import HubpubError
from hubpub.plan.config import Delivery
from hubpub.verbs import ci_summary, publish, settings
from hubpub.verbs.publish import Published
from hubpub.verbs.session import Session


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model to publish: where it is from, where it goes (None: the default), and how."""

    source: str
    repo_id: str | None
    publish: Callable[[], Published]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The result of one model: either `published` or `error`."""

    source: str
    repo_id: str | None
    published: Published | None = None
    error: HubpubError | None = None
    seconds: float

    @property
    def label(self) -> str:
        """Its name among the others: one source may go to several repos."""
        return f"{self.source} → {self.repo_id}" if self.repo_id else self.source

    def to_json(self) -> dict[str, Any]:
        """The receipt, or the error, for programs."""
        document: dict[str, Any] = {"source": self.source, "repo_id": self.repo_id, "seconds": round(self.seconds, 3)}
        if self.published is not None:
            document |= self.published.to_json()
        if self.error is not None:
            document["error"] = {
                "name": type(self.error).__name__,
                "exit_status": self.error.exit_status,
                "message": self.error.message,
                "hint": self.error.hint,
            }
        return document


def publish_all(
    source: str | None,
    config: Path | None,
    given: Mapping[str, Any],
    *,
    dry_run: bool = False,
    summary: Path | None = None,
    session: Session,
) -> list[Attempt]:
    """Publish a converted folder, a source, or without `source` the models of the config file.

    `given` are settings that win over the file's; `summary` is a folder to write what became of all models into.
    """
    work = _work(source, config, given, dry_run=dry_run, session=session)
    made = []
    for attempt in attempts(work):
        made.append(attempt)
        if attempt.error is not None and len(work) > 1:
            session.report.warn(f"{attempt.label} failed: {attempt.error.message}")
    if summary is not None:
        ci_summary.write(made, summary)
    return made


def nothing_would_change(made: Iterable[Attempt]) -> bool:
    """True if every repo already holds its release."""
    return all(attempt.published is not None and attempt.published.nothing_to_do for attempt in made)


def _work(
    source: str | None, config: Path | None, given: Mapping[str, Any], *, dry_run: bool, session: Session
) -> list[Work]:
    if source is not None and publish.is_converted(Path(source)):
        delivery = {key: value for key, value in given.items() if key in Delivery.model_fields}
        settings.refuse(given, but=("to", *delivery), why="is published as it is")
        folder = partial(
            publish.publish_folder,
            Path(source),
            repo_id=given.get("to"),
            delivery=Delivery.model_validate(delivery),
            dry_run=dry_run,
            session=session,
        )
        return [Work(source=source, repo_id=given.get("to"), publish=folder)]
    return [
        Work(
            source=model.source,
            repo_id=model.to,
            publish=partial(publish.publish_config, model, dry_run=dry_run, session=session),
        )
        for model in settings.models(source, config, given)
    ]


def attempts(work: Iterable[Work]) -> Iterator[Attempt]:
    """Publish each model, in order. A HubpubError skips to the next model; other exceptions propagate."""
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
