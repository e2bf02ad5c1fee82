"""fetch: a variant of a repo becomes a folder of files, every one of them checked. Repo + variant → folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hubpub.errors import CannotWrite, FetchError, UnsafeArchive
from hubpub.files.digest import FileRef
from hubpub.files.disk import writing
from hubpub.files.repo_ids import check_repo_id
from hubpub.files.unzip import unpack
from hubpub.plan.config import Fetch
from hubpub.plan.names import fetch_folder
from hubpub.remote import folder_check, offers
from hubpub.remote.cache import FetchCache, look_up
from hubpub.remote.download import bring
from hubpub.remote.offers import Offer, OfferedFile, Selection
from hubpub.remote.signing import Signer, Wanted, demanded
from hubpub.verbs.session import Session, using
from hubpub.verbs.settings import configured
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
    usage: str | None = None  # lines that load it, for whoever reads along

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
    app_config: str | Path | None = None,
    jobs: int = JOBS,
    report: Progress | None = None,
    session: Session | None = None,
) -> Path:
    """Bring a variant of a repo to this machine; the folder that holds its models.

    `repo_id` may be left out where hubpub.toml names one repo. `variant` is
    ATTENTION/FORMAT; with `zip` the archive of the attention is downloaded and unpacked.
    The folder is `dest`, else `models/<repo>_<attention>_<format>`; the models lie directly
    in it. Every file has been checked by size and digest. `force` downloads everything
    again and removes stale files inside models. With `signed_by` the manifest must be
    signed by them (`Wanted()`: by anybody). `app_config` names a JSON file to write, with what
    an app needs to download the archive itself. `report` is called with (done bytes, all bytes, label).

    Raises FetchError (NoSuchVariant, DigestMismatch, UnsafeArchive), AccessDenied or NoSpace.
    """
    with using(session, endpoint=endpoint, token=token) as opened:
        return fetch_as(
            Fetch.model_validate(
                {"variant": variant, "revision": revision, "dest": None if dest is None else str(dest), "zip": zip}
            ),
            repo_id=repo_id or configured(),
            dry_run=dry_run,
            force=force,
            signed_by=signed_by,
            app_config=Path(app_config) if app_config is not None else None,
            jobs=jobs,
            progress=report,
            session=opened,
        ).folder


def fetch_as(
    wanted: Fetch,
    *,
    repo_id: str,
    dry_run: bool = False,
    force: bool = False,
    signed_by: Wanted | None = None,
    app_config: Path | None = None,
    usage: bool = False,
    jobs: int = JOBS,
    progress: Progress | None = None,
    session: Session,
) -> Fetched:
    """As `fetch`, with all that can be reported; `wanted` may name who must have signed, too."""
    from hubpub.verbs import app

    fetched = run(
        repo_id,
        wanted.variant,
        hub=session.hub,
        cache=session.cache,
        revision=wanted.revision,
        dest=Path(wanted.dest) if wanted.dest is not None else None,
        archive=wanted.zip,
        dry_run=dry_run,
        force=force,
        signed_by=signed_by or demanded(wanted.verify_signature, wanted.identity, wanted.issuer),
        jobs=jobs,
        progress=progress or session.report.transfer,
    )
    if app_config is not None:
        app.write_config(fetched, app_config, hub=session.hub, cache=session.cache)
    if usage and not dry_run:
        return replace(fetched, usage=app.lines(fetched, hub=session.hub, cache=session.cache))
    return fetched


def variants(
    repo_id: str | None = None,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> tuple[Offer, ...]:
    """The variants that a repo offers; by default the repo that hubpub.toml names."""
    repo_id = check_repo_id(repo_id or configured())
    with using(session, endpoint=endpoint, token=token) as opened:
        return offers.offers(look_up(repo_id, hub=opened.hub, revision=revision, cache=opened.cache))


def run(
    repo_id: str,
    variant: str = "original/packages",
    *,
    hub: Hub,
    cache: FetchCache,
    revision: str | None = None,
    dest: Path | None = None,
    archive: bool = False,
    dry_run: bool = False,
    force: bool = False,
    signed_by: Wanted | None = None,
    jobs: int = JOBS,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch from `hub`, with what `cache` keeps of earlier runs."""
    state = look_up(check_repo_id(repo_id), hub=hub, revision=revision, cache=cache)
    signer = None
    if signed_by is not None:
        state, signer = signed(state, signed_by, hub=hub, cache=cache)
    selection = offers.select(state, offers.archive_of(variant) if archive else variant)
    if signed_by is not None:
        check_covered(selection)
    how = _How(hub=hub, cache=cache, dry_run=dry_run, force=force, jobs=jobs, progress=progress)
    if selection.offer.format == "zip":
        stem = selection.offer.files[0].path.removesuffix(".zip")
        fetched = _fetch_archive(selection, dest or Path("models", stem), how)
    else:
        fetched = _fetch_files(selection, dest or Path("models", fetch_folder(repo_id, selection.offer.name)), how)
    return replace(fetched, signer=signer)


@dataclass(frozen=True, kw_only=True)
class _How:
    """How one fetch is done."""

    hub: Hub
    cache: FetchCache
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
            else tuple(file for file in files if not file.is_at(folder / file.path, how.cache.digests))
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
                how.cache.digests.remember(folder / file.path, file.sha256)
        _remember(selection, folder, files, how)
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
        known = how.cache.fetched(folder)
        whole = known is not None and folder_check.is_whole(folder, known, how.cache.digests)
        done = not how.force and known is not None and whole and known.get("archive") == str(archive.digest)
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
            how.cache.digests.remember(folder / file.path, file.digest.value)
        _remember(selection, folder, files, how, archive=str(archive.digest))
    return replace(fetched, received=received)


def _unpacked(selection: Selection, archive: OfferedFile, folder: Path, how: _How) -> tuple[int, tuple[FileRef, ...]]:
    """Make `folder` of an archive in one move; what an earlier run has brought already is used."""
    staging = folder.with_name(f".{folder.name}.partial")
    packed, fresh, replaced = staging / archive.path, staging / "unpacked", staging / "replaced"
    here = not how.force and archive.is_at(staging / archive.path, how.cache.digests)
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
    return nullcontext() if how.dry_run else how.cache.lock(folder)


def _remember(
    selection: Selection, folder: Path, files: Sequence[FileRef], how: _How, archive: str | None = None
) -> None:
    how.cache.digests.save()
    how.cache.keep_fetched(
        folder,
        {
            "endpoint": how.hub.endpoint,
            "repo_id": selection.repo_id,
            "commit": selection.commit,
            "variant": selection.offer.name,
            "archive": archive,
            "files": [[file.path, file.size, str(file.digest)] for file in files],
        },
    )
