"""audit: what apps will stumble over in a release, anyone's. Repo or folder → findings.

Of a repo, only its list of files and the small files of its bundles are read, and of
large ones the first bytes: no weights are downloaded.
"""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubpub.coreml.bundle import SMALL_FILES, Bundle, read_bundle_files
from hubpub.errors import ConfigError, FetchError, FindingsError, ModelError
from hubpub.files.repo_ids import check_repo_id
from hubpub.files.unzip import DAMAGE
from hubpub.release.artifact import Artifact
from hubpub.release.findings import Finding
from hubpub.release.lint import (
    CONTROLNETS,
    lint_compiled,
    lint_folder,
    lint_names,
    lint_zip,
    lint_zip_names,
    lint_zip_url,
)
from hubpub.release.release import RemoteState, variant_of
from hubpub.remote.hub import Hub
from hubpub.remote.offers import Offer, OfferedFile, offers
from hubpub.verbs.session import Session, using

_INSIDE = ".mlmodelc/"
_MODEL = "Data/com.apple.CoreML/model.mlmodel"
# A bundle's text is a few MB; nothing larger is read in one go.
_MOST = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What was looked at, and what was found."""

    target: str
    variants: tuple[str, ...]
    bundles: Mapping[str, str]  # path → who compiled it, and from which package, where that is known
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that keep an app from working."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "target": self.target,
            "variants": list(self.variants),
            "bundles": dict(self.bundles),
            "findings": [vars(finding) for finding in self.findings],
        }


def raise_errors(audited: Audited) -> None:
    """FindingsError where something keeps an app from working."""
    if audited.errors:
        raise FindingsError(
            f"{len(audited.errors)} things in {audited.target} keep apps from working.",
            hint="Each is named above.",
            findings=[f"{finding.path}: {finding.sentence}" for finding in audited.errors],
        )


def audit(
    target: str | Path,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> Audited:
    """Find what apps will stumble over in a folder (a release's tree, or compiled bundles) or a repo of the Hub.

    `raise_errors` turns what keeps an app from working into a FindingsError.
    """
    folder = Path(target)
    if folder.is_dir():
        return _audit_folder(folder)
    with using(session, endpoint=endpoint, token=token) as opened:
        return _audit_repo(str(target), opened.hub, revision)


def _audit_repo(target: str, hub: Hub, revision: str | None) -> Audited:
    state = hub.state(check_repo_id(target), revision)
    if state is None or not (found := offers(state)):
        raise FetchError(f"{target} offers no Core ML models.", hint="Check the name.")
    findings = list(lint_names(file.path for file in state.files))
    bundles: dict[str, str] = {}
    for offer in found:
        if offer.format == "compiled":
            findings += _of_compiled(offer, state, hub)
            bundles |= _bundles(offer, state, hub)
        elif offer.format == "zip":
            for file in offer.files:
                findings += lint_zip_url(file.path_in_repo, repo_id=target)
    return Audited(
        target=target,
        variants=tuple(offer.name for offer in found),
        bundles=bundles,
        findings=tuple(findings),
    )


def _audit_folder(folder: Path) -> Audited:
    compiled = sorted({_bundles_of(path.parent) for path in folder.rglob("*.mlmodelc")})
    archives = sorted(folder.glob("*_compiled.zip"))
    if not compiled and not archives:
        raise ConfigError(
            f"{folder} holds no compiled models.", hint="Audit looks at what apps load: .mlmodelc and zips."
        )
    findings: list[Finding] = []
    for place in compiled:
        prefix = place.relative_to(folder).as_posix()
        attention = prefix.partition("/")[0] if "/" in prefix else None
        findings += (_under(prefix, finding) for finding in lint_folder(place, attention=attention))
    for archive in archives:
        findings += lint_zip(archive)
    names = [place.relative_to(folder).as_posix() for place in compiled] + [path.name for path in archives]
    return Audited(target=str(folder), variants=tuple(names), bundles={}, findings=tuple(findings))


def _bundles_of(folder: Path) -> Path:
    """The folder of all bundles: ControlNets lie in one of their own inside it."""
    return folder.parent if folder.name == CONTROLNETS else folder


def _of_compiled(offer: Offer, state: RemoteState, hub: Hub) -> Iterator[Finding]:
    files = {file.path: file for file in offer.files}

    def read(name: str, limit: int) -> bytes:
        return _peek(files[name], state, hub, min(limit, _MOST))

    attention = offer.name.partition("/")[0]
    prefix = offer.files[0].path_in_repo.removesuffix(offer.files[0].path).strip("/")
    for finding in lint_compiled(tuple(files), read, attention=attention):
        yield _under(prefix, finding)


def _bundles(offer: Offer, state: RemoteState, hub: Hub) -> dict[str, str]:
    """Who wrote each bundle, and which package of the repo it was compiled from (by the model's hash)."""
    sources: dict[str, list[str]] = {}
    for model in state.files:
        if model.sha256 and model.path.endswith(_MODEL):
            digest = base64.b64encode(bytes.fromhex(model.sha256)).decode()
            sources.setdefault(digest, []).append(model.path.removesuffix(f"/{_MODEL}"))
    attention = offer.name.partition("/")[0]
    compilers = {}
    files = {file.path: file for file in offer.files}
    for name in sorted({f"{path.partition(_INSIDE)[0]}.mlmodelc" for path in files if _INSIDE in path}):
        small = {
            part: _peek(files[f"{name}/{part}"], state, hub, _MOST) for part in SMALL_FILES if f"{name}/{part}" in files
        }
        try:
            bundle: Bundle = read_bundle_files(small, name=name)
        except ModelError as error:
            compilers[f"{offer.name}/{name}"] = f"cannot be read: {error.message}"
            continue
        # variants share packages: name the one beside the bundle, where there is one
        found = sorted(sources.get(bundle.model_hash, ()), key=lambda path: not path.startswith(f"{attention}/"))
        compilers[f"{offer.name}/{name}"] = (
            f"{bundle.compiler}, from {found[0] if found else 'no package of this repo'}"
        )
    return compilers


def _peek(file: OfferedFile, state: RemoteState, hub: Hub, length: int) -> bytes:
    return hub.peek(state.repo_id, state.commit, file.path_in_repo, length=length)


def check_release(artifacts: Iterable[Artifact], *, repo_id: str) -> None:
    """What apps demand of the files of a release, before its first byte is sent. Raises FindingsError."""
    findings: list[Finding] = []
    compiled: dict[str, dict[str, Artifact]] = {}
    for artifact in artifacts:
        variant = variant_of(artifact.path) or ""
        if variant.endswith("/compiled"):
            compiled.setdefault(variant, {})[artifact.path.removeprefix(f"{variant}/")] = artifact
        elif variant.endswith("/zip"):
            findings += _of_archive(artifact, repo_id)
    for variant, files in compiled.items():

        def read(name: str, limit: int, files: dict[str, Artifact] = files) -> bytes:
            with files[name].source.open("rb") as file:
                return file.read(limit)

        found = lint_compiled(tuple(files), read, attention=variant.partition("/")[0])
        findings += (_under(variant, finding) for finding in found)
    raise_errors(Audited(target=repo_id, variants=tuple(compiled), bundles={}, findings=tuple(findings)))


def _of_archive(artifact: Artifact, repo_id: str) -> Iterator[Finding]:
    """The archive's address, its one folder, and the checksum of every member."""
    yield from lint_zip_url(artifact.path, repo_id=repo_id)
    try:
        with zipfile.ZipFile(artifact.source) as archive:
            yield from lint_zip_names(archive.namelist(), zip_name=artifact.path)
            broken = archive.testzip()
    except DAMAGE as error:
        why = str(error) or "it is damaged"
        yield Finding(severity="error", path=artifact.path, sentence=f"The archive cannot be read: {why}.")
        return
    if broken is not None:
        yield Finding(severity="error", path=broken, sentence="Its checksum in the archive is wrong.")


def _under(prefix: str, finding: Finding) -> Finding:
    return replace(finding, path=f"{prefix}/{finding.path}" if prefix and prefix != "." else finding.path)
