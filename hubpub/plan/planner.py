"""Planner: Config + Sources + Architecture → Plan. Pure.

    weights ─┬─► package ─┬─► compile ──┬─► archive
             │            ├─► readback ─┤ (gates it)
             └────────────┴─► measure ──┘ with reference

A component's weights are written once per width; every attention is a program over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hubpub import __version__, architectures
from hubpub.architectures import Architecture, Component
from hubpub.checkpoints import choose
from hubpub.errors import SourceNotFound
from hubpub.networks import Size
from hubpub.plan.config import Config
from hubpub.plan.names import IMAGES, package_stem
from hubpub.plan.plan import Plan, PlannedComponent, Target
from hubpub.plan.variant import Variant
from hubpub.sources.metadata import MODEL_INDEX, Facts
from hubpub.sources.source import Snapshot
from hubpub.steps import (
    Archive,
    Compile,
    FromSource,
    FromStep,
    Input,
    Measure,
    Package,
    Readback,
    Reference,
    Sample,
    Step,
    Weights,
)
from hubpub.steps.compile import BUNDLE, Compiler
from hubpub.steps.package import PACKAGE
from hubpub.steps.sample import PARTS

_MB = 1 << 20
# Lowest PSNR of the 16-bit package, run in fp32, against the source's own modules: constants that a network
# derives in fp16 cost the safety checker most (80 dB); another softmax axis or q and k exchanged leave less than 30.
FLOOR_PROGRAM = 60.0
# Peak bytes of steps that do not depend on the component, measured (benchmarks/README.md).
_MEMORY = {"package": 200 * _MB, "compile": 350 * _MB, "archive": 300 * _MB, "sample": 7000 * _MB}


def components(config: Config, facts: Facts) -> tuple[Architecture, tuple[Component, ...]]:
    """The source's architecture, and its components that are to be converted."""
    architecture = architectures.detect(facts.model_index, facts.configs)
    chosen = architectures.components_of(architecture, facts.model_index, safety_checker=config.safety_checker)
    return architecture, chosen


def source_files(config: Config, facts: Facts, paths: Iterable[str]) -> tuple[str, ...]:
    """The files of the source that a plan reads: weights and tokenizer. Raises BadWeights where some are missing."""
    paths = tuple(paths)
    architecture, chosen = components(config, facts)
    files: set[str] = set()
    for component in chosen:
        files |= set(choose(paths, folder=component.origin.folder))
    if _bundles(config):
        files |= set(architecture.resources)
    if config.prompts:  # the source draws as well, so all that its pipeline reads is needed
        folders = {component.origin.folder for component in chosen} | {"scheduler", "tokenizer"}
        files |= {path for path in paths if path == MODEL_INDEX or _is_pipeline_file(path, folders)}
    return tuple(sorted(files))


def make_plan(
    config: Config, facts: Facts, sources: Mapping[str, Snapshot], *, destination: str, verify: str, compiler: Compiler
) -> Plan:
    """The plan of one model.

    `sources` hold (at least) `source_files`; `verify` and `compiler` are the modes that
    config and machine have led to. Raises ConfigError, UnknownArchitecture and SourceNotFound.
    """
    architecture, chosen = components(config, facts)
    architectures.check_components(config.floor)
    size = architectures.published_size(facts.configs, config.latent, config.batch)
    builder = _PlanBuilder(
        config=config,
        facts=facts,
        sources=sources,
        architecture=architecture,
        size=size,
        measured_at=architectures.gate_size(facts.configs, size) if verify == "numeric" else size,
        verify=verify,
        compiler=compiler,
    )
    variants = tuple(
        Variant(
            attention=attention,
            bits=config.bits,
            latent=(size.height, size.width),
            batch=config.batch,
            target=config.deployment_target,
        )
        for attention in config.attention
    )
    for variant in variants:
        architectures.check_knobs(attention=variant.attention, batch=variant.batch, target=variant.target)
        for component in chosen:
            builder.component(component, variant)
    if verify != "off":
        builder.readbacks(chosen)
    for variant in variants:
        builder.variant(variant, chosen, repo=destination.rpartition("/")[2])
    sample = builder.sample() if config.prompts else None
    return Plan(
        config=config,
        architecture=architecture,
        sources=sources,
        variants=variants,
        destination=destination,
        steps=tuple(builder.steps.values()),
        targets=tuple(builder.targets),
        components=tuple(builder.planned.values()),
        verify=verify,
        measured_at=builder.measured_at if verify in ("numeric", "full") else None,
        sample=sample,
    )


