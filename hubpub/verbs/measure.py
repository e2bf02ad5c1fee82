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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubpub.architectures import Component, check_components, component_of_output
from hubpub.coreml.package import read_model
from hubpub.coreml.survey import survey
from hubpub.errors import ConfigError, ParityTooLow, ToolMissing
from hubpub.files.digests import sha256
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
    path: Path
    names: tuple[str, ...]
    component: Component
    bits: int


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
) -> Compared:
    """Check a release; where nothing is wrong and `source` is named, compare its packages with that source."""
    signed_by = demanded(verify_signature, identity, issuer)
    verified = check(target, session=session, revision=revision, signed_by=signed_by)
    if source is None:
        return Compared(verified=verified, measured=None)
    compare = not verified.findings
    measured = measure(target, source, session=session, revision=revision, floors=floor or {}) if compare else ()
    return Compared(verified=verified, measured=measured)


def measure(
    target: str, source: str, *, session: Session, revision: str | None = None, floors: Mapping[str, float]
) -> tuple[Measured, ...]:
    """Compare every package of a folder (or of a repo, which is fetched) with the source it was made from.

    `floors` (component → dB) come before the usual ones by bits. Raises ConfigError where
    there is no package of Stable Diffusion, ToolMissing without torch.
    """
    _check_tools()
    check_components(floors)
    folder = Path(target)
    if folder.is_dir():
        return tuple(_measure_folder(folder, source, session, floors))
    # beside the store, where there is room for models
    session.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=session.root, prefix="measure-") as temporary:
        offers = fetch.variants(target, revision=revision, session=session)
        for offer in offers:
            if offer.format == "packages":
                place = Path(temporary) / offer.name
                fetch.fetch(target, offer.name, revision=revision, dest=place, session=session)
        return tuple(_measure_folder(Path(temporary), source, session, floors))


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


def _measure_folder(folder: Path, source: str, session: Session, floors: Mapping[str, float]) -> Iterator[Measured]:
    packages = list(_packages(folder))
    if not packages:
        raise ConfigError(
            f"There are no packages (.mlpackage) of Stable Diffusion in {folder}.",
            hint="Compiled models cannot be run without Core ML; fetch a variant that ends in /packages.",
        )
    prepared, references = _references(source, session)
    for component in dict.fromkeys(package.component.name for package in packages):
        same = [package for package in packages if package.component.name == component]
        if component not in references:
            raise ConfigError(f"The source {source} has no {component}; {same[0].names[0]} is one.")
        yield from _measure_component(same, references[component], prepared, session, floors.get(component))


def _measure_component(
    packages: list[_Package], step: Reference, prepared: Prepared, session: Session, floor: float | None
) -> Iterator[Measured]:
    """Each package against the source, then those of one width against each other."""
    from hubpub.runtime.measure import psnr
    from hubpub.steps.measure import answers, lowest

    given = step.inputs["source"]
    assert isinstance(given, FromSource)
    folder = prepared.folders([step], session.report.transfer)[given.source] / given.path
    expected: dict[tuple[Any, ...], tuple[Arrays, Arrays]] = {}  # by interface: sizes and batches may differ
    made: list[tuple[_Package, tuple[Any, ...], Arrays]] = []
    for package in packages:
        session.report.line(f"  running {package.names[0]}")
        interface = _interface(package.path)
        if interface not in expected:
            expected[interface] = step.answers(read_model(package.path), folder)
        arrays, reference = expected[interface]
        outputs = answers(package.path, arrays, reference, precision="fp16")
        usual = package.component.floors.get(package.bits)
        found = Measured(
            packages=package.names,
            component=package.component.name,
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


def _references(source: str, session: Session) -> tuple[Prepared, dict[str, Reference]]:
    """The plan that would convert the source, and of it the steps that run the source's own modules."""
    settings = {"source": source, "bits": 16, "attention": ["original"], "formats": ["packages"]}
    prepared = prepare(effective({}, {**settings, "verify": "full", "license": "unknown"}), session, owner=None)
    return prepared, {step.component: step for step in prepared.plan.steps if isinstance(step, Reference)}


def _packages(folder: Path) -> Iterator[_Package]:
    """The different packages in a folder; variants share those that do not depend on the attention."""
    same: dict[tuple[str, ...], list[Path]] = {}
    for path in sorted(folder.rglob("*.mlpackage")):
        digests = (sha256(file) for file in sorted(path.rglob("*")) if file.is_file() and file.name != "Manifest.json")
        same.setdefault(tuple(digests), []).append(path)
    for paths in same.values():
        model = read_model(paths[0])
        components = (component_of_output(output.name) for output in model.description.output)
        component = next((one for one in components if one is not None), None)
        if component is not None:
            stored = {kind for counts in survey(model.mlProgram).functions.values() for kind in counts.storage}
            widths = [int(found[1]) for kind in stored if (found := re.search(r"Palettized \((\d+) bits?\)", kind))]
            yield _Package(
                path=paths[0],
                names=tuple(path.relative_to(folder).as_posix() for path in paths),
                component=component,
                bits=min(widths, default=16),
            )


def _interface(package: Path) -> tuple[Any, ...]:
    """Names, shapes and dtypes of a package's inputs."""
    return tuple(given.SerializeToString(deterministic=True) for given in read_model(package).description.input)
