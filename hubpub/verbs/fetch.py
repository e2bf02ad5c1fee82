"""fetch: a variant of a repo becomes a folder of files, every one of them checked. Repo + variant → folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hubpub.engine.store import StoredFile
from hubpub.errors import CannotWrite, ConfigError, FetchError, UnsafeArchive
from hubpub.files.unzip import unpack
from hubpub.plan.names import check_repo_id, fetch_folder
from hubpub.release.release import RemoteState
from hubpub.remote import folder_check, offers
from hubpub.remote.cache import Memory
from hubpub.remote.download import bring, writing
from hubpub.remote.offers import Offer, OfferedFile, Selection
from hubpub.remote.signing import Signer, Wanted
from hubpub.verbs.trust import check_covered, signed

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub

# done bytes, total bytes, what is being done
Progress = Callable[[int, int, str], None]

JOBS: Final = 6


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch did, or in a dry run would do.

    `missing` are the files that were not here (of an archive: the archive); `extra` are
    files of the folder that do not belong to the variant; `removed` those that `force` took away.
    """

    repo_id: str
    commit: str | None
    variant: str
    folder: Path
    files: tuple[OfferedFile, ...]
    missing: tuple[OfferedFile, ...]
    extra: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    received: int = 0  # bytes that came over the network
    dry_run: bool = False
    signer: Signer | None = None  # None: not asked for

    def to_json(self) -> dict[str, Any]:
        """The result for programs."""
        return {
            "path": str(self.folder),
            "repo_id": self.repo_id,
            "commit": self.commit,
            "variant": self.variant,
            "files": len(self.files),
            "bytes": sum(file.size for file in self.files),
            "missing": [{"path": file.path, "size": file.size} for file in self.missing],
            "extra": list(self.extra),
            "removed": list(self.removed),
            "received_bytes": self.received,
            "dry_run": self.dry_run,
            "signed_by": asdict(self.signer) if self.signer else None,
        }


def fetch(
    repo_id: str | None = None,
    variant: str = "original/packages",
    *,
    revision: str | None = None,
    dest: str | Path | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    zip: bool = False,
    dry_run: bool = False,
    force: bool = False,
    signed_by: Wanted | None = None,
    jobs: int = JOBS,
    report: Progress | None = None,
) -> Path:
    """Bring a variant of a repo to this machine; the folder that holds its models.

    `repo_id` may be left out where hubpub.toml names one repo. `variant` is
    ATTENTION/FORMAT; with `zip` the archive of the attention is downloaded and unpacked.
    The folder is `dest`, else `models/<repo>_<attention>_<format>`; the models lie directly
    in it. Every file has been checked by size and digest. `force` downloads everything
    again and removes stale files inside models. With `signed_by` the manifest must be
    signed by them (`Wanted()`: by anybody). `report` hears (done bytes, all bytes, label).

    Raises FetchError (NoSuchVariant, DigestMismatch, UnsafeArchive), AccessDenied or NoSpace.
    """
    from hubpub.remote.hub import connect

    with connect(endpoint, token) as hub:
        return run(
            repo_id or _configured(),
            variant,
            hub=hub,
            revision=revision,
            dest=Path(dest) if dest is not None else None,
            archive=zip,
            dry_run=dry_run,
            force=force,
            signed_by=signed_by,
            jobs=jobs,
            progress=report,
        ).folder


