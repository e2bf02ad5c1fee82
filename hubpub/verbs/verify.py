"""verify: a release is checked again, long after it was made or fetched. Repo or folder → findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub import holding
from hubpub.artifact import check_repo_id
from hubpub.errors import ConfigError, FetchError, FindingsError, ModelError
from hubpub.holding import Finding
from hubpub.mil.bundle import belongs, read_bundle
from hubpub.mil.package import read_model, weights_folder
from hubpub.release import RemoteState, variant_of
from hubpub.remembered import Memory
from hubpub.report import human
from hubpub.verbs.prepare import Session


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was checked, and what is wrong (nothing, where `findings` is empty)."""

    target: str
    files: int
    size: int
    against: str  # what the files were compared with
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """One line for people."""
        state = f"{len(self.findings)} findings" if self.findings else "all as published"
        return f"{self.target}: {self.files} files, {human(self.size)}, compared with {self.against}: {state}"

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "target": self.target,
            "files": self.files,
            "bytes": self.size,
            "against": self.against,
            "findings": [{"path": finding.path, "problem": finding.problem} for finding in self.findings],
        }


def verify(
    target: str | Path, *, revision: str | None = None, endpoint: str | None = None, token: str | None = None
) -> Verified:
    """Check a folder that was converted or fetched, or a repo; raises FindingsError with all that is wrong."""
    verified = check(str(target), session=Session.open(endpoint=endpoint, token=token), revision=revision)
    raise_findings(verified)
    return verified


def raise_findings(verified: Verified) -> None:
    """FindingsError where something is wrong."""
    if verified.findings:
        listed = [f"{finding.path} {finding.problem}" for finding in verified.findings]
        raise FindingsError(
            f"{len(listed)} files of {verified.target} are not as they were published.",
            hint="Fetch or convert it again.",
            findings=listed,
        )


def check(target: str, *, session: Session, revision: str | None) -> Verified:
    """Check without raising for what is found."""
    folder = Path(target)
    if folder.is_dir():
        return _check_folder(folder)
    return _check_repo(target, session, revision)


def _check_folder(folder: Path) -> Verified:
    """Digests against the manifest, or against what fetch was promised; then what only a look inside can tell."""
    memory = Memory()
    known = memory.remembered.fetched(folder)
    released = holding.check_release(folder)
    if released is not None:
        findings, against = released, "its manifest"
    elif known is not None:
        findings, against = holding.check(folder, known), f"{known['repo_id']} at {str(known['commit'])[:12]}"
    else:
        findings, against = (), "nothing (it has no hubpub.json and was not fetched here): structure only"
    files = [path for path in folder.rglob("*") if path.is_file()]
    models = [path for path in folder.rglob("*.ml*") if path.suffix in (".mlpackage", ".mlmodelc")]
    if released is None and known is None and not models:
        raise ConfigError(
            f"{folder} holds no models.", hint="Name a folder that was converted or fetched, or a repo id."
        )
    return Verified(
        target=str(folder),
        files=len(files),
        size=sum(path.stat().st_size for path in files),
        against=against,
        findings=(*findings, *_inside(folder, models)),
    )


def _inside(folder: Path, models: Iterable[Path]) -> Iterator[Finding]:
    """Packages and bundles that cannot be read, and bundles that were not compiled from the package beside them."""
    packages: dict[str, list[Path]] = {}
    bundles = []
    for path in sorted(models):
        name = path.relative_to(folder).as_posix()
        try:
            if path.suffix == ".mlpackage":
                model = read_model(path)
                if any(weights_folder(path).glob("*")) != bool(_weights(model)):
                    yield Finding(path=name, problem="has weights that its model does not name, or the reverse")
                packages.setdefault(name.partition("/")[0], []).append(path)
            else:
                bundles.append((name, path, read_bundle(path)))
        except ModelError as error:
            yield Finding(path=name, problem=f"cannot be read: {error.message}")
    for name, path, bundle in bundles:
        candidates = packages.get(name.partition("/")[0], []) if "/" in name else []
        if candidates and not any(belongs(bundle, package) for package in candidates):
            yield Finding(path=name, problem=f"was compiled from none of the packages in {path.parts[-3]}/packages")


def _weights(model: Any) -> bool:
    return b"@model_path/" in model.SerializeToString()


def _check_repo(repo_id: str, session: Session, revision: str | None) -> Verified:
    """The repo's manifest against the digests that the Hub lists; nothing is downloaded but the manifest."""
    state = session.hub.state(check_repo_id(repo_id), revision)
    if state is None:
        raise FetchError(f"There is no repo {repo_id}.", hint="Check the name.")
    if state.manifest is None:
        raise FetchError(
            f"{repo_id} has no manifest of hubpub.",
            hint="Fetch it: its files are then checked against the Hub's digests.",
        )
    return Verified(
        target=repo_id,
        files=len(state.manifest["files"]),
        size=sum(file["size"] for file in state.manifest["files"]),
        against=f"the Hub's digests at {str(state.commit)[:12]}",
        findings=tuple(_against_hub(state, state.manifest)),
    )


def _against_hub(state: RemoteState, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    listed = {file.path: file for file in state.files}
    for file in manifest["files"]:
        there = listed.pop(file["path"], None)
        if there is None:
            yield Finding(path=file["path"], problem="is missing")
        elif there.size != file["size"] or (there.sha256 is not None and there.sha256 != file["sha256"]):
            yield Finding(path=file["path"], problem="is not the file that the manifest names")
    for path in listed:
        if variant_of(path) in manifest["variants"]:
            yield Finding(path=path, problem="does not belong to the release")
