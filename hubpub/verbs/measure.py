"""measure: packages made earlier, or by others, are run against the source. Folder + source → decibels.

What `verify --source` adds to digests and structure: the source's own modules (diffusers',
transformers') answer in fp32, the packages answer on hubpub's runtime at fp16, on the same
inputs as in the gate. Attention variants of one width are compared with each other too.
Names do not matter: a package is known by what it gives.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.architectures import check_components, find
from hubpub.coreml.package import read_model
from hubpub.coreml.program import write
from hubpub.coreml.survey import survey
from hubpub.errors import ConfigError, ParityTooLow, ToolMissing
from hubpub.files.digests import sha256
from hubpub.networks import Size
from hubpub.plan.config import effective
from hubpub.remote.signing import demanded
from hubpub.steps import FromSource, Reference
from hubpub.verbs import fetch
from hubpub.verbs.preparation import Prepared, prepare
from hubpub.verbs.session import Session
from hubpub.verbs.verify import Verified, check, raise_findings

if TYPE_CHECKING:
    from hubpub.steps.reference import Arrays


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How near a package is to the source, or to that of another variant: PSNR in dB."""

    packages: tuple[str, ...]  # paths in the folder or repo; several where they are the same, byte for byte
    component: str
    bits: int  # the fewest bits that a weight of it is stored in
    against: str  # "the source", or the path of another package
    psnr: float
    floor: float | None  # None: reported only

    @property
    def passed(self) -> bool:
        """Whether it is a number, and above the floor."""
        return not math.isnan(self.psnr) and (self.floor is None or self.psnr >= self.floor)

    def to_json(self) -> dict[str, Any]:
        """The same for programs; PSNR is null where an output is NaN or infinite."""
        return {**asdict(self), "psnr": None if math.isnan(self.psnr) else round(self.psnr, 2), "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class _Package:
    """A package, or the chunks of one in order."""

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    step: Reference  # runs the module that it must equal
    bits: int

    @property
    def inputs(self) -> list[Any]:
        """The descriptions of its inputs; of chunks, those that no chunk before gives."""
        models = [read_model(path).description for path in self.paths]
        given = {output.name for model in models for output in model.output}
        return list({one.name: one for model in models for one in model.input if one.name not in given}.values())


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A check of digests and structure, and where a source was named the numbers (None: no source)."""

    verified: Verified
    measured: tuple[Measured, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        if self.measured is None:
            return self.verified.to_json()
        return {**self.verified.to_json(), "measured": [one.to_json() for one in self.measured]}

    def raise_wrong(self) -> None:
        """Raise FilesChanged for findings, else ParityTooLow for numbers below their floors."""
        raise_findings(self.verified)
        raise_low(self.measured or ())


def check_and_measure(
    target: str,
    source: str | None,
    *,
    session: Session,
    revision: str | None = None,
    verify_signature: bool = False,
    identity: str | None = None,
    issuer: str | None = None,
    floor: Mapping[str, float] | None = None,
    **more: Any,
) -> Compared:
    """Check a release; where nothing is wrong and `source` is named, compare its packages with that source.

    `more` are settings that say what the release was made from: refiner, controlnet, vae, lora, weights_variant,
    prediction_type.
    """
    signed_by = demanded(verify_signature, identity, issuer)
    verified = check(target, session=session, revision=revision, signed_by=signed_by)
    if source is None:
        return Compared(verified=verified, measured=None)
    if verified.findings:
        return Compared(verified=verified, measured=())
    measured = measure(target, source, session=session, revision=revision, floors=floor or {}, more=more)
    return Compared(verified=verified, measured=measured)


def measure(
    target: str,
    source: str,
    *,
    session: Session,
    revision: str | None = None,
    floors: Mapping[str, float],
    more: Mapping[str, Any] | None = None,
) -> tuple[Measured, ...]:
    """Compare every package of a folder (or of a repo, which is fetched) with the source it was made from.

    `floors` (component → dB) come before the usual ones by bits; `more` are settings that name further
    sources (refiner, controlnet, vae, lora …). Raises ConfigError where
    there is no package of Stable Diffusion, ToolMissing without torch.
    """
    _check_tools()
    check_components(floors)
    folder = Path(target)
    if folder.is_dir():
        return tuple(_measure_folder(folder, source, session, floors, more or {}))
    # beside the store, where there is room for models
    session.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=session.root, prefix="measure-") as temporary:
        offers = fetch.variants(target, revision=revision, session=session)
        for offer in offers:
            if offer.format == "packages":
                place = Path(temporary) / offer.name
                fetch.fetch(target, offer.name, revision=revision, dest=place, session=session)
        return tuple(_measure_folder(Path(temporary), source, session, floors, more or {}))


def raise_low(measured: Iterable[Measured]) -> None:
    """ParityTooLow where one is below its floor, or no number."""
    low = [one for one in measured if not one.passed]
    if low:
        worst = min(low, key=lambda one: -math.inf if math.isnan(one.psnr) else one.psnr - (one.floor or 0))
        result = "gives NaN or infinity" if math.isnan(worst.psnr) else f"is {worst.psnr:.1f} dB from {worst.against}"
        floor = "" if worst.floor is None else f"; the floor is {worst.floor:g} dB"
        more = f" (and {len(low) - 1} more)" if len(low) > 1 else ""
        raise ParityTooLow(
            f"{worst.packages[0]} {result}{floor}{more}.",
            hint="Is it made from this source, at this revision? A floor can be lowered with --floor COMPONENT=DB.",
            measured=None if math.isnan(worst.psnr) else worst.psnr,
            floor=worst.floor,
        )


def _check_tools() -> None:
    absent = [name for name in Reference.NEEDS if find_spec(name) is None]
    if absent:
        raise ToolMissing(
            f"To compare with the source {', '.join(absent)} is needed, which is not installed.",
            hint="Install it with `pip install 'hubpub[numeric]'`.",
        )


def _measure_folder(
    folder: Path, source: str, session: Session, floors: Mapping[str, float], more: Mapping[str, Any]
) -> Iterator[Measured]:
    prepared, steps = _references(source, session, more)
    names = {step.key: prepared.opened[_folder_of(step).source].source.name for step in steps}
    packages = list(_packages(folder, steps, names, session))
    if not packages:
        raise ConfigError(
            f"There are no packages (.mlpackage) of {source} in {folder}.",
            hint="Compiled models cannot be run without Core ML; fetch a variant that ends in /packages.",
        )
    for key in dict.fromkeys(package.step.key for package in packages):
        same = [package for package in packages if package.step.key == key]
        yield from _measure_component(same, prepared, session, floors.get(same[0].step.component))


def _measure_component(
    packages: list[_Package], prepared: Prepared, session: Session, floor: float | None
) -> Iterator[Measured]:
    """Each package against the source, then those of one width against each other."""
    from hubpub.runtime.measure import psnr
    from hubpub.steps.measure import answers, lowest

    step = packages[0].step
    folders = prepared.folders([step], session.report.transfer)
    places = {
        name: folders[given.source] / given.path for name, given in step.inputs.items() if isinstance(given, FromSource)
    }
    floors = find(step.family, step.component).floors
    expected: dict[tuple[Any, ...], tuple[Arrays, Arrays]] = {}  # by interface: sizes and batches may differ
    made: list[tuple[_Package, tuple[Any, ...], Arrays]] = []
    for package in packages:
        session.report.line(f"  running {package.names[0]}")
        interface = tuple(one.SerializeToString(deterministic=True) for one in package.inputs)
        if interface not in expected:
            expected[interface] = step.answers(package.inputs, places)
        arrays, reference = expected[interface]
        outputs = answers(package.paths, arrays, reference, precision="fp16")
        usual = floors.get(package.bits)
        found = Measured(
            packages=package.names,
            component=step.component,
            bits=package.bits,
            against="the source",
            psnr=lowest({name: psnr(values, outputs[name]) for name, values in reference.items()}),
            floor=usual if floor is None else floor,
        )
        yield found
        for other, its_interface, its_outputs in made:
            if other.bits == package.bits and its_interface == interface:
                between = lowest({name: psnr(values, outputs[name]) for name, values in its_outputs.items()})
                yield replace(found, against=other.names[0], psnr=between, floor=usual)
        made.append((package, interface, outputs))


def _references(source: str, session: Session, more: Mapping[str, Any]) -> tuple[Prepared, list[Reference]]:
    """The plan that would convert the source, and the steps that run the source's own modules.

    A UNet that takes ControlNets is the same module with more inputs, so it needs no ControlNet to be checked.
    """
    settings = {"source": source, "bits": 16, "attention": ["original"], "formats": ["packages"], **more}
    prepared = prepare(effective({}, {**settings, "verify": "full", "license": "unknown"}), session, owner=None)
    steps = [step for step in prepared.plan.steps if isinstance(step, Reference)]
    owners = {component.weights: component for component in prepared.plan.architecture.components if component.weights}
    return prepared, steps + [
        replace(step, component=owners[step.component].name) for step in steps if step.component in owners
    ]


def _folder_of(step: Reference) -> FromSource:
    given = step.inputs["source"]
    assert isinstance(given, FromSource)
    return given


def _packages(
    folder: Path, steps: Sequence[Reference], names: Mapping[str, str], session: Session
) -> Iterator[_Package]:
    """The different packages in a folder; variants share those that do not depend on the attention.

    A package is known by what it takes and gives, whatever it is called; chunks lie side by side under one name.
    Those that are of none of the sources, such as ControlNets that were not named, are listed.
    """
    same: dict[tuple[str, ...], list[tuple[Path, ...]]] = {}
    for path in sorted(folder.rglob("*.mlpackage")):
        second = path.with_name(path.name.replace("_chunk1.", "_chunk2."))
        paths: tuple[Path, ...] = (path, second) if second != path and second.is_dir() else (path,)
        files = [file for one in paths for file in sorted(one.rglob("*")) if file.is_file()]
        digests = tuple(sha256(file) for file in files if file.name != "Manifest.json")
        same.setdefault(digests, []).append(paths)
    for alike in same.values():
        first = alike[0]
        models = [read_model(path) for path in first]
        paths_here = tuple(one[0].relative_to(folder).as_posix() for one in alike)
        fitting = _steps_of([model.description for model in models], steps)
        # of two ControlNets of one interface, the one that the package is called after
        named = [step for step in fitting if names[step.key].replace("/", "_") in first[0].name]
        step = next(iter([*named, *fitting]), None)
        if step is None:
            session.report.line(f"  not compared: {paths_here[0]} (no network of the source takes and gives the same)")
        else:
            counts = [one for model in models for one in survey(model.mlProgram).functions.values()]
            stored = {kind for one in counts for kind in one.storage}
            widths = [int(found[1]) for kind in stored if (found := re.search(r"Palettized \((\d+) bits?\)", kind))]
            yield _Package(paths=first, names=paths_here, step=step, bits=min(widths, default=16))


def _steps_of(descriptions: Sequence[Any], steps: Sequence[Reference]) -> list[Reference]:
    """The steps whose network, at the package's own size, takes and gives the same names and shapes."""
    given = {output.name for one in descriptions[:-1] for output in one.output}
    inputs = {
        one.name: _shape(one) for description in descriptions for one in description.input if one.name not in given
    }
    outputs = {one.name: _shape(one) for one in descriptions[-1].output}
    fitting = []
    for step in steps:
        small = _interface(step, Size(height=step.height, width=step.width, batch=step.batch))
        if small[0].keys() == inputs.keys() and small[1].keys() == outputs.keys():
            size = _size(inputs, small[0], step)
            if size is not None and _interface(step, size) == (inputs, outputs):
                fitting.append(step)
    return fitting


def _interface(step: Reference, size: Size) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Names and shapes of what a step's network takes and gives at a size."""
    known = find(step.family, step.component)
    network = known.program(known.read_config(step.config), size=size, attention="original")
    description = write(network, target="macOS13").description
    return (
        {one.name: _shape(one) for one in description.input},
        {one.name: _shape(one) for one in description.output},
    )


def _size(inputs: Mapping[str, tuple[int, ...]], small: Mapping[str, tuple[int, ...]], step: Reference) -> Size | None:
    """The size of the package with these inputs, from the sides of its pictures; None where the sides do not fit."""
    for name, shape in inputs.items():
        if name in _PICTURES and len(shape) == len(small[name]) == 4:
            sides = [side * own for side, own in zip(shape[2:], (step.height, step.width), strict=True)]
            if any(side % its for side, its in zip(sides, small[name][2:], strict=True)):
                return None
            height, width = (side // its for side, its in zip(sides, small[name][2:], strict=True))
            return Size(height=height, width=width, batch=shape[0])
    return Size(height=step.height, width=step.width, batch=step.batch)


_PICTURES = ("sample", "z", "x")


def _shape(feature: Any) -> tuple[int, ...]:
    return tuple(feature.type.multiArrayType.shape)
