"""Opens a Source: its files can then be listed, read and pinned to a commit.

A folder is read in place. A git repository is cloned into the cache. A Hub repo is listed
first, and only the files that a plan needs are downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, assert_never

from hubpub.checkpoints.safetensors import header_end
from hubpub.checkpoints.weights import Header, parse_header, read_header
from hubpub.errors import SourceNotFound
from hubpub.files.digest import Digest, FileRef
from hubpub.files.digests import Digests
from hubpub.sources.source import Snapshot, Source

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub

Progress = Callable[[int, int, str], None]

# The largest config or card that is read into memory.
_MAX_SMALL: Final = 16 << 20
# Of a weight file, what is asked for first: most headers fit.
_BEGINNING: Final = 1 << 19


class Opened(Protocol):
    """An opened source."""

    source: Source
    commit: str | None

    def paths(self) -> tuple[str, ...]:
        """All files, relative to the source's root."""

    def read(self, path: str) -> bytes | None:
        """A small file's bytes; None if it does not exist. Raises SourceNotFound for files above 16 MiB."""

    def pin(self, paths: Iterable[str]) -> Snapshot:
        """The snapshot of the named files, with size and digest of each."""

    def header(self, path: str, progress: Progress | None = None) -> Header:
        """What a weight file says before its data. Raises BadWeights and UnsafeWeights.

        Of a `.safetensors` file on the Hub only the header comes over the network; any other is downloaded.
        """

    def folder(self, paths: Iterable[str], progress: Progress | None) -> Path:
        """A local folder that contains the named files; downloads them if necessary."""


class FolderSource:
    """A local diffusers folder; `commit` is set if it is a git checkout."""

    def __init__(self, source: Source, digests: Digests, *, root: Path | None = None) -> None:
        self.source = source
        self._root = root or Path(source.location)
        self._digests = digests
        self.commit: str | None = None
        self._dirty, self._remote = False, None
        self._cloned = (self._root / ".git").exists()
        if self._cloned:
            from hubpub.sources.git import describe

            state = describe(self._root)
            self.commit, self._dirty, self._remote = state.commit, state.dirty, state.remote

    def paths(self) -> tuple[str, ...]:
        """All files below the folder except `.git`; of a single file itself alone: what lies beside is not meant."""
        if self.source.file and self.source.kind == "folder":
            return (self.source.file,)
        files = (path for path in self._root.rglob("*") if path.is_file())
        relative = (path.relative_to(self._root) for path in files)
        return tuple(sorted(path.as_posix() for path in relative if path.parts[0] != ".git"))

    def read(self, path: str) -> bytes | None:
        """A small file's bytes, or None."""
        if self.source.file and self.source.kind == "folder":
            return None
        here = self._place(path)
        try:
            _check_small(path, here.stat().st_size)
            return here.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceNotFound(f"{self._root / path} cannot be read: {error.strerror}.") from error

    def pin(self, paths: Iterable[str]) -> Snapshot:
        """The snapshot; digests come from the cache for unchanged files, else from reading the files."""
        files = []
        places = {path: self._place(path) for path in sorted(set(paths))}
        self._digests.read(here for here in places.values() if here.is_file())
        for path, here in places.items():
            try:
                digest = Digest.of_file(here, self._digests)
                files.append(FileRef(path=path, size=here.stat().st_size, digest=digest))
            except OSError as error:
                raise SourceNotFound(f"{here} cannot be read: {error.strerror}.") from error
        self._digests.save()
        return Snapshot(
            source=self.source, commit=self.commit, files=tuple(files), dirty=self._dirty, remote=self._remote
        )

    def header(self, path: str, progress: Progress | None = None) -> Header:
        """What a weight file says before its data."""
        return read_header(self._place(path))

    def folder(self, paths: Iterable[str], progress: Progress | None) -> Path:
        """The folder itself."""
        for path in paths:
            self._place(path)
        return self._root

    def _place(self, path: str) -> Path:
        """A file's path. Refuses links that leave a checkout: they could publish private files of this machine."""
        here = self._root / path
        if self._cloned and not here.resolve().is_relative_to(self._root.resolve()):
            raise SourceNotFound(
                f"{path} of {self.source.name} is a link that leaves the checkout.", hint="Replace it with the file."
            )
        return here


class HubSource:
    """A repo of the Hub at one commit."""

    def __init__(self, source: Source, hub: Hub, digests: Digests) -> None:
        self.source = source
        self._hub = hub
        self._digests = digests
        self._snapshot = hub.snapshot(source)
        self.commit = self._snapshot.commit

    def paths(self) -> tuple[str, ...]:
        """All files of the commit."""
        return tuple(file.path for file in self._snapshot.files)

    def read(self, path: str) -> bytes | None:
        """A small file, through the client's cache."""
        listed = self._snapshot.file(path)
        if listed is None:
            return None
        _check_small(path, listed.size)
        return (self.folder([path], None) / path).read_bytes()

    def pin(self, paths: Iterable[str]) -> Snapshot:
        """The snapshot, with the digests of the Hub's listing; downloads nothing."""
        names = set(paths)
        files = tuple(file for file in self._snapshot.files if file.path in names)
        return Snapshot(source=self.source, commit=self.commit, files=files)

    def header(self, path: str, progress: Progress | None = None) -> Header:
        """What a weight file says before its data, in two small requests where it is a safetensors file."""
        listed = self._snapshot.file(path)
        if listed is None or not path.endswith(".safetensors"):
            return read_header(self.folder([path], progress) / path)
        start = self._hub.peek(self.source.location, self.commit, path, length=_BEGINNING, side="source")
        end = header_end(start, Path(path))
        if end > len(start):
            start = self._hub.peek(self.source.location, self.commit, path, length=end, side="source")
        return parse_header(start, listed.size, path)

    def folder(self, paths: Iterable[str], progress: Progress | None) -> Path:
        """The files in the client's cache."""
        return self._hub.download_source(self._snapshot, sorted(set(paths)), digests=self._digests, progress=progress)


def _check_small(path: str, size: int) -> None:
    if size > _MAX_SMALL:
        raise SourceNotFound(f"The source's {path} has {size} bytes, too many for a config or card.")


def open_source(source: Source, *, digests: Digests, clones: Path, hub: Callable[[], Hub]) -> Opened:
    """Open a source. `clones` is the folder for git clones; `hub()` connects to the Hub (for Hub sources only)."""
    match source.kind:
        case "folder":
            return FolderSource(source, digests)
        case "git":
            from hubpub.sources.git import clone

            return FolderSource(source, digests, root=clone(source, clones))
        case "hub":
            return HubSource(source, hub(), digests)
        case _:
            assert_never(source.kind)
