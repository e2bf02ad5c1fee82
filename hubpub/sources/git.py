"""Git repositories as sources, and the state of a checkout. The only module that imports GitPython."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import git

from hubpub.errors import AccessDenied, SourceNotFound
from hubpub.sources.source import Source


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """The state of a working tree: commit, uncommitted changes, and the remote that it was cloned from."""

    commit: str | None
    dirty: bool
    remote: str | None


def describe(folder: Path) -> Checkout:
    """The state of the working tree `folder`; commit is None before the first one. Raises SourceNotFound."""
    try:
        with git.Repo(folder) as repo:
            remote = next((remote.url for remote in repo.remotes if remote.name == "origin"), None)
            commit = repo.head.commit.hexsha if repo.head.is_valid() else None
            return Checkout(commit=commit, dirty=repo.is_dirty(untracked_files=True), remote=_public_remote(remote))
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, git.GitCommandError, ValueError) as error:
        raise SourceNotFound(f"{folder} looks like a git checkout, but git cannot read it.") from error


def working_repo(folder: Path) -> Checkout | None:
    """The state of the checkout that contains `folder`; None if there is none that git can read."""
    try:
        with git.Repo(folder, search_parent_directories=True) as repo:
            root = repo.working_tree_dir
    except (git.InvalidGitRepositoryError, git.NoSuchPathError):
        return None
    try:
        return describe(Path(root)) if root else None
    except SourceNotFound:
        return None


def clone(source: Source, cache: Path) -> Path:
    """Clone a git source at its revision (default: the remote's head); returns the working tree.

    There is one clone per URL in `cache`; later calls fetch into it. Raises SourceNotFound or AccessDenied.
    """
    folder = cache / hashlib.sha256(source.location.encode()).hexdigest()[:16]
    try:
        if (folder / ".git").is_dir():
            repo = git.Repo(folder)
            repo.remotes.origin.fetch(tags=True, prune=True)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            repo = git.Repo.clone_from(source.location, folder, no_checkout=True, allow_unsafe_protocols=False)
        with repo:
            commit = _commit(repo, source)
            repo.git.checkout("--force", "--detach", commit)
            _pull_large_files(repo)
    except git.GitCommandError as error:
        raise _translated(error, source) from None
    return folder


def _commit(repo: git.Repo, source: Source) -> str:
    names = [source.revision, f"origin/{source.revision}"] if source.revision else ["origin/HEAD", "HEAD"]
    for name in names:
        try:
            return repo.commit(name).hexsha
        except (git.BadName, ValueError, IndexError):
            continue
    raise SourceNotFound(
        f"{_public(source.location)} has no revision {source.revision or 'HEAD'!r}.",
        hint="A revision is a branch, a tag or a commit.",
    )


def _pull_large_files(repo: git.Repo) -> None:
    """Replace LFS pointers with their files if git-lfs is installed; remaining pointers are refused when read."""
    attributes = Path(repo.working_dir) / ".gitattributes"
    if attributes.is_file() and "filter=lfs" in attributes.read_text(encoding="utf-8", errors="replace"):
        try:
            repo.git.lfs("pull")
        except git.GitCommandError as error:
            if "not a git command" not in str(error):
                raise


def _translated(error: git.GitCommandError, source: Source) -> SourceNotFound | AccessDenied:
    text = str(error.stderr).lower()
    url = _public(source.location)
    if "authentication" in text or "permission denied" in text or "could not read username" in text:
        return AccessDenied(f"git has no access to {url}.", hint="Check your credentials for it, or use a public URL.")
    return SourceNotFound(f"git cannot clone {url}.", hint="Check the URL with `git ls-remote`.")


def _public_remote(remote: str | None) -> str | None:
    """A remote's URL for the manifest, without credentials; None for a local path."""
    if remote is None or remote.startswith("file:") or Path(remote).exists():
        return None
    return _public(remote) if ":" in remote else None  # also git@host:path


def _public(url: str) -> str:
    """A URL without user and password."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}" if parts.port else host))
