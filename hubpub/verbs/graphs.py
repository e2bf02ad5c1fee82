"""graphs: those that are at hand (shipped, and in the store), whether they are what they should be, and new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub import graphs
from hubpub.architectures import components_of, detect, export_params
from hubpub.coreml.package import serialize
from hubpub.engine.runner import execute
from hubpub.errors import BadPackage, ConfigError, FindingsError, ToolMissing, Unproven
from hubpub.graph import Graph, GraphInfo
from hubpub.graphs.build import FAMILIES, families_of, family
from hubpub.plan.config import Config
from hubpub.plan.planner import export_step
from hubpub.verbs.preparation import look
from hubpub.verbs.session import Session

if TYPE_CHECKING:
    from hubpub.engine.store import Entry

Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Known:
    """A graph at hand: shipped, or in the store."""

    info: GraphInfo
    size: int  # bytes on this disk
    file: Path | None = None  # of a shipped one
    entry: Entry | None = None  # of one in the store

    @property
    def key(self) -> str:
        """64 hex digits, from what it was built for."""
        return graphs.graph_key(self.info.params)

    def to_json(self) -> dict[str, Any]:
        """All that is known of it but the program."""
        return {
            "key": self.key,
            "where": "shipped" if self.file else "store",
            "component": self.info.component,
            "families": list(families_of(self.info.params)),
            "params": dict(self.info.params),
            "bytes": self.size,
            "proof": dict(self.info.proof),
            "built_with": dict(self.info.built_with),
            "graph_version": self.info.graph_version,
        }


def known(session: Session) -> list[Known]:
    """All graphs: the shipped ones, then those that only the store has."""
    found = [Known(info=info, size=path.stat().st_size, file=path) for path, info in graphs.shipped_list()]
    keys = {one.key for one in found}
    for entry in session.store.entries():
        if entry.kind in ("export", "plain") and "unproven" not in entry.measurements:
            one = Known(info=Graph.load(entry.payload).info, size=entry.size, entry=entry)
            if one.key not in keys or entry.kind == "plain":
                found.append(one)
    return found


def choose(found: Sequence[Known], names: Sequence[str]) -> list[Known]:
    """The graphs of these names: beginnings of keys, components, or families; all of them without names."""
    chosen: dict[int, Known] = {}
    for name in names:
        fitting = [
            one
            for one in found
            if one.key.startswith(name) or name == one.info.component or name in families_of(one.info.params)
        ]
        if not fitting:
            raise ConfigError(f"There is no graph {name!r}.", hint="`hubpub graphs list` shows all that there are.")
        chosen |= {id(one): one for one in fitting}
    return list(chosen.values()) if names else list(found)


def verify(found: Sequence[Known], *, session: Session, rebuild: bool, say: Callable[[str], None]) -> int:
    """Check digests, and that building each graph again gives the same program; returns how many were built.

    Graphs of the plain way depend on weights, so their digests alone are checked. Raises
    FindingsError that lists everything wrong, ToolMissing where torch is needed and absent.
    """
    if rebuild and not (find_spec("torch") and find_spec("coremltools")):
        raise ToolMissing(
            "Building graphs again needs torch and coremltools, which are not installed.",
            hint="Check their digests alone with --digests, or `pip install 'hubpub[convert]'`.",
        )
    problems, built = [], 0
    for one in found:
        wrong = _damage(one, session)
        if not wrong and rebuild and "unproven" not in one.info.proof:
            wrong = _difference(one)
            built += 1
        if wrong:
            problems.append(f"{one.key[:12]} ({one.info.component}): {wrong}")
        say(f"{one.key[:12]}  {one.info.component}  {wrong or 'as it should be'}")
    if problems:
        raise FindingsError(
            f"{len(problems)} of {len(found)} graphs are not what they should be: " + "; ".join(problems) + ".",
            hint="Install hubpub again for shipped ones; `hubpub cache verify` removes damaged ones of the store.",
        )
    return built


def build(config: Config, *, name: str | None, session: Session, out: Path | None) -> list[Known]:
    """Build the graphs of a config's source, or of the family called `name`, with the config's knobs.

    They go into the store, and where `out` is given, as hubpub ships them, into that folder.
    What is shipped or in the store is not built again. Raises Unproven where a proof fails.
    """
    if name is None:
        _, _, facts = look(config, session)
        index, configs = facts.model_index, facts.configs
    elif name in FAMILIES:
        index, configs = family(name)
    else:
        raise ConfigError(f"There is no family {name!r}.", hint=f"Choose from {', '.join(FAMILIES)}, or give a source.")
    steps = {}
    for params, label in _wanted(index, configs, config):
        step = export_step(params, label)
        steps[step.key] = step
    done = execute(
        list(steps.values()),
        store=session.store,
        source=None,
        jobs=session.jobs,
        memory=session.memory,
        report=session.report,
    )
    entries = {key: done[key] for key in steps}  # in the order of the components
    for key, entry in entries.items():
        if "unproven" in entry.measurements:
            raise Unproven(
                f"The {steps[key].label} cannot be proven: {entry.measurements['unproven']}",
                hint="Publishing converts such a network the plain way, and says so.",
            )
    made = [Known(info=Graph.load(entry.payload).info, size=entry.size, entry=entry) for entry in entries.values()]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for entry in entries.values():
            graphs.write(Graph.load(entry.payload), out)
        graphs.write_digests(out)
    return made


def _wanted(index: Mapping[str, Any], configs: Configs, knobs: Config) -> Iterator[tuple[dict[str, Any], str]]:
    """Export parameters and a label for each component and attention."""
    components = components_of(detect(index, configs), index, safety_checker=knobs.safety_checker)
    for component in components:
        for attention in knobs.attention:
            params = export_params(
                component,
                configs,
                attention=attention,
                latent=knobs.latent,
                batch=knobs.batch,
                target=knobs.deployment_target,
            )
            yield params, component.name + (f" {attention}" if "attention" in component.hears else "")


def _damage(one: Known, session: Session) -> str | None:
    """What is wrong with the files of a graph."""
    if one.entry is not None:
        return session.store.damage(one.entry)
    assert one.file is not None
    if sha256(one.file.read_bytes()).hexdigest() != graphs.digest_of(one.file):
        return f"its file is not the one of {graphs.DIGESTS}"
    if one.file != graphs.file_of(one.info.params, one.file.parent):
        return "its file has the name of another graph"
    return None


def _difference(one: Known) -> str | None:
    """How a graph differs from what is built here and now, from the same parameters."""
    from hubpub.nets.weightless import export

    try:
        held = graphs.read(one.file) if one.file else Graph.load(one.entry.payload)  # type: ignore[union-attr]
        again = export(one.info.params)
    except (BadPackage, Unproven) as error:
        return error.message
    if serialize(held.model) == serialize(again.model):
        return None
    versions = [f"{name} {version}" for name, version in again.info.built_with.items()]
    before = [f"{name} {version}" for name, version in one.info.built_with.items()]
    return f"built again ({', '.join(versions)}) it is another program than before ({', '.join(before)})"