class _PlanBuilder:
    """Collects steps while variants are walked; the same step twice is one step."""

    def __init__(
        self,
        *,
        config: Config,
        facts: Facts,
        sources: Mapping[str, Snapshot],
        architecture: Architecture,
        size: Size,
        measured_at: Size,
        verify: str,
        compiler: Compiler,
    ) -> None:
        self.config, self.facts, self.sources = config, facts, sources
        self.architecture, self.size, self.measured_at = architecture, size, measured_at
        self.verify, self.compiler = verify, compiler
        self.steps: dict[str, Step] = {}
        self.targets: list[Target] = []
        self.planned: dict[tuple[str, str | None], PlannedComponent] = {}

    @property
    def model(self) -> Snapshot:
        """The source that was asked for."""
        return self.sources["model"]

    def add(self, step: Step) -> str:
        return self.steps.setdefault(step.key, step).key

    # -- one component ---------------------------------------------------------------------------------------------

    def component(self, component: Component, variant: Variant) -> None:
        """weights → package → compile, and measure; nothing where another variant has planned the same."""
        attention = variant.attention if "attention" in component.knobs else None
        if (component.name, attention) in self.planned:
            return
        bits = variant.bits if component.palettizes else 16
        weights = self.weights(component, bits)
        package = self.package(component, variant, weights)
        self.planned[component.name, attention] = PlannedComponent(
            component=component,
            attention=attention,
            weights=weights,
            package=package,
            readback=None,
            measure=self.measure(component, variant, bits, weights, package)
            if self.verify in ("numeric", "full")
            else None,
            compile=self.compile(component, attention, package) if _bundles(self.config) else None,
        )

    def identity(self, component: Component) -> dict[str, Any]:
        """The parameters that name a component and its network."""
        network = component.config(self.facts.configs)
        return {
            "family": self.architecture.name,
            "component": component.name,
            "config": component.meaning(network),
        }

    def weights(self, component: Component, bits: int) -> str:
        names = self.weight_files(component)
        return self.add(
            Weights(
                **self.identity(component),
                bits=bits,
                checkpoint={"files": names},
                inputs={"source": self.source(component.origin.folder, names, component.origin.source)},
                size=self.elements(component) * bits // 8,
                memory=component.memory.weights,
            )
        )

    def package(self, component: Component, variant: Variant, weights: str) -> str:
        return self.add(
            Package(
                **self.identity(component),
                **component.parameters(size=self.size, attention=variant.attention, target=variant.target),
                metadata=self.metadata(),
                inputs={"weights": FromStep(key=weights)},
                size=3 * _MB,
                memory=_MEMORY["package"],
            )
        )

    def readbacks(self, chosen: Iterable[Component]) -> None:
        """One for the packages over each weight file."""
        for component in chosen:
            planned = [one for (name, _), one in self.planned.items() if name == component.name]
            first, *others = planned
            names = self.weight_files(component)
            weights = self.steps[first.weights]
            assert isinstance(weights, Weights)
            inputs: dict[str, Input] = {
                "source": self.source(component.origin.folder, names, component.origin.source),
                "package": FromStep(key=first.package, path=PACKAGE),
            }
            inputs |= {
                f"packages/{number}": FromStep(key=one.package, path=PACKAGE) for number, one in enumerate(others)
            }
            readback = self.add(
                Readback(
                    **self.identity(component),
                    bits=weights.bits,
                    checkpoint={"files": names},
                    inputs=inputs,
                    memory=component.memory.readback,
                )
            )
            for one in planned:
                self.planned[component.name, one.attention] = replace(one, readback=readback)

    def measure(self, component: Component, variant: Variant, bits: int, weights: str, package: str) -> str:
        names = self.weight_files(component)
        parameters = component.parameters(size=self.measured_at, attention=variant.attention, target=variant.target)
        size = {name: parameters[name] for name in ("height", "width", "batch")}
        elements, full = self.elements(component), self.verify == "full"
        expected = self.add(
            Reference(
                **self.identity(component),
                config_json=dict(self.facts.configs[component.origin.folder]),
                **size,
                checkpoint={"files": names},
                samples={
                    "timesteps": self.facts.scheduler.get("num_train_timesteps") or 1000,
                    "scaling_factor": self.facts.scaling_factor,
                },
                inputs={"source": self.source(component.origin.folder, names, component.origin.source)},
                memory=component.memory.of_reference(elements, full=full),
            )
        )
        return self.add(
            Measure(
                **self.identity(component),
                checkpoint={"files": names},
                **parameters,
                bits=bits,
                floor=self.config.floor.get(component.name, component.floors.get(bits)),
                floor_program=FLOOR_PROGRAM,
                inputs={
                    "package": FromStep(key=package, path=PACKAGE),
                    "weights": FromStep(key=weights),
                    "source": self.source(component.origin.folder, names, component.origin.source),
                    "expected": FromStep(key=expected),
                },
                memory=component.memory.of_measure(elements, full=full),
            )
        )

    def compile(self, component: Component, attention: str | None, package: str) -> str:
        return self.add(
            Compile(
                component=component.name,
                attention=attention,
                stem=package_stem(self.model.source.name, component.name),
                compiler=self.compiler,
                by=__version__,
                inputs={"package": FromStep(key=package, path=PACKAGE)},
                size=3 * _MB,  # weights are shared with the package
                memory=_MEMORY["compile"],
            )
        )

    # -- one variant -----------------------------------------------------------------------------------------------

    def variant(self, variant: Variant, chosen: Iterable[Component], *, repo: str) -> None:
        """What is published of one attention."""
        planned = [
            self.planned[component.name, variant.attention if "attention" in component.knobs else None]
            for component in chosen
        ]
        if "packages" in self.config.formats:
            for one in planned:
                stem = package_stem(self.model.source.name, one.component.name)
                path = f"{variant.folder('packages')}/{stem}.mlpackage"
                self.targets.append(Target(path_in_repo=path, content=FromStep(key=one.package, path=PACKAGE)))
        if not _bundles(self.config):
            return
        bundle: dict[str, Input] = {
            f"{one.component.resource}.mlmodelc": FromStep(key=one.compile, path=BUNDLE)
            for one in planned
            if one.compile
        }
        for resource in self.architecture.resources:
            bundle[resource.rpartition("/")[2]] = self.source(resource)
        if "compiled" in self.config.formats:
            for name, content in bundle.items():
                self.targets.append(Target(path_in_repo=f"{variant.folder('compiled')}/{name}", content=content))
        if "zip" in self.config.formats:
            stem = variant.zip_stem(repo)
            archive = self.add(
                Archive(
                    stem=stem,
                    inputs=bundle,
                    after=tuple(key for one in planned for key in (one.readback, one.measure) if key),
                    size=sum(self.steps[one.weights].size for one in planned),
                    memory=_MEMORY["archive"],
                )
            )
            self.targets.append(Target(path_in_repo=f"{stem}.zip", content=FromStep(key=archive, path="archive.zip")))

    def sample(self) -> str:
        """Pictures drawn by the first variant's packages and by the source."""
        first = self.config.attention[0]
        parts = {name: one for (name, attention), one in self.planned.items() if attention in (None, first)}
        files = sorted({file.path for file in self.model.files})
        requests = [
            {
                "prompt": prompt,
                "negative": "",
                "seed": 0,
                "steps": self.config.prompt_steps,
                "guidance": self.config.prompt_guidance,
            }
            for prompt in self.config.prompts
        ]
        packages: dict[str, Input] = {name: FromStep(key=parts[name].package, path=PACKAGE) for name in PARTS}
        key = self.add(
            Sample(
                requests=requests,
                bits=self.config.bits,
                scheduler=self.facts.scheduler_name,
                scheduler_config=dict(self.facts.scheduler),
                scaling_factor=self.facts.scaling_factor,
                inputs={**packages, "source": self.source(".", files)},
                size=len(requests) * _MB,
                memory=_MEMORY["sample"],
            )
        )
        self.targets.append(Target(path_in_repo=IMAGES, content=FromStep(key=key)))
        return key

    # -- the source ------------------------------------------------------------------------------------------------

    def metadata(self) -> dict[str, Any]:
        """What packages say of where they come from: from the source, nothing that changes by itself."""
        source = self.model.source
        where = f"huggingface.co/{source.name}" if source.kind == "hub" else source.name
        return {
            "author": f"Please refer to the Model Card available at {where}",
            "license": licence_text(self.config, self.facts),
            "version": source.name,
        }

    def source(self, path: str, names: Iterable[str] = ("",), source: str = "model") -> FromSource:
        files = {}
        for name in names:
            file = self.sources[source].file(f"{path}/{name}".removeprefix("./") if name else path)
            if file is None:
                raise SourceNotFound(f"The source has no {path}.", hint="Apps need it; add it to the source repo.")
            files[name] = str(file.digest)
        return FromSource(source=source, path=path, files=files)

    def weight_files(self, component: Component) -> list[str]:
        """Names of a component's weight files in its folder."""
        origin = component.origin
        paths = choose((file.path for file in self.sources[origin.source].files), folder=origin.folder)
        return [path.removeprefix(f"{origin.folder}/") for path in paths]

    def elements(self, component: Component) -> int:
        """Parameters of a component, at most: its files hold two bytes for each, or four, which only they know."""
        snapshot = self.sources[component.origin.source]
        paths = [f"{component.origin.folder}/{name}" for name in self.weight_files(component)]
        total = sum(file.size // 2 for path in paths if (file := snapshot.file(path)))
        return int(total * component.share)


def licence_text(config: Config, facts: Facts) -> str:
    """The licence's id, or the name that the source gives to one of its own ("" where it names none)."""
    licence = config.license or facts.card.get("license") or ""
    if licence == "other":
        return str(facts.card.get("license_name") or licence)
    return str(licence)


def _is_pipeline_file(path: str, folders: set[str]) -> bool:
    folder, slash, name = path.partition("/")
    return bool(slash) and folder in folders and name.endswith((".json", ".txt")) and ".index." not in name


def _bundles(config: Config) -> bool:
    return "compiled" in config.formats or "zip" in config.formats