def run(
    repo_id: str,
    variant: str = "original/packages",
    *,
    hub: Hub,
    revision: str | None = None,
    dest: Path | None = None,
    archive: bool = False,
    dry_run: bool = False,
    force: bool = False,
    signed_by: Wanted | None = None,
    jobs: int = JOBS,
    memory: Memory | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """As `fetch`, with all that can be said about what was done."""
    memory = memory or Memory()
    state = look_up(check_repo_id(repo_id), hub=hub, revision=revision, memory=memory)
    signer = None
    if signed_by is not None:
        state, signer = signed(state, signed_by, hub=hub, memory=memory)
    selection = offers.select(state, offers.archive_of(variant) if archive else variant)
    if signed_by is not None:
        check_covered(selection)
    how = _How(hub=hub, memory=memory, dry_run=dry_run, force=force, jobs=jobs, progress=progress)
    if selection.offer.format == "zip":
        stem = selection.offer.files[0].path.removesuffix(".zip")
        fetched = _fetch_archive(selection, dest or Path("models", stem), how)
    else:
        fetched = _fetch_files(selection, dest or Path("models", fetch_folder(repo_id, selection.offer.name)), how)
    return replace(fetched, signer=signer)


def variants(repo_id: str, *, hub: Hub, revision: str | None = None, memory: Memory | None = None) -> tuple[Offer, ...]:
    """The variants that a repo offers."""
    return offers.offers(look_up(check_repo_id(repo_id), hub=hub, revision=revision, memory=memory or Memory()))


def look_up(repo_id: str, *, hub: Hub, revision: str | None, memory: Memory) -> RemoteState:
    """What a repo holds at a revision. A full commit that was seen before needs no request; nor does any, offline."""
    remembered, endpoint = memory.remembered, hub.endpoint
    if _is_commit(revision) or hub.offline:
        commit = revision if _is_commit(revision) else remembered.commit(endpoint, repo_id, revision)
        state = remembered.state(endpoint, repo_id, commit) if commit else None
        if state is not None:
            return state
        if hub.offline:
            raise FetchError(
                f"HF_HUB_OFFLINE is set, and {repo_id} at {revision or 'main'} has not been looked up here before.",
                hint="Run once without HF_HUB_OFFLINE.",
            )
    found = hub.state(repo_id, revision, known=lambda commit: remembered.state(endpoint, repo_id, commit))
    assert found is not None
    remembered.keep_state(endpoint, found, revision)
    return found


@dataclass(frozen=True, kw_only=True)
class _How:
    """How one fetch is done."""

    hub: Hub
    memory: Memory
    dry_run: bool
    force: bool
    jobs: int
    progress: Progress | None


def _fetch_files(selection: Selection, folder: Path, how: _How) -> Fetched:
    files = selection.offer.files
    _check_folder(folder)
    with _locked(folder, how):
        missing = (
            files
            if how.force
            else tuple(file for file in files if not folder_check.is_here(folder, file, how.memory.digests))
        )
        extra = folder_check.others(folder, {file.path for file in files})
        fetched = Fetched(
            repo_id=selection.repo_id,
            commit=selection.commit,
            variant=selection.offer.name,
            folder=folder,
            files=files,
            missing=missing,
            extra=extra,
            dry_run=how.dry_run,
        )
        if how.dry_run:
            return fetched
        with writing(folder):
            received = _bring(selection, missing, folder, how)
            removed = folder_check.remove_stale(folder, extra) if how.force else ()
        for file in missing:
            if file.sha256:
                how.memory.digests.remember(folder / file.path, file.sha256)
        _remember(selection, folder, [(file.path, file.size, file.digest) for file in files], how)
    kept = tuple(path for path in extra if path not in removed)
    return replace(fetched, extra=kept, removed=removed, received=received)


def _bring(selection: Selection, missing: Sequence[OfferedFile], folder: Path, how: _How) -> int:
    if not missing:
        return 0
    if how.hub.offline:
        names = ", ".join(file.path for file in missing[:5]) + (" …" if len(missing) > 5 else "")
        raise FetchError(
            f"HF_HUB_OFFLINE is set, and {len(missing)} files of {selection.repo_id} are not here: {names}.",
            hint="Run once without HF_HUB_OFFLINE.",
        )
    return bring(how.hub, selection, missing, folder, jobs=how.jobs, progress=how.progress)


def _fetch_archive(selection: Selection, folder: Path, how: _How) -> Fetched:
    archive = selection.offer.files[0]
    _check_folder(folder)
    with _locked(folder, how):
        known = how.memory.remembered.fetched(folder)
        whole = known is not None and folder_check.is_whole(folder, known, how.memory.digests)
        done = not how.force and known is not None and whole and known.get("archive") == archive.digest
        fetched = Fetched(
            repo_id=selection.repo_id,
            commit=selection.commit,
            variant=selection.offer.name,
            folder=folder,
            files=(archive,),
            missing=() if done else (archive,),
            dry_run=how.dry_run,
        )
        if done or how.dry_run:
            return fetched
        if not whole:
            folder_check.check_replaceable(folder, force=how.force)
        with writing(folder):
            received, files = _unpacked(selection, archive, folder.resolve(), how)
        for file in files:
            how.memory.digests.remember(folder / file.path, file.sha256)
        told = [(file.path, file.size, f"sha256:{file.sha256}") for file in files]
        _remember(selection, folder, told, how, archive=archive.digest)
    return replace(fetched, received=received)


def _unpacked(
    selection: Selection, archive: OfferedFile, folder: Path, how: _How
) -> tuple[int, tuple[StoredFile, ...]]:
    """Make `folder` of an archive in one move; what an earlier run has brought already is used."""
    staging = folder.with_name(f".{folder.name}.partial")
    packed, fresh, replaced = staging / archive.path, staging / "unpacked", staging / "replaced"
    here = not how.force and folder_check.is_here(staging, archive, how.memory.digests)
    received = _bring(selection, () if here else (archive,), staging, how)
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
    try:
        files = unpack(packed, fresh)
    except UnsafeArchive:
        shutil.rmtree(staging)
        raise
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    fresh.rename(folder)
    shutil.rmtree(staging)
    return received, files


def _check_folder(folder: Path) -> None:
    with writing(folder):  # a name may be too long to be asked for
        is_other = folder.exists() and not folder.is_dir()
    if is_other or not folder.resolve().name:
        raise CannotWrite(f"{folder} is no folder to write into.", hint="Choose another folder with --dest.")


def _locked(folder: Path, how: _How) -> AbstractContextManager[Any]:
    return nullcontext() if how.dry_run else how.memory.lock(folder)


def _remember(
    selection: Selection, folder: Path, files: Sequence[tuple[str, int, str]], how: _How, archive: str | None = None
) -> None:
    how.memory.digests.save()
    how.memory.remembered.keep_fetched(
        folder,
        {
            "endpoint": how.hub.endpoint,
            "repo_id": selection.repo_id,
            "commit": selection.commit,
            "variant": selection.offer.name,
            "archive": archive,
            "files": [list(file) for file in files],
        },
    )


def _configured() -> str:
    """The one repo that the config file here names."""
    from hubpub.plan.config import read_file

    listed = [str(model["to"]) for model in read_file(None, Path.cwd()) if model.get("to")]
    if len(listed) == 1:
        return listed[0]
    raise ConfigError("No repo was named.", hint="Name one, or write hubpub.toml with one [[models]] that has `to`.")


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)
