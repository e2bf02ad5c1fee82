"""A folder as a destination: the same tree that a repo would hold."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from hubpub.errors import ConfigError, Conflict, HubpubError, PreflightError
from hubpub.files.copies import clone
from hubpub.files.digest import Digest, FileRef
from hubpub.files.digests import Digests
from hubpub.files.disk import check_space, check_writable, writing
from hubpub.files.paths import check_relative
from hubpub.plan.names import CARD, MANIFEST
from hubpub.release.release import MAX_MANIFEST_BYTES, Operation, Release, RemoteState, parse_manifest
from hubpub.remote.destinations import Means, Progress, Receipt, changes, planned_bytes, tally
from hubpub.remote.download import PARTIAL


def destination(address: str, means: Means) -> FolderDestination:
    """The folder at a path."""
    return FolderDestination(Path(address), digests=means.digests)


def check(address: str) -> None:
    """ConfigError where it names no folder."""
    if not Path(address).name:
        raise ConfigError(f"file://{address} names no folder.", hint="Give one: file:///srv/models/coreml-my-model.")


class FolderDestination:
    """A folder on this machine. Files of others stay, what is unchanged is not touched, links are not followed."""

    def __init__(self, folder: Path, *, repo_id: str = "", digests: Digests | None = None) -> None:
        self._folder = folder
        self._repo_id = repo_id or folder.name
        self._digests = digests

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self._folder)

    def preflight(self, release: Release) -> list[HubpubError]:
        """Whether the folder can be written, and has the space."""
        total = sum(file.size for file in release.artifacts)
        problems: list[HubpubError] = []
        for check in (check_writable, partial(check_space, wanted=total, what="The release")):
            try:
                check(self._folder)
            except PreflightError as error:
                problems.append(error)
        return problems

    def current(self) -> RemoteState:
        """The folder's files with their digests, and its manifest."""
        files = tuple(self._files())
        if self._digests is not None:
            self._digests.save()
        manifest = None
        if any(file.path == MANIFEST and file.size <= MAX_MANIFEST_BYTES for file in files):
            manifest = parse_manifest((self._folder / MANIFEST).read_bytes())
        return RemoteState(repo_id=self._repo_id, commit=None, files=files, manifest=manifest)

    def deliver(
        self,
        release: Release,
        operations: Sequence[Operation],
        *,
        base: RemoteState,
        progress: Progress | None = None,
    ) -> Receipt:
        """Write what changed beside its place, then move it there: models first, the manifest last.

        Raises CannotWrite, NoSpace, or Conflict where something else stands in the way.
        """
        del base  # a folder has one writer
        todo = sorted(changes(operations), key=lambda operation: _order(operation.path))
        total = sum(operation.size for operation in todo if operation.artifact is not None)
        with writing(self._folder, kept="The release that was there is kept.", left=lambda: total):
            self._check(todo, total)
            with _fresh(self._folder / PARTIAL, wanted=bool(todo)) as staging:
                staged = self._stage(todo, staging, total, progress)
                for operation in todo:
                    self._carry_out(operation, staged)
        return Receipt(
            repo_id=release.repo_id,
            url=self.url,
            commit=None,
            operations=tally(operations),
            planned_bytes=planned_bytes(operations),
            sent_bytes=total,
            nothing_to_do=not todo,
        )

    def _files(self) -> Iterator[FileRef]:
        for parent, folders, names in os.walk(self._folder, followlinks=False):
            folders[:] = sorted(set(folders) - {PARTIAL})
            for name in sorted(names):
                path = Path(parent, name)
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    relative = path.relative_to(self._folder).as_posix()
                    yield FileRef(path=relative, size=status.st_size, digest=Digest.of_file(path, self._digests))

    def _check(self, todo: Sequence[Operation], total: int) -> None:
        """Checks that need no write."""
        self._folder.mkdir(parents=True, exist_ok=True)
        check_space(self._folder, total, what="The release")
        for operation in todo:
            target = self._target(operation)
            if target.is_dir() and not target.is_symlink():
                raise Conflict(f"{target} is a folder, and the release has a file there.", hint="Move it away.")
            for parent in target.relative_to(self._folder).parents:
                standing = self._folder / parent
                if standing != self._folder and (
                    standing.is_symlink() or (standing.exists() and not standing.is_dir())
                ):
                    raise Conflict(
                        f"{standing} is no plain folder, and the release has files in it.", hint="Move it away."
                    )

    def _stage(
        self, todo: Sequence[Operation], staging: Path, total: int, progress: Progress | None
    ) -> Mapping[str, Path]:
        """Copies of all new files, by their paths in the release."""
        staged: dict[str, Path] = {}
        done = 0
        for operation in todo:
            if operation.artifact is None:
                continue
            copy = staged[operation.path] = staging / str(len(staged))
            clone(operation.artifact.source, copy)
            copy.chmod(0o644)
            done += operation.size
            if progress is not None:
                progress(done, total, f"writing {self._folder}")
        return staged

    def _carry_out(self, operation: Operation, staged: Mapping[str, Path]) -> None:
        target = self._target(operation)
        if operation.artifact is None:
            target.unlink(missing_ok=True)
            _remove_empty(target.parent, self._folder)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        staged[operation.path].replace(target)

    def _target(self, operation: Operation) -> Path:
        return self._folder / check_relative(operation.path)


@contextmanager
def _fresh(folder: Path, *, wanted: bool) -> Iterator[Path]:
    """An empty folder for the length of the block, if it is wanted; what a killed run has left there goes away."""
    shutil.rmtree(folder, ignore_errors=True)
    if wanted:
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _order(path: str) -> tuple[int, str]:
    """Models, then the card, then the manifest, which says that all is there."""
    return ((CARD, MANIFEST).index(path) + 1 if path in (CARD, MANIFEST) else 0, path)


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top:
        try:
            folder.rmdir()
        except OSError:  # not empty
            return
        folder = folder.parent
