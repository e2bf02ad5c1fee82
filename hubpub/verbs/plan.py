"""plan: the steps that publish would take, none of them taken. Source or config file → plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.plan.plan import Plan
from hubpub.verbs import settings
from hubpub.verbs.preparation import prepare
from hubpub.verbs.session import Session


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One model's plan, and the keys of its steps that are not in the store."""

    plan: Plan
    missing: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """The plan for programs."""
        return {
            **self.plan.to_json(),
            "missing": [step.key for step in self.plan.steps if step.key in self.missing],
            "source": {"name": self.plan.snapshot.source.name, "commit": self.plan.snapshot.commit},
        }


def plan_all(source: str | None, config: Path | None, given: Mapping[str, Any], *, session: Session) -> list[Planned]:
    """Plan a source, or without one the models of the config file; `given` are settings that win over the file's."""
    plans = []
    for model in settings.models(source, config, given):
        prepared = prepare(model, session, owner=None)
        missing = frozenset(step.key for step in prepared.missing(session.store))
        plans.append(Planned(plan=prepared.plan, missing=missing))
    return plans
