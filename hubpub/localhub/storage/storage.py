"""The embedded Hub's data folder: repos, contents, tokens. Works without a server; several processes can share it."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hubpub.errors import ConfigError, SourceNotFound, StoreError
from hubpub.files.disk import writing
from hubpub.localhub.refused import Refused, bad_request, repo_not_found
from hubpub.localhub.storage import atomic, attributes
from hubpub.localhub.storage.changes import ATTRIBUTES, Put, check_path
from hubpub.localhub.storage.git import Commit, stamp
from hubpub.localhub.storage.objects import Objects, Usage
from hubpub.localhub.storage.repository import Repository

RepoType = Literal["model", "dataset", "space"]
REPO_TYPES: tuple[RepoType, ...] = ("model", "dataset", "space")
SYSTEM = "system"
_FORMAT = 1
_LEFT_OVER = 24 * 3600  # seconds after which a temporary file is no longer in use
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


class Storage:
    """Opens or creates a data folder. Raises CannotWrite, or StoreError for another version's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        with writing(root, hint="Name another folder with HUBPUB_HUB."):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            about = {"format": _FORMAT, "id": secrets.token_hex(16)}
            atomic.write_once(self.root / "hub.json", json.dumps(about).encode(), mode=0o600)
            self.about = atomic.read_json(self.root / "hub.json")
            self.token = self._secret("token", prefix="hf_local_")
            self.read_token = self._secret("read-token", prefix="hf_local_read_")
            self.key = self._secret("key", prefix="").encode()
        if self.about.get("format") != _FORMAT:
            raise StoreError(
                f"{root} was written by another version of the embedded Hub.",
                hint="Name another folder with HUBPUB_HUB.",
            )
        self.objects = Objects(self.root)
        self.objects.sweep(older_than=_LEFT_OVER)

    @property
    def id(self) -> str:
        """A random id, created once per data folder; it separates clients' caches of different Hubs."""
        return str(self.about["id"])

    def repo(self, repo_id: str, *, repo_type: str = "model") -> Repository:
        """An existing repo; 404 as on the Hub if there is none."""
        folder = self._folder(repo_id, repo_type)
        if not (folder / "refs.json").is_file():
            raise repo_not_found()
        return self._open(folder, repo_id, repo_type)

    def repos(self, *, repo_type: str = "model") -> Iterator[Repository]:
        """All repos of a type, by name."""
        for path in sorted((self.root / "repos" / f"{repo_type}s").glob("*/*/refs.json")):
            yield self._open(path.parent, f"{path.parent.parent.name}/{path.parent.name}", repo_type)

    def create(
        self, repo_id: str, *, repo_type: str = "model", private: bool = False, gated: bool | str = False
    ) -> Repository:
        """Create a repo with a first commit, as the Hub does; 409 if it exists."""
        folder = self._folder(repo_id, repo_type)
        temporary = self.objects.scratch / f"repo-{secrets.token_hex(8)}"
        temporary.mkdir(parents=True)
        try:
            repo = self._open(temporary, repo_id, repo_type)
            settings: dict[str, Any] = {"private": private, "gated": "auto" if gated is True else gated, "granted": []}
            atomic.write_json(temporary / "settings.json", {**settings, "created": stamp(datetime.now(UTC))})
            first = self.objects.add_blob(attributes.DEFAULT.encode())
            repo.first_commit({ATTRIBUTES: first}, title="initial commit", author=SYSTEM)
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.rename(folder)  # fails if the folder exists and is not empty
            except OSError as error:
                if (folder / "refs.json").is_file():
                    raise Refused(
                        409, "You already created this model repo" if repo_type == "model" else "Repo exists"
                    ) from None
                raise error
            atomic.sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self._open(folder, repo_id, repo_type)

    def delete(self, repo_id: str, *, repo_type: str = "model") -> None:
        """Delete a repo; its contents stay, because other repos may share them."""
        repo = self.repo(repo_id, repo_type=repo_type)
        trash = self.objects.scratch / f"gone-{secrets.token_hex(8)}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        repo.folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def import_folder(
        self,
        repo_id: str,
        folder: Path,
        *,
        repo_type: str = "model",
        private: bool = False,
        gated: bool | str = False,
        message: str = "Import a folder",
    ) -> Commit:
        """Commit a local folder's files to `repo_id` (created if missing), without requests; skips links."""
        if not folder.is_dir():
            raise SourceNotFound(f"{folder} is not a folder.", hint="Name the folder whose files the repo should hold.")
        try:
            repo = self.repo(repo_id, repo_type=repo_type)
            repo.change_settings(private=private, gated="auto" if gated is True else gated)
        except Refused as error:
            if error.status != 404:
                raise ConfigError(f"{error.message}.", hint="A repo is called NAMESPACE/NAME.") from None
            repo = self.create(repo_id, repo_type=repo_type, private=private, gated=gated)
        gitattributes = repo.text(repo.tree(repo.find("main")), ATTRIBUTES)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        steps = list(
            atomic.in_parallel(lambda path: self._put(path, path.relative_to(folder).as_posix(), gitattributes), files)
        )
        return repo.add_commit("heads/main", steps, title=message, author=repo_id.partition("/")[0])

    def usage(self) -> Usage:
        """Bytes of content on disk, by upload protocol."""
        return self.objects.usage()

    def _put(self, source: Path, path: str, gitattributes: str) -> Put:
        size = source.stat().st_size
        with source.open("rb") as file:
            sample = file.read(512)
        large = attributes.is_large(path, size=size, sample=sample, attributes=gitattributes)
        entry = self.objects.copy_in(source) if large else self.objects.add_blob(source.read_bytes())
        return Put(path=check_path(path), entry=entry)

    def _open(self, folder: Path, repo_id: str, repo_type: str) -> Repository:
        return Repository(folder=folder, repo_type=repo_type, repo_id=repo_id, objects=self.objects)

    def _folder(self, repo_id: str, repo_type: str) -> Path:
        check_repo_id(repo_id)
        if repo_type not in REPO_TYPES:
            raise bad_request(f"No such type of repo: {repo_type}")
        return self.root / "repos" / f"{repo_type}s" / repo_id

    def _secret(self, name: str, *, prefix: str) -> str:
        secret = f"{prefix}{secrets.token_urlsafe(32)}"
        return atomic.write_once(self.root / name, secret.encode(), mode=0o600).decode().strip()


def check_repo_id(repo_id: str) -> None:
    """Refuse a repo id that the Hub does not allow: NAMESPACE/NAME without '..', '--' or '.git' at the end."""
    parts = repo_id.split("/")
    bad = any(not _NAME.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git") for part in parts)
    if len(parts) != 2 or bad:
        raise bad_request(f"Not a valid repo name: {repo_id}")
