"""Source: the origin of weights. Snapshot: a source pinned to a commit, with its files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubpub.errors import ConfigError
from hubpub.files.digest import FileRef
from hubpub.files.paths import is_relative
from hubpub.files.repo_ids import REPO_ID, check_repo_id

_GIT = re.compile(r"git\+(?P<url>[^#]+?)(?:@(?P<revision>[^@/:#]+))?(?:#(?P<file>.+))?")
# Single files: all networks of a model in one, a VAE, a LoRA.
WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder, a Hub repo or a git repository, or a single weight file in one of them, as named by the user.

    `name` is the ORG/NAME in file names and in the card. `location` is the folder's path, the
    repo id or the git URL; `file` is the path of a single file in it ("": all of it is meant).
    """

    kind: Literal["folder", "hub", "git"]
    location: str
    name: str
    revision: str | None = None
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A pinned source: its commit, and every file with size and digest.

    `commit` is None for a plain folder. `dirty`: the checkout has uncommitted changes.
    `remote`: the URL that it was cloned from.
    """

    source: Source
    commit: str | None
    files: tuple[FileRef, ...]
    dirty: bool = False
    remote: str | None = None

    def file(self, path: str) -> FileRef | None:
        """The file at `path`, if the snapshot has it."""
        return next((file for file in self.files if file.path == path), None)

    def under(self, folder: str) -> Iterator[FileRef]:
        """The files directly in `folder`."""
        for file in self.files:
            if file.path.rpartition("/")[0] == folder:
                yield file


def parse(text: str, *, name: str | None = None, revision: str | None = None) -> Source:
    """Parse a source argument.

    `hf:REPO[/FILE][@REVISION]`, `git+URL[@REVISION][#FILE]`, an existing folder or weight file, or else a Hub repo id.
    `revision` wins over one in the text. Raises ConfigError for anything else, and for a path with a revision.
    """
    if name is not None:
        check_repo_id(name)
    if text.startswith("hf:"):
        return _of_hub(text.removeprefix("hf:"), name=name, revision=revision)
    if text.startswith("git+"):
        return _parse_git(text, name=name, revision=revision)
    path = Path(text).expanduser()
    if path.is_dir() or path.is_file():
        what = "folder" if path.is_dir() else "file"
        if revision is not None:
            raise ConfigError(
                f"{text} is a {what}; --revision chooses a commit of a Hub repo.",
                hint=f"To mean the repo, write hf:{text}." if REPO_ID.fullmatch(text) else "Leave --revision out.",
            )
        return _of_path(path.resolve(), name=name)
    if not REPO_ID.fullmatch(text.partition("@")[0]):
        what = "file" if path.suffix in WEIGHT_FILES else "folder"
        raise ConfigError(
            f"{text!r} is neither an existing {what} nor a repo id.",
            hint="A source is a diffusers folder, a weight file, a Hub repo id (ORG/NAME or ORG/NAME@REVISION), "
            "hf:ORG/NAME/FILE or git+URL.",
        )
    return _of_hub(text, name=name, revision=revision)


def _of_path(path: Path, *, name: str | None) -> Source:
    if path.is_dir():
        return Source(kind="folder", location=str(path), name=name or f"local/{_slug(path.name)}")
    if path.suffix not in WEIGHT_FILES:
        raise _no_weight_file(path.name)
    stem = _slug(path.stem)
    return Source(kind="folder", location=str(path.parent), name=name or f"local/{stem}", file=path.name)


def _of_hub(text: str, *, name: str | None, revision: str | None) -> Source:
    """ORG/NAME, ORG/NAME@REVISION, or either with /FILE after NAME."""
    address, _, own = text.partition("@")
    owner, _, rest = address.partition("/")
    repo, _, file = rest.partition("/")
    repo_id = f"{owner}/{repo}" if repo else owner
    check_repo_id(repo_id)
    if file:
        _check_weight_file(file)
        name = name or f"{owner}/{_slug(Path(file).stem)}"
    return Source(kind="hub", location=repo_id, name=name or repo_id, revision=revision or own or None, file=file)


def _parse_git(text: str, *, name: str | None, revision: str | None) -> Source:
    match = _GIT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a git source.", hint="Write git+URL, git+URL@REVISION or git+URL#FILE.")
    url, file = match["url"], match["file"] or ""
    if url.startswith("-") or not re.match(r"(https?|ssh|file)://|[\w.-]+@[\w.-]+:|/|\./", url):
        raise ConfigError(f"{url!r} is not a git URL.", hint="Use https://, ssh://, file:// or a path.")
    if file:
        _check_weight_file(file)
    stem = _slug(Path(file).stem if file else re.split(r"[/:]", url.rstrip("/").removesuffix(".git"))[-1])
    return Source(
        kind="git", location=url, name=name or f"local/{stem}", revision=revision or match["revision"], file=file
    )


def _check_weight_file(name: str) -> None:
    if not is_relative(name):
        raise ConfigError(f"{name!r} is no path in a repo.", hint="Write it as the repo lists it: folder/file.")
    if Path(name).suffix not in WEIGHT_FILES:
        raise _no_weight_file(name)


def _no_weight_file(name: str) -> ConfigError:
    return ConfigError(
        f"{name} is no weight file that hubpub reads.",
        hint=f"A single file ends in {', '.join(WEIGHT_FILES[:-1])} or {WEIGHT_FILES[-1]}.",
    )


def _slug(text: str) -> str:
    """A folder's name as the second half of a repo id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
