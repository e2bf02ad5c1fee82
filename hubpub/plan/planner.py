"""Planner: Config + Sources + Architecture → Plan. Pure.

    weights ─┬─► package ─┬─► compile ──┬─► archive
             │            ├─► readback ─┤ (gates it)
             └────────────┴─► measure ──┘ with reference

A component's weights are written once per width; every attention is a program over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hubpub import __version__, architectures
from hubpub.architectures import Component
from hubpub.architectures.component import MODEL, REFINER
from hubpub.networks import Size
from hubpub.plan.config import Config
from hubpub.plan.inputs import Inputs
from hubpub.plan.licences import licence_file, licence_place
from hubpub.plan.names import IMAGES
from hubpub.plan.parts import Parts, bundles, tokenizer_files
from hubpub.plan.plan import Plan, PlannedComponent, Target
from hubpub.plan.variant import Variant
from hubpub.sources.source import Snapshot
from hubpub.steps import (
    Archive,
    Compile,
    FromStep,
    Input,
    Measure,
    Package,
    Readback,
    Reference,
    Sample,
    Step,
    Tokenizer,
    Weights,
)
from hubpub.steps.compile import BUNDLE, Compiler
from hubpub.steps.package import PACKAGE
from hubpub.steps.tokenizer import MERGES, VOCABULARY

_MB = 1 << 20
# Lowest PSNR of the 16-bit package, run in fp32, against the source's own modules: constants that a network
# derives in fp16 cost the safety checker most (80 dB); another softmax axis or q and k exchanged leave less than 30.
FLOOR_PROGRAM = 60.0
# Peak bytes of steps that do not depend on the component, measured (benchmarks/README.md).
_MEMORY = {"package": 200 * _MB, "compile": 350 * _MB, "archive": 300 * _MB, "sample": 7000 * _MB}


def make_plan(
    config: Config,
    parts: Parts,
    sources: Mapping[str, Snapshot],
    *,
    destination: str,
    verify: str,
    compiler: Compiler,
    notices: tuple[str, ...] = (),
) -> Plan:
    """The plan of one model.

    `sources` hold (at least) `source_files`; `verify` and `compiler` are the modes that
    config and machine have led to. Raises ConfigError, UnknownArchitecture and SourceNotFound.
    """
    architectures.check_components(config.floor)
    configs = parts.configs(MODEL)
    size = architectures.published_size(parts.architecture, configs, config.latent, config.batch, step=parts.step)
    small = architectures.gate_size(parts.architecture, configs, size) if verify == "numeric" else size
    builder = _PlanBuilder(config, parts, sources, size=size, measured_at=small, verify=verify, compiler=compiler)
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
        for component in parts.components:
            builder.component(component, variant)
    if verify != "off":
        builder.readbacks()
    for variant in variants:
        builder.variant(variant, repo=destination.rpartition("/")[2])
    builder.licences()
    sample = builder.sample() if config.prompts else None
    return Plan(
        config=config,
        architecture=parts.architecture,
        sources=sources,
        variants=variants,
        destination=destination,
        steps=tuple(builder.steps.values()),
        targets=tuple(builder.targets),
        components=tuple(builder.planned.values()),
        verify=verify,
        measured_at=builder.measured_at if verify in ("numeric", "full") else None,
        sample=sample,
        drawing=parts.drawing(config),
        adapters=parts.adapters,
        notices=notices,
        tokenizer=next((key for key, step in builder.steps.items() if isinstance(step, Tokenizer)), None),
    )


class _PlanBuilder:
    """Collects steps while variants are walked; the same step twice is one step."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        sources: Mapping[str, Snapshot],
        *,
        size: Size,
        measured_at: Size,
        verify: str,
        compiler: Compiler,
    ) -> None:
        self.config, self.parts, self.sources = config, parts, sources
        self.size, self.measured_at, self.verify, self.compiler = size, measured_at, verify, compiler
        self.facts = parts.facts[MODEL]
        self.inputs = Inputs(config, parts, sources)
        self.settings = config.model_dump()
        self.steps: dict[str, Step] = {}
        self.targets: list[Target] = []
        self.planned: dict[tuple[str, str, str | None], PlannedComponent] = {}  # by component, source and attention

    @property
    def model(self) -> Snapshot:
        """The source that was asked for."""
        return self.sources[MODEL]

    def add(self, step: Step) -> str:
        return self.steps.setdefault(step.key, step).key

    # -- one component ---------------------------------------------------------------------------------------------

    def component(self, component: Component, variant: Variant) -> None:
        """weights → package → compile of each piece, and measure of all; nothing where another variant has the same."""
        attention = variant.attention if "attention" in component.knobs else None
        pieces = self.parts.pieces(component)
        if (pieces[0].name, component.origin.source, attention) in self.planned:
            return
        bits = variant.bits if component.palettizes else 16
        made = []
        for piece in pieces:
            weights = self.weights(piece, bits)
            made.append((weights, self.package(piece, variant, weights)))
        measured = self.measure(component, variant, bits, made) if self.verify in ("numeric", "full") else None
        for piece, (weights, package) in zip(pieces, made, strict=True):
            self.planned[piece.name, piece.origin.source, attention] = PlannedComponent(
                component=piece,
                source=self.sources[piece.origin.source].source.name,
                attention=attention,
                weights=weights,
                package=package,
                readback=None,
                measure=measured,
                compile=self.compile(piece, attention, package) if bundles(self.config) else None,
            )

    def identity(self, component: Component) -> dict[str, Any]:
        """The parameters that name a component and its network."""
        network = component.read(self.parts.configs(component.origin.source), self.settings)
        return {
            "family": self.parts.architecture.name,
            "component": component.name,
            "config": component.meaning(network),
        }

    def owner(self, component: Component) -> Component:
        """The component whose weights it uses: itself, unless they are written for another one, too."""
        if component.weights is None:
            return component
        return self.parts.architecture.component(component.weights).of(component.origin.source)

    def weights(self, component: Component, bits: int) -> str:
        checkpoint, inputs = self.inputs.checkpoint(component)
        return self.add(
            Weights(
                **self.identity(self.owner(component)),
                bits=bits,
                checkpoint=checkpoint,
                inputs=inputs,
                size=self.inputs.elements(component) * bits // 8,
                memory=component.memory.weights,
            )
        )

    def package(self, component: Component, variant: Variant, weights: str) -> str:
        return self.add(
            Package(
                **self.identity(component),
                **component.parameters(size=self.size, attention=variant.attention, target=variant.target),
                metadata=self.inputs.metadata(component),
                inputs={"weights": FromStep(key=weights)},
                size=3 * _MB,
                memory=_MEMORY["package"],
            )
        )

    def readbacks(self) -> None:
        """One for the packages over each weight file."""
        for key in dict.fromkeys(one.weights for one in self.planned.values()):
            planned = [one for one in self.planned.values() if one.weights == key]
            first, *others = planned
            owner = self.owner(first.component)
            checkpoint, inputs = self.inputs.checkpoint(owner)
            weights = self.steps[key]
            assert isinstance(weights, Weights)
            inputs["package"] = FromStep(key=first.package, path=PACKAGE)
            inputs |= {
                f"packages/{number}": FromStep(key=one.package, path=PACKAGE) for number, one in enumerate(others)
            }
            readback = self.add(
                Readback(
                    **self.identity(owner),
                    bits=weights.bits,
                    checkpoint=checkpoint,
                    inputs=inputs,
                    memory=owner.memory.readback,
                )
            )
            for place, one in self.planned.items():
                if one.weights == key:
                    self.planned[place] = replace(one, readback=readback)

    def measure(self, component: Component, variant: Variant, bits: int, made: Sequence[tuple[str, str]]) -> str:
        """One measurement of a component; `made` are the weights and the package of each piece."""
        checkpoint, source = self.inputs.checkpoint(component)
        parameters = component.parameters(size=self.measured_at, attention=variant.attention, target=variant.target)
        size = {name: parameters[name] for name in ("height", "width", "batch")}
        elements, full = self.inputs.elements(component), self.verify == "full"
        expected = self.add(
            Reference(
                **self.identity(component),
                config_json=dict(self.parts.configs(component.origin.source)[component.origin.folder]),
                **size,
                checkpoint=checkpoint,
                samples=self.samples(),
                inputs=source,
                memory=component.memory.of_reference(elements, full=full),
            )
        )
        inputs: dict[str, Input] = {**source, "expected": FromStep(key=expected)}
        for number, (weights, package) in enumerate(made):
            inputs[f"package/{number}"] = FromStep(key=package, path=PACKAGE)
            inputs[f"weights/{number}"] = FromStep(key=weights)
        return self.add(
            Measure(
                **self.identity(component),
                pieces=[piece.name for piece in self.parts.pieces(component)],
                checkpoint=checkpoint,
                **parameters,
                bits=bits,
                floor=self.config.floor.get(component.name, component.floors.get(bits)),
                floor_program=FLOOR_PROGRAM,
                inputs=inputs,
                memory=component.memory.of_measure(elements, full=full),
            )
        )

    def samples(self) -> dict[str, Any]:
        """What realistic inputs depend on, of the model."""
        scale = architectures.image_scale(self.parts.configs(MODEL))
        return {
            "timesteps": self.facts.scheduler.get("num_train_timesteps") or 1000,
            "scaling_factor": self.facts.scaling_factor,
            "size": [self.size.height * scale, self.size.width * scale],
        }

    def compile(self, component: Component, attention: str | None, package: str) -> str:
        return self.add(
            Compile(
                component=component.name,
                attention=attention,
                stem=self.stem(component),
                compiler=self.compiler,
                by=__version__,
                inputs={"package": FromStep(key=package, path=PACKAGE)},
                size=3 * _MB,  # weights are shared with the package
                memory=_MEMORY["compile"],
            )
        )

    def stem(self, component: Component) -> str:
        """The package's name without its ending."""
        source = self.sources[component.origin.source].source.name
        return component.package_stem(model=self.model.source.name, source=source)

    # -- one variant -----------------------------------------------------------------------------------------------

    def variant(self, variant: Variant, *, repo: str) -> None:
        """What is published of one attention."""
        planned = [
            self.planned[piece.name, piece.origin.source, variant.attention if "attention" in piece.knobs else None]
            for component in self.parts.components
            for piece in self.parts.pieces(component)
        ]
        if "packages" in self.config.formats:
            for one in planned:
                path = f"{variant.folder('packages')}/{self.stem(one.component)}.mlpackage"
                self.targets.append(Target(path_in_repo=path, content=FromStep(key=one.package, path=PACKAGE)))
        if not bundles(self.config):
            return
        bundle: dict[str, Input] = {
            f"{one.component.bundle(one.source)}.mlmodelc": FromStep(key=one.compile, path=BUNDLE)
            for one in planned
            if one.compile
        }
        if self.parts.architecture.tokenizer is not None:
            tokenizer = self.tokenizer()
            bundle |= {name: FromStep(key=tokenizer, path=name) for name in (VOCABULARY, MERGES)}
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

    def licences(self) -> None:
        """The texts of licences that a source's card points to travel with the release."""
        for name, snapshot in self.sources.items():
            path = licence_file(self.parts.facts[name].card)
            if path is not None and snapshot.file(path):
                place = licence_place(path, None if name == MODEL else snapshot.source.name)
                self.targets.append(Target(path_in_repo=place, content=self.inputs.source(path, source=name)))

    def sample(self) -> str:
        """Pictures drawn by the first variant's packages and by the source."""
        first, drawing = self.config.attention[0], self.parts.drawing(self.config)
        packages: dict[str, Input] = {
            one.component.name: FromStep(key=one.package, path=PACKAGE)
            for one in self.planned.values()
            if one.attention in (None, first)
        }
        sources: dict[str, Input] = {
            f"source/{name}": self.inputs.source(".", sorted({file.path for file in self.sources[name].files}), name)
            for name in (MODEL, REFINER)
            if name in self.sources and (name != MODEL or not self.parts.composed)
        }
        described = self.inputs.described() if self.parts.composed else None
        for name, (_, given) in described[1].items() if described else ():
            sources |= {f"{name}/{key}": one for key, one in given.items()}
        sources["tokenizer"] = FromStep(key=self.tokenizer())
        requests = [
            {
                "prompt": prompt,
                "negative": "",
                "seed": 0,
                "steps": drawing.steps,
                "guidance": drawing.guidance,
            }
            for prompt in self.config.prompts
        ]
        key = self.add(
            Sample(
                requests=requests,
                bits=self.config.bits,
                scheduler=self.facts.scheduler_name,
                scheduler_config=dict(self.facts.scheduler),
                scaling_factor=self.facts.scaling_factor,
                described=described[0] if described else None,
                pads=dict(self.facts.pads),
                guides=drawing.guidance_embedding is None,
                inputs={**packages, **sources},
                size=len(requests) * _MB,
                memory=_MEMORY["sample"],
            )
        )
        self.targets.append(Target(path_in_repo=IMAGES, content=FromStep(key=key)))
        return key

    def tokenizer(self) -> str:
        """The tokenizer that apps get, from the source's files; CLIP's own for a single file, which has none."""
        folder = self.parts.architecture.tokenizer or ""
        paths = tokenizer_files(self.parts, [file.path for file in self.model.files])
        names = [path.removeprefix(f"{folder}/") for path in paths]
        encoder = self.parts.text_encoder
        return self.add(
            Tokenizer(
                rows=encoder.read(self.parts.configs(MODEL), self.settings).vocab_size,
                folder=folder,
                files=names,
                inputs={"source": self.inputs.source(folder, names)} if names else {},
                size=2 * _MB,
                memory=_MEMORY["package"],
            )
        )
