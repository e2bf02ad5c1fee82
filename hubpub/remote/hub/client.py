"""Hub: one endpoint and one token; who we are, what a repo holds, and its files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import hf_raise_for_status

from hubpub.errors import CannotWrite, CardInvalid, FetchError
from hubpub.files.digest import Digest, FileRef
from hubpub.files.digests import Digests
from hubpub.files.front_matter import load
from hubpub.plan.names import CARD, MANIFEST
from hubpub.release.release import MAX_MANIFEST_BYTES, RemoteState, parse_manifest
from hubpub.remote.hub import download, session
from hubpub.remote.hub.translate import Side, translated, trusting
from hubpub.sources.source import Snapshot, Source

# done bytes, total bytes, what is being done
Progress = Callable[[int, int, str], None]

_MAX_CARD_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who a token belongs to. `can_write` is None where the Hub does not tell; `only` is the one repo it is for."""

    name: str
    orgs: tuple[str, ...]
    can_write: bool | None
    token_name: str | None = None
    only: str | None = None


class Hub:
    """One endpoint (None: HF_ENDPOINT, else huggingface.co) with one token.

    None is the token of Trusted Publishing where HF_OIDC_RESOURCE is set, else the one the user logged in with;
    `anonymous` sends no token.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None, *, anonymous: bool = False) -> None:
        session.install()
        self.api = HfApi(endpoint=endpoint, token=False if anonymous else token, library_name="hubpub")
        self.endpoint = self.api.endpoint.rstrip("/")
        self._token = token
        self._anonymous = anonymous

    @property
    def token(self) -> str | None:
        """The token that requests carry, if any. CannotWrite when Trusted Publishing is asked for and refused."""
        if self._token or self._anonymous:
            return self._token
        with trusting(os.environ.get("HF_OIDC_RESOURCE"), endpoint=self.endpoint):
            return get_token()

    @property
    def trusted_for(self) -> str | None:
        """The one repo that the token is for, where it is one of Trusted Publishing."""
        resource = os.environ.get("HF_OIDC_RESOURCE", "")
        return resource if "/" in resource and not self._token and not self._anonymous else None

    @property
    def offline(self) -> bool:
        """Whether HF_HUB_OFFLINE forbids requests."""
        return bool(constants.is_offline_mode())

    @contextmanager
    def asking(self, side: Side, repo_id: str, doing: str = "") -> Iterator[None]:
        """Run client calls; their errors become HubpubErrors."""
        with translated(side, repo_id=repo_id, endpoint=self.endpoint, token=self.token, doing=doing):
            yield

    def whoami(self) -> Account:
        """The token's account. CannotWrite when there is no token or the Hub does not know it.

        A token of Trusted Publishing opens the routes of its repo only, not the one that says whose it is
        (huggingface_hub's pull request 4290): its account is the repo's owner.
        """
        if self.trusted_for is not None and self.token:
            owner = self.trusted_for.partition("/")[0]
            return Account(name=owner, orgs=(), can_write=True, token_name="Trusted Publishing", only=self.trusted_for)
        with self.asking("write", "the Hub", "asking who the token belongs to"):
            # the Hub limits how often this may be asked
            return _account(session.patiently(lambda: self.api.whoami(cache=True)))

    def ping(self) -> float:
        """Seconds until the Hub answered anything that is no failure of its own. FetchError when it does not."""
        with self.asking("fetch", "the Hub", "seeing whether it is there"):
            started = time.monotonic()
            response = get_session().get(f"{self.endpoint}/api/models", params={"limit": 1}, headers=self.headers())
            if response.status_code >= 500:
                hf_raise_for_status(response)
            return time.monotonic() - started

    def url(self, repo_id: str) -> str:
        """The page of a repo."""
        return f"{self.endpoint}/{repo_id}"

    def commit(self, repo_id: str, revision: str | None = None, *, side: Side = "fetch") -> str | None:
        """The commit that a branch, tag or pull-request ref names; None for a repo without commits."""
        with self.asking(side, repo_id, "looking it up"):
            return session.patiently(lambda: self.api.model_info(repo_id, revision=revision)).sha

    def state(
        self,
        repo_id: str,
        revision: str | None = None,
        *,
        side: Side = "fetch",
        missing_ok: bool = False,
        known: Callable[[str], RemoteState | None] | None = None,
    ) -> RemoteState | None:
        """What a repo holds at a revision, with its manifest; None when the repo is missing and `missing_ok`.

        A commit never changes: where `known` has its state, one request is enough.
        """
        with self.asking(side, repo_id, "reading its list of files"):
            try:
                info = session.patiently(lambda: self.api.model_info(repo_id, revision=revision))
            except RepositoryNotFoundError as error:
                if missing_ok and error.response.status_code in (401, 404):
                    return None
                raise
            if not isinstance(info.sha, str | None):
                raise ValueError("the repo's commit is no text")
            if info.sha and known is not None and (state := known(info.sha)) is not None:
                return state
            files = self._tree(repo_id, info.sha) if info.sha else ()
        state = RemoteState(repo_id=repo_id, commit=info.sha, files=files, private=bool(info.private))
        return replace(state, manifest=self._manifest(state, side))

    def snapshot(self, source: Source) -> Snapshot:
        """A source repo pinned to its commit, with every file's size and digest. SourceNotFound, AccessDenied."""
        state = self.state(source.location, source.revision, side="source")
        assert state is not None
        return Snapshot(
            source=source,
            commit=state.commit,
            files=state.files,
        )

    def download_source(
        self,
        snapshot: Snapshot,
        paths: Collection[str],
        *,
        digests: Digests | None = None,
        progress: Progress | None = None,
        jobs: int = 4,
    ) -> Path:
        """Bring files of a source into the client's own cache and check each; the folder of the snapshot.

        With `digests`, files that have not changed since they were checked are not read again.

        BadWeights when a file is not what the Hub lists even after a second download.
        """
        wanted = [file for file in snapshot.files if file.path in set(paths)]
        with self.asking("source", snapshot.source.location, "downloading"):
            return download.snapshot(self, snapshot, wanted, digests=digests, progress=progress, jobs=jobs)

    def download(
        self, repo_id: str, commit: str, path: str, partial: Path, *, size: int, got: Callable[[int], None]
    ) -> None:
        """Bring a file of `size` bytes to `partial`, going on where that ends; the caller checks the digest.

        `got` receives the size of every block that arrives (negative: discarded). Raises FetchError or DigestMismatch.
        """
        with self.asking("fetch", repo_id, f"downloading {path}"):
            url = str(hf_hub_url(repo_id, path, revision=commit, endpoint=self.endpoint))
            download.resume(self, url, partial, size, got)

    def read(self, repo_id: str, commit: str | None, path: str, *, limit: int, side: Side = "fetch") -> bytes:
        """A small file of a repo. FetchError when it is larger than `limit`."""
        with self.asking(side, repo_id, f"reading {path}"):
            data = session.patiently(lambda: self._read(repo_id, commit, path, limit))
        if len(data) > limit:
            raise FetchError(f"{path} of {repo_id} is larger than {limit} bytes.", hint="Is it the right repo?")
        return data

    def peek(self, repo_id: str, commit: str | None, path: str, *, length: int, side: Side = "fetch") -> bytes:
        """The first `length` bytes of a file of a repo (or all, where there are fewer); the rest is not read."""
        with self.asking(side, repo_id, f"reading {path}"):
            return session.patiently(lambda: self._read(repo_id, commit, path, length))[:length]

    def card_data(self, repo_id: str, commit: str | None = None, *, side: Side = "source") -> dict[str, Any]:
        """The front matter of a repo's card; empty if there is none or it is not YAML."""
        state = self.state(repo_id, commit, side=side)
        assert state is not None
        if all(file.path != CARD for file in state.files):
            return {}
        text = self.read(repo_id, state.commit, CARD, limit=_MAX_CARD_BYTES, side=side).decode("utf-8", "replace")
        try:
            return front_matter(text)
        except CardInvalid:
            return {}

    def validate_card(self, text: str) -> tuple[str, ...]:
        """Check a card here, then with the Hub's own validator: its warnings. CardInvalid with all of its errors."""
        front_matter(text)
        with self.asking("write", "the Hub", "validating the card"):
            response = session.patiently(lambda: self._validate(text))
            answer = response.json() if response.content else {}
            errors = [str(error.get("message")) for error in answer.get("errors", ())]
            if response.status_code != 400 and not errors:
                hf_raise_for_status(response)
            warnings = tuple(str(warning.get("message")) for warning in answer.get("warnings", ()))
        if errors or response.status_code == 400:
            raise CardInvalid(
                f"The Hub refuses the card's front matter: {'; '.join(errors) or response.text[:200]}",
                hint="Correct the template or the settings; `hubpub card` shows the card.",
            )
        return warnings

    def headers(self) -> dict[str, str]:
        """Request headers with the token."""
        return dict(self.api._build_hf_headers())

    def _tree(self, repo_id: str, commit: str) -> tuple[FileRef, ...]:
        listing = session.patiently(lambda: list(self.api.list_repo_tree(repo_id, recursive=True, revision=commit)))
        return tuple(_listed(entry) for entry in listing if isinstance(entry, RepoFile))

    def _manifest(self, state: RemoteState, side: Side) -> dict[str, Any] | None:
        for file in state.files:
            if file.path == MANIFEST and file.size <= MAX_MANIFEST_BYTES:
                data = self.read(state.repo_id, state.commit, MANIFEST, limit=MAX_MANIFEST_BYTES, side=side)
                return parse_manifest(data) if file.digest.is_of_bytes(data) else None
        return None

    def _read(self, repo_id: str, commit: str | None, path: str, limit: int) -> bytes:
        url = hf_hub_url(repo_id, path, revision=commit, endpoint=self.endpoint)
        data = bytearray()
        with get_session().stream("GET", url, headers=self.headers()) as response:
            hf_raise_for_status(response)
            for block in response.iter_bytes():
                data += block
                if len(data) > limit:
                    break
        return bytes(data)

    def _validate(self, text: str) -> Any:
        response = get_session().post(
            f"{self.endpoint}/api/validate-yaml",
            json={"content": text, "repoType": "model"},
            headers=self.headers(),
        )
        if response.status_code != 400:  # 400 says what is wrong with the card
            hf_raise_for_status(response)
        return response


def front_matter(text: str) -> dict[str, Any]:
    """The YAML block at the head of a card; empty without one. CardInvalid when it is not a YAML mapping."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    try:
        end = next(number for number, line in enumerate(lines[1:], 1) if line.strip() == "---")
        return load("\n".join(lines[1:end]))
    except (StopIteration, ValueError) as error:
        raise CardInvalid(
            f"The card's front matter cannot be used: {str(error) or 'no closing ---'}.",
            hint="`hubpub card` shows the card.",
        ) from None


def _listed(entry: Any) -> FileRef:
    """A file as the Hub lists it; ValueError where it is not listed as a file can be."""
    size, sha256 = (entry.lfs.size, entry.lfs.sha256) if entry.lfs else (entry.size, None)
    texts = (entry.path, entry.blob_id, *(() if sha256 is None else (sha256,)))
    if not all(isinstance(text, str) for text in texts) or not isinstance(size, int) or size < 0:
        raise ValueError(f"the list of files has an invalid entry: {str(entry)[:100]}")
    digest = Digest("git", entry.blob_id) if sha256 is None else Digest("sha256", sha256)
    return FileRef(path=entry.path, size=size, digest=digest)


def _account(answer: Mapping[str, Any]) -> Account:
    """An account from the answer of whoami-v2."""
    access = (answer.get("auth") or {}).get("accessToken") or {}
    role = access.get("role")
    can_write: bool | None = {"write": True, "read": False, "admin": True}.get(str(role))
    if role == "fineGrained":
        granted = access.get("fineGrained") or {}
        permissions = {name for scope in granted.get("scoped", ()) for name in scope.get("permissions", ())}
        permissions |= set(granted.get("global", ()))
        can_write = True if "repo.write" in permissions else None
    name = answer.get("name")
    if not isinstance(name, str):
        raise CannotWrite("The Hub does not say who the token belongs to.", hint="Log in with `hf auth login`.")
    return Account(
        name=name,
        orgs=tuple(str(org["name"]) for org in answer.get("orgs", ()) if org.get("name")),
        can_write=can_write,
        token_name=access.get("displayName"),
    )
