"""Plan: Config + Snapshot + Architecture → the steps, and what each makes in the repo. Pure.

    export ─► fill ─► compile ──────────────► archive
                ├──► readback ────────────────┤ (gate it)
                └──► verify, with reference ──┘

Where a graph cannot be proven, `plain` takes the place of export. A component's graph
and package depend only on the knobs that it hears, so variants share every step but
those of the UNet, and the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hubpub import __version__, architectures, graphs
from hubpub.architectures import Architecture, Component
from hubpub.checkpoints.weights import choose
from hubpub.errors import ConfigError, SourceNotFound
from hubpub.plan.config import Config
from hubpub.plan.names import IMAGES, package_stem
from hubpub.plan.variant import Variant
from hubpub.sources.metadata import MODEL_INDEX, Facts
from hubpub.sources.source import Snapshot
from hubpub.steps.registry import VERSIONS
from hubpub.steps.step import FromSource, FromStep, Input, Step

_MB = 1 << 20
# Lowest PSNR in dB of a palettized package against the fp32 network, by bits; below 4 bits it is reported only.
FLOORS: Mapping[int, float] = {16: 35.0, 8: 35.0, 6: 25.0, 4: 12.0}
# Lowest PSNR of the 16-bit package, run in fp32, against the source's own modules: constants that a network
# derives in fp16 cost the safety checker most (80 dB); another softmax axis or q and k exchanged leave less than 30.
FLOOR_GRAPH = 60.0
# Bytes that steps take, measured at SD 1.5 size (benchmarks/README.md); those that a worker holds anyway are in each.
_MEMORY = {"export": 300 * _MB, "fill": 350 * _MB, "readback": 550 * _MB, "compile": 350 * _MB, "archive": 300 * _MB}
_EXPORT_MEMORY = 1600 * _MB  # of a graph that is not shipped
_VERIFY_MEMORY = {
    "unet": 4000 * _MB,
    "vae_decoder": 3000 * _MB,
    "vae_encoder": 3000 * _MB,
    "text_encoder": 2000 * _MB,
    "safety_checker": 3000 * _MB,
}
PLAIN_WEIGHTS = "weights.safetensors"  # steps/plain.py writes it
_EXPORT_NEEDS = ("torch", "coremltools", "diffusers", "transformers")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file or folder of the release, and the step (or source file) that it comes from."""

    path_in_repo: str
    given: Input


@dataclass(frozen=True, kw_only=True)
class PlannedComponent:
    """One component in one variant: the steps that make and check it."""

    component: Component
    attention: str | None  # None where the component does not hear it
    export: str  # keys of steps
    plain: str | None  # in place of export, where the graph cannot be proven
    fill: str
    readback: str | None
    verify: str | None
    compile: str | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that will be done, in order; printable, and the value that is executed."""

    config: Config
    architecture: Architecture
    variants: tuple[Variant, ...]
    destination: str
    steps: tuple[Step, ...]
    targets: tuple[Target, ...]
    components: tuple[PlannedComponent, ...]
    verify: str  # numeric, weights or off
    sampled: str | None = None  # key of the step that draws pictures

    def step(self, key: str) -> Step:
        """The step of that key."""
        return next(step for step in self.steps if step.key == key)

    def source_files(self, steps: Iterable[Step]) -> tuple[str, ...]:
        """Files of the source that these steps, and the targets that are copied from it, read."""
        inputs = [given for step in steps for given in step.inputs.values()] + [target.given for target in self.targets]
        paths = set()
        for given in inputs:
            if isinstance(given, FromSource):
                paths |= {f"{given.path}/{name}".removeprefix("./") if name else given.path for name in given.files}
        return tuple(sorted(paths))

    def to_json(self) -> dict[str, Any]:
        """The plan for programs."""
        return {
            "destination": self.destination,
            "architecture": self.architecture.name,
            "settings": self.config.model_dump(mode="json"),
            "verify": self.verify,
            "steps": [
                {
                    "key": step.key,
                    "kind": step.kind,
                    "label": step.label,
                    "inputs": sorted(step.requires()),
                    "bytes": step.size,
                    "memory": step.memory,
                    "needs": list(step.needs),
                }
                for step in self.steps
            ],
            "targets": [target.path_in_repo for target in self.targets],
        }


def components(config: Config, facts: Facts) -> tuple[Architecture, tuple[Component, ...]]:
    """The source's architecture, and the components of it that are wanted."""
    architecture = architectures.detect(facts.model_index, facts.configs)
    wanted = architectures.components_of(architecture, facts.model_index, safety_checker=config.safety_checker)
    return architecture, wanted


