"""verify: a release is checked again, long after it was made or fetched. Repo or folder → findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hubpub.coreml.bundle import belongs, read_bundle
from hubpub.coreml.package import read_model, weights_folder
from hubpub.errors import ConfigError, FetchError, FilesChanged, ModelError, SignatureInvalid
from hubpub.files.digest import FileRef
from hubpub.files.repo_ids import check_repo_id
from hubpub.files.sizes import human
from hubpub.plan.names import MANIFEST, SIGNATURE
from hubpub.release.release import RemoteState, variant_of
from hubpub.remote import folder_check, offers, signing
from hubpub.remote.cache import FetchCache, look_up
from hubpub.remote.folder_check import Finding
from hubpub.remote.signing import Signer, Wanted
from hubpub.verbs.session import Session, using
from hubpub.verbs.trust import check_covered, signed


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was checked, and what is wrong (nothing, where `findings` is empty)."""

    target: str
    files: int
    size: int
    against: str  # what the files were compared with
    findings: tuple[Finding, ...]
    signer: Signer | None = None  # None: not asked for, or not found

    @property
    def summary(self) -> str:
        """One line for people."""
        state = f"{len(self.findings)} findings" if self.findings else "all as published"
        line = f"{self.target}: {self.files} files, {human(self.size)}, compared with {self.against}: {state}"
        return f"{line}; signed by {self.signer}" if self.signer else line

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "target": self.target,
            "files": self.files,
            "bytes": self.size,
            "against": self.against,
            "findings": [{"path": finding.path, "problem": finding.problem} for finding in self.findings],
            "signed_by": asdict(self.signer) if self.signer else None,
        }


def verify(
    target: str | Path,
    *,
    revision: str | None = None,
    signed_by: Wanted | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> Verified:
    """Check a folder that was converted or fetched, or a repo; raises FilesChanged with all that is wrong.

    With `signed_by` its manifest must be signed by them (`Wanted()`: by anybody).
    """
    with using(session, endpoint=endpoint, token=token) as opened:
        verified = check(str(target), session=opened, revision=revision, signed_by=signed_by)
    raise_findings(verified)
    return verified


def raise_findings(verified: Verified) -> None:
    """Raise FilesChanged where something is wrong."""
    if verified.findings:
        listed = [f"{finding.path} {finding.problem}" for finding in verified.findings]
        raise FilesChanged(
            f"{len(listed)} files of {verified.target} are not as they were published.",
            hint="Fetch or convert it again.",
            findings=listed,
        )


def check(target: str, *, session: Session, revision: str | None, signed_by: Wanted | None = None) -> Verified:
    """Check without raising for what is found."""
    folder, cache = Path(target), session.cache
    verified = _check_folder(folder, cache) if folder.is_dir() else _check_repo(target, session, revision)
    if signed_by is None:
        return verified
    try:
        if (folder / MANIFEST).is_file():
            signer = _signer_of_release(folder, signed_by, session)
        elif folder.is_dir():
            signer = _signer_of_fetched(folder, signed_by, session)
        else:
            state = look_up(target, hub=session.hub, revision=revision, cache=cache)
            signer = signed(state, signed_by, hub=session.hub, cache=cache)[1]
    except SignatureInvalid as error:
        return replace(verified, findings=(*verified.findings, Finding(path=SIGNATURE, problem=f"fails: {error}")))
    return replace(verified, signer=signer)


def _signer_of_release(folder: Path, wanted: Wanted, session: Session) -> Signer:
    """Who signed the manifest of a folder that holds a whole release."""
    place = folder / SIGNATURE
    if not place.is_file() or place.stat().st_size > signing.MAX_BUNDLE_BYTES:
        raise SignatureInvalid(f"{folder} holds no signature.", hint="Was the release published with --sign?")
    data = (folder / MANIFEST).read_bytes()
    return signing.verify(data, place.read_bytes(), wanted=wanted, offline=session.hub.offline)


def _signer_of_fetched(folder: Path, wanted: Wanted, session: Session) -> Signer:
    """Who signed the manifest that a fetched folder's files are in."""
    cache = session.cache
    known = cache.fetched(folder)
    if known is None:
        raise SignatureInvalid(f"nothing says where {folder} is from.", hint="Fetch it again.")
    # a commit is the same wherever it is, and what is signed needs no trust in who hands it out
    state = look_up(known["repo_id"], hub=session.hub, revision=known["commit"], cache=cache)
    state, signer = signed(state, wanted, hub=session.hub, cache=cache)
    selection = offers.select(state, known["variant"])
    check_covered(selection)
    claimed = {(file.path, file.size, str(file.digest)) for file in selection.offer.files}
    if known["archive"] != str(selection.offer.files[0].digest) and claimed != {tuple(file) for file in known["files"]}:
        raise SignatureInvalid(f"{folder} was fetched as something else than what was signed.", hint="Fetch it again.")
    return signer


def _check_folder(folder: Path, cache: FetchCache) -> Verified:
    """Digests against the manifest, or against what fetch was promised; then what only a look inside can tell."""
    known = cache.fetched(folder)
    released = folder_check.check_release(folder)
    if released is not None:
        findings, against = released, "its manifest"
    elif known is not None:
        findings, against = folder_check.check(folder, known), f"{known['repo_id']} at {str(known['commit'])[:12]}"
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
    for file in map(FileRef.from_entry, manifest["files"]):
        there = listed.pop(file.path, None)
        if there is None:
            yield Finding(path=file.path, problem="is missing")
        elif there.contradicts(file):
            yield Finding(path=file.path, problem="is not the file that the manifest names")
    for path in listed:
        if variant_of(path) in manifest["variants"]:
            yield Finding(path=path, problem="does not belong to the release")
