"""What fetch keeps across runs: lists of files, where branches stood, what folders hold, digests, locks.

<root>/repos/<endpoint and repo>/<commit>.json    a commit never changes: its list of files and its manifest
<root>/repos/<endpoint and repo>/refs.json        revision → commit, as last seen; used when the Hub may not be asked
<root>/repos/<endpoint and repo>/<commit>.signed.json   its manifest and the signature of it, both as they are there
<root>/fetched/<folder>.json                      which variant a folder holds, and its files
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock

from hubpub.errors import FetchError
from hubpub.files.digest import FileRef
from hubpub.files.digests import Digests
from hubpub.files.disk import writing
from hubpub.release.release import RemoteState

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub


class FetchCache:
    """Small files under one root (HUBPUB_CACHE). Skips what it cannot read, and what it cannot write."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with writing(root, hint="Set HUBPUB_CACHE to a folder that can be written."):
            (root / "locks").mkdir(parents=True, exist_ok=True)
        self.digests = Digests(root / "digests.json")

    def lock(self, folder: Path) -> FileLock:
        """Held while a folder is written; a second process waits and then finds it done."""
        return FileLock(self._root / "locks" / f"fetch-{_name(str(folder.resolve()))}.lock")

    def commit(self, endpoint: str, repo_id: str, revision: str | None) -> str | None:
        """Where a branch or tag stood when it was last seen."""
        refs = _read(self._repo(endpoint, repo_id) / "refs.json") or {}
        commit = refs.get(revision or "main")
        return commit if isinstance(commit, str) else None

    def state(self, endpoint: str, repo_id: str, commit: str) -> RemoteState | None:
        """What a repo holds at a commit."""
        data = _read(self._repo(endpoint, repo_id) / f"{_name(commit)}.json")
        with suppress(OSError):
            os.utime(self._repo(endpoint, repo_id))  # for `prune`
        try:
            return (
                RemoteState(**{**data, "files": tuple(FileRef.from_json(file) for file in data["files"])})
                if data
                else None
            )
        except (KeyError, TypeError, ValueError):  # of another version
            return None

    def keep_state(self, endpoint: str, state: RemoteState, revision: str | None) -> None:
        """Remember a state, and that `revision` names its commit."""
        if state.commit is None:
            return
        folder = self._repo(endpoint, state.repo_id)
        path = folder / f"{_name(state.commit)}.json"
        if not path.exists():
            _write(path, {**vars(state), "files": [file.to_json() for file in state.files]})
        refs = _read(folder / "refs.json") or {}
        if refs.get(revision or "main") != state.commit:
            _write(folder / "refs.json", {**refs, revision or "main": state.commit})

    def signed(self, endpoint: str, repo_id: str, commit: str) -> tuple[bytes, bytes] | None:
        """The manifest of a commit and its signature."""
        data = _read(self._repo(endpoint, repo_id) / f"{_name(commit)}.signed.json") or {}
        manifest, signature = data.get("manifest"), data.get("signature")
        if not isinstance(manifest, str) or not isinstance(signature, str):
            return None
        return manifest.encode("utf-8", "surrogateescape"), signature.encode("utf-8", "surrogateescape")

    def keep_signed(self, endpoint: str, repo_id: str, commit: str, manifest: bytes, signature: bytes) -> None:
        """Remember a manifest whose signature is good, so that both can be checked again without the Hub."""
        texts = (data.decode("utf-8", "surrogateescape") for data in (manifest, signature))
        facts = dict(zip(("manifest", "signature"), texts, strict=True))
        path = self._repo(endpoint, repo_id) / f"{_name(commit)}.signed.json"
        if _read(path) != facts:
            _write(path, facts)

    def fetched(self, folder: Path) -> Mapping[str, Any] | None:
        """The facts that `keep_fetched` stored about a folder."""
        return _read(self._folder(folder))

    def keep_fetched(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Remember which variant a folder holds."""
        entry = {**facts, "folder": str(folder.resolve())}
        if _read(self._folder(folder)) != entry:
            _write(self._folder(folder), entry)

    def prune(self, *, before: float) -> int:
        """Remove the repos that were not used since `before` (a time), and folders that are gone; how many."""
        repos = [path for path in (self._root / "repos").glob("*") if path.stat().st_mtime <= before]
        for repo in repos:
            shutil.rmtree(repo, ignore_errors=True)
        folders = [path for path in (self._root / "fetched").glob("*.json") if _is_gone(_read(path))]
        for folder in folders:
            folder.unlink(missing_ok=True)
        return len(repos) + len(folders)

    def _repo(self, endpoint: str, repo_id: str) -> Path:
        return self._root / "repos" / _name(f"{endpoint}\n{repo_id}")

    def _folder(self, folder: Path) -> Path:
        return self._root / "fetched" / f"{_name(str(folder.resolve()))}.json"


def look_up(repo_id: str, *, hub: Hub, revision: str | None, cache: FetchCache) -> RemoteState:
    """What a repo holds at a revision. A full commit that was seen before needs no request; nor does any, offline."""
    endpoint = hub.endpoint
    if _is_commit(revision) or hub.offline:
        commit = revision if _is_commit(revision) else cache.commit(endpoint, repo_id, revision)
        state = cache.state(endpoint, repo_id, commit) if commit else None
        if state is not None:
            return state
        if hub.offline:
            raise FetchError(
                f"HF_HUB_OFFLINE is set, and {repo_id} at {revision or 'main'} has not been looked up here before.",
                hint="Run once without HF_HUB_OFFLINE.",
            )
    state = hub.state(repo_id, revision, known=lambda commit: cache.state(endpoint, repo_id, commit))
    assert state is not None
    cache.keep_state(endpoint, state, revision)
    return state


def _is_gone(fetched: Mapping[str, Any] | None) -> bool:
    return fetched is None or ("folder" in fetched and not Path(fetched["folder"]).is_dir())


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        data = json.loads(path.read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else None
    return None


def _write(path: Path, data: Mapping[str, Any]) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{uuid4().hex[:6]}.tmp")
        temporary.write_text(json.dumps(data), encoding="utf-8")
        temporary.replace(path)


def _is_commit(revision: str | None) -> bool:
    return revision is not None and len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)