def source_files(config: Config, facts: Facts, paths: Iterable[str]) -> tuple[str, ...]:
    """The files of the source that a plan reads: weights and tokenizer. Raises BadWeights where some are missing."""
    paths = tuple(paths)
    architecture, wanted = components(config, facts)
    files: set[str] = set()
    for component in wanted:
        files |= set(choose(paths, folder=component.folder))
    if _bundles(config):
        files |= set(architecture.resources)
    if config.prompts:  # the source draws as well, so all that its pipeline reads is needed
        folders = {component.folder for component in wanted} | {"scheduler", "tokenizer"}
        files |= {path for path in paths if path == MODEL_INDEX or _is_pipeline_file(path, folders)}
    return tuple(sorted(files))


def export_step(params: Mapping[str, Any], label: str) -> Step:
    """The step that makes a graph (from what is shipped, or with torch), of what architectures.export_params gives."""
    shipped = graphs.is_shipped(params)
    return Step(
        kind="export",
        version=VERSIONS["export"],
        params=params,
        inputs={},
        label=f"graph of {label}" + (" (shipped)" if shipped else ""),
        size=3 * _MB,
        memory=_MEMORY["export"] if shipped else _EXPORT_MEMORY,
        needs=() if shipped else _EXPORT_NEEDS,
    )


