"""Source: the origin of weights. Snapshot: a source pinned to a commit, with its files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hubpub.errors import ConfigError
from hubpub.files.digest import FileRef
from hubpub.files.repo_ids import REPO_ID, check_repo_id

_GIT = re.compile(r"git\+(?P<url>.+?)(?:@(?P<revision>[^@/:]+))?")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder, a Hub repo or a git repository, as named by the user.

    `name` is the ORG/NAME in file names and in the card. `location` is the folder's path, the
    repo id or the git URL.
    """

    kind: Literal["folder", "hub", "git"]
    location: str
    name: str
    revision: str | None = None


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
    """Parse a source argument: `hf:REPO[@REVISION]`, `git+URL[@REVISION]`, an existing folder, or else a Hub repo id.

    `revision` wins over one in the text. Raises ConfigError for anything else, and for a folder with a revision.
    """
    if name is not None:
        check_repo_id(name)
    if text.startswith("hf:"):
        return _of_hub(text.removeprefix("hf:"), name=name, revision=revision)
    if text.startswith("git+"):
        return _parse_git(text, name=name, revision=revision)
    path = Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(
                f"{text} is a folder; --revision chooses a commit of a Hub repo.",
                hint=f"To mean the repo, write hf:{text}." if REPO_ID.fullmatch(text) else "Leave --revision out.",
            )
        folder = path.resolve()
        return Source(kind="folder", location=str(folder), name=name or f"local/{_slug(folder.name)}")
    if not REPO_ID.fullmatch(text.partition("@")[0]):
        raise ConfigError(
            f"{text!r} is neither an existing folder nor a repo id.",
            hint="A source is a diffusers folder, a Hub repo id (ORG/NAME or ORG/NAME@REVISION) or git+URL.",
        )
    return _of_hub(text, name=name, revision=revision)


def _of_hub(text: str, *, name: str | None, revision: str | None) -> Source:
    """ORG/NAME, or ORG/NAME@REVISION."""
    repo_id, _, own = text.partition("@")
    check_repo_id(repo_id)
    return Source(kind="hub", location=repo_id, name=name or repo_id, revision=revision or own or None)


def _parse_git(text: str, *, name: str | None, revision: str | None) -> Source:
    match = _GIT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a git source.", hint="Write git+URL or git+URL@REVISION.")
    url = match["url"]
    if url.startswith("-") or not re.match(r"(https?|ssh|file)://|[\w.-]+@[\w.-]+:|/|\./", url):
        raise ConfigError(f"{url!r} is not a git URL.", hint="Use https://, ssh://, file:// or a path.")
    stem = _slug(re.split(r"[/:]", url.rstrip("/").removesuffix(".git"))[-1])
    return Source(kind="git", location=url, name=name or f"local/{stem}", revision=revision or match["revision"])


def _slug(text: str) -> str:
    """A folder's name as the second half of a repo id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