def make_plan(
    config: Config,
    facts: Facts,
    snapshot: Snapshot,
    *,
    destination: str,
    verify: str,
    compiler: str,
    unproven: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of one model.

    `snapshot` holds (at least) `source_files`; `verify` and `compiler` are the modes
    that config and machine have led to; `unproven` says of export steps, by key, why
    their graphs cannot be proven.
    """
    architecture, wanted = components(config, facts)
    maker = _Maker(
        config=config, facts=facts, snapshot=snapshot, verify=verify, compiler=compiler, unproven=unproven or {}
    )
    variants = []
    for attention in config.attention:
        latent = _latent(config, facts)
        variant = Variant(
            attention=attention,
            bits=config.bits,
            latent=latent,
            batch=config.batch,
            target=config.deployment_target,
        )
        variants.append(variant)
        maker.variant(variant, wanted, architecture.resources, destination.rpartition("/")[2])
    if config.prompts:
        maker.sample(architecture.resources)
    return Plan(
        config=config,
        architecture=architecture,
        variants=tuple(variants),
        destination=destination,
        steps=tuple(maker.steps.values()),
        targets=tuple(maker.targets),
        components=tuple(maker.components.values()),
        verify=verify,
        sampled=maker.sampled,
    )


class _Maker:
    """Collects steps while variants are walked; the same step twice is one step."""

    def __init__(
        self,
        *,
        config: Config,
        facts: Facts,
        snapshot: Snapshot,
        verify: str,
        compiler: str,
        unproven: Mapping[str, str],
    ) -> None:
        self.config, self.facts, self.snapshot = config, facts, snapshot
        self.verify, self.compiler, self.unproven = verify, compiler, unproven
        self.steps: dict[str, Step] = {}
        self.targets: list[Target] = []
        self.components: dict[tuple[str, str | None], PlannedComponent] = {}
        self.interfaces: dict[str, FromStep] = {}
        self.sampled: str | None = None

    def variant(self, variant: Variant, wanted: Iterable[Component], resources: Iterable[str], repo: str) -> None:
        """Steps and targets of one attention."""
        made = [self.component(component, variant) for component in wanted]
        if "packages" in self.config.formats:
            for planned in made:
                stem = package_stem(self.snapshot.source.name, planned.component.name)
                path = f"{variant.folder('packages')}/{stem}.mlpackage"
                self.targets.append(Target(path_in_repo=path, given=FromStep(key=planned.fill, path="model.mlpackage")))
        if not _bundles(self.config):
            return
        bundle: dict[str, Input] = {
            f"{planned.component.coreml_name}.mlmodelc": FromStep(key=planned.compile, path="model.mlmodelc")
            for planned in made
            if planned.compile
        }
        for resource in resources:
            bundle[resource.rpartition("/")[2]] = self.source(resource)
        if "compiled" in self.config.formats:
            for name, given in bundle.items():
                self.targets.append(Target(path_in_repo=f"{variant.folder('compiled')}/{name}", given=given))
        if "zip" in self.config.formats:
            stem = variant.zip_stem(repo)
            size = sum(self.steps[planned.fill].size for planned in made)
            archive = self.add(
                kind="archive",
                params={"stem": stem},
                inputs=bundle,
                label=f"archive {variant.attention}",
                size=size,
                memory=_MEMORY["archive"],
                after=tuple(key for planned in made for key in (planned.readback, planned.verify) if key),
            )
            self.targets.append(Target(path_in_repo=f"{stem}.zip", given=FromStep(key=archive, path="archive.zip")))

    def component(self, component: Component, variant: Variant) -> PlannedComponent:
        """export → fill → readback, verify, compile."""
        attention = variant.attention if "attention" in component.hears else None
        known = self.components.get((component.name, attention))
        if known is not None:
            return known
        label = component.name + (f" {attention}" if attention else "")
        export = self.export(component, variant, label)
        reason = self.unproven.get(export)
        plain = self.plain(component, export, reason, label) if reason else None
        bits = variant.bits if component.palettizes else 16
        fill = self.fill(component, plain or export, bits, label)
        planned = PlannedComponent(
            component=component,
            attention=attention,
            export=export,
            plain=plain,
            fill=fill,
            readback=None if self.verify == "off" else self.readback(component, fill, bits, label),
            verify=self.numeric(component, plain or export, fill, bits, label) if self.verify == "numeric" else None,
            compile=self.compile(component, fill, label) if _bundles(self.config) else None,
        )
        self.components[component.name, attention] = planned
        return planned

    def export(self, component: Component, variant: Variant, label: str) -> str:
        params = architectures.export_params(
            component,
            self.facts.configs,
            attention=variant.attention,
            latent=variant.latent,
            batch=variant.batch,
            target=variant.target,
        )
        step = export_step(params, label)
        return self.steps.setdefault(step.key, step).key

    def plain(self, component: Component, export: str, reason: str, label: str) -> str:
        names = self.weight_files(component)
        elements = self.elements(component)
        return self.add(
            kind="plain",
            params={"graph": self.steps[export].params, "reason": reason, "weights": names},
            inputs={"source": self.source(component.folder, names)},
            label=f"{label}, converted the plain way ({reason.removesuffix('.')})",
            size=2 * elements,
            memory=16 * elements + _EXPORT_MEMORY,
            needs=_EXPORT_NEEDS,
        )

    def fill(self, component: Component, graph: str, bits: int, label: str) -> str:
        plain = self.steps[graph].kind == "plain"  # its weights lie beside it
        names = [PLAIN_WEIGHTS] if plain else self.weight_files(component)
        params = {
            "component": component.name,
            "bits": bits,
            "palettizes": component.palettizes,
            "weights": names,
            "metadata": self.metadata(),
        }
        source = FromStep(key=graph) if plain else self.source(component.folder, names)
        return self.add(
            kind="fill",
            params=params,
            inputs={"graph": FromStep(key=graph), "source": source},
            label=f"{label}, {bits}-bit",
            size=self.elements(component) * bits // 8,
            memory=_MEMORY["fill"],
        )

    def readback(self, component: Component, fill: str, bits: int, label: str) -> str:
        step = self.steps[fill]
        return self.add(
            kind="readback",
            params={"component": component.name, "bits": bits, "weights": step.params["weights"]},
            inputs={"package": FromStep(key=fill, path="model.mlpackage"), **step.inputs},
            label=f"check weights of {label}",
            memory=_MEMORY["readback"],
        )

    def numeric(self, component: Component, graph: str, fill: str, bits: int, label: str) -> str:
        floor = self.config.floor.get(component.name, FLOORS.get(bits))
        full = fill if bits == 16 else self.fill(component, graph, 16, label)
        names = self.weight_files(component)
        package = FromStep(key=full, path="model.mlpackage")
        expected = self.add(
            kind="reference",
            params={
                "component": component.name,
                "config": dict(self.facts.configs[component.folder]),
                "weights": names,
                "scheduler": dict(self.facts.scheduler),
                "scaling_factor": self.facts.scaling_factor,
            },
            # The answer is the source's; of the package only its interface counts, which all variants share.
            inputs={
                "source": self.source(component.folder, names),
                "package": self.interface(component, package),
            },
            label=f"run {component.name} of the source",
            memory=_VERIFY_MEMORY[component.name],
            needs=_EXPORT_NEEDS,
        )
        return self.add(
            kind="verify",
            params={
                "component": component.name,
                "bits": bits,
                "floor": floor,
                "floor_fp16": FLOORS[16],
                "floor_graph": FLOOR_GRAPH,
            },
            inputs={
                "package": FromStep(key=fill, path="model.mlpackage"),
                "full": package,
                "expected": FromStep(key=expected),
            },
            label=f"verify {label}",
            memory=_VERIFY_MEMORY[component.name],
            needs=("torch",),
        )

    def interface(self, component: Component, package: FromStep) -> FromStep:
        """The first 16-bit package of a component: the variants' interfaces are the same."""
        return self.interfaces.setdefault(component.name, package)

    def compile(self, component: Component, fill: str, label: str) -> str:
        stem = package_stem(self.snapshot.source.name, component.name)
        return self.add(
            kind="compile",
            # the bundle names who wrote it, so another version of hubpub writes other bytes
            params={"compiler": self.compiler, "stem": stem, "by": __version__},
            inputs={"package": FromStep(key=fill, path="model.mlpackage")},
            label=f"compile {label}",
            size=self.steps[fill].size // 50,  # weights are shared with the package
            memory=_MEMORY["compile"],
        )

    def sample(self, resources: Iterable[str]) -> None:
        """Pictures drawn by the first variant's packages and by the source."""
        first = self.config.attention[0]
        parts = {name: planned for (name, attention), planned in self.components.items() if attention in (None, first)}
        files = [path for path in self.sampled_files(resources) if self.snapshot.file(path)]
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
        key = self.add(
            kind="sample",
            params={
                "requests": requests,
                "bits": self.config.bits,
                "scheduler": self.facts.scheduler_name,
                "scheduler_config": dict(self.facts.scheduler),
                "scaling_factor": self.facts.scaling_factor,
            },
            inputs={
                **{
                    name: FromStep(key=parts[name].fill, path="model.mlpackage")
                    for name in ("text_encoder", "unet", "vae_decoder")
                },
                "source": self.source(".", files),
            },
            label=f"draw {len(requests)} pictures",
            size=len(requests) * _MB,
            memory=7000 * _MB,
            needs=("torch", "diffusers", "transformers"),
        )
        self.targets.append(Target(path_in_repo=IMAGES, given=FromStep(key=key)))
        self.sampled = key

    def sampled_files(self, resources: Iterable[str]) -> list[str]:
        """What diffusers' pipeline reads of the source: all that was pinned."""
        return sorted({file.path for file in self.snapshot.files} | set(resources))

    def metadata(self) -> dict[str, Any]:
        """What packages say of where they come from: from the source, nothing that changes by itself."""
        source = self.snapshot.source
        where = f"huggingface.co/{source.name}" if source.kind == "hub" else source.name
        return {
            "author": f"Please refer to the Model Card available at {where}",
            "license": licence_text(self.config, self.facts),
            "version": source.name,
        }

    def source(self, path: str, names: Iterable[str] = ("",)) -> FromSource:
        files = {}
        for name in names:
            file = self.snapshot.file(f"{path}/{name}".removeprefix("./") if name else path)
            if file is None:
                raise SourceNotFound(f"The source has no {path}.", hint="Apps need it; add it to the source repo.")
            files[name] = file.digest
        return FromSource(path=path, files=files)

    def weight_files(self, component: Component) -> list[str]:
        """Names of a component's weight files in its folder."""
        paths = choose((file.path for file in self.snapshot.files), folder=component.folder)
        return [path.removeprefix(f"{component.folder}/") for path in paths]

    def elements(self, component: Component) -> int:
        """Parameters of a component, at most: its files hold two bytes for each, or four, which only they know."""
        paths = [f"{component.folder}/{name}" for name in self.weight_files(component)]
        total = sum(file.size // 2 for path in paths if (file := self.snapshot.file(path)))
        share = {"vae_decoder": 0.6, "vae_encoder": 0.45}.get(component.name, 1.0)  # two components in one file
        return int(total * share)

    def add(self, *, label: str, **fields: Any) -> str:
        step = Step(version=VERSIONS[fields["kind"]], label=label, **fields)
        return self.steps.setdefault(step.key, step).key


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


def _latent(config: Config, facts: Facts) -> tuple[int, int]:
    size = config.latent or architectures.default_latent(facts.configs)
    if size is None:
        raise ConfigError("The UNet's config gives no sample_size.", hint="Give --latent-height and --latent-width.")
    return size
