"""One request to the embedded Hub, as endpoints get it: user, repo, parameters and body."""

from __future__ import annotations

import hmac
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import urlencode

from hubpub.localhub.faults import Faults
from hubpub.localhub.refused import Refused, bad_request, gated, repo_not_found
from hubpub.localhub.storage.repository import Repository
from hubpub.localhub.storage.storage import Storage

if TYPE_CHECKING:
    from starlette.datastructures import QueryParams
    from starlette.requests import Request
    from starlette.responses import Response

GiB = 1 << 30
MiB = 1 << 20
_HOUR = 3600
_REMEMBERED = 1 << 16  # requests


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request, in bytes (page sizes in entries)."""

    object: int = 50 * GiB  # one large file
    xorb: int = 96 * MiB  # hf-xet packs at most 64 MiB of content into a xorb
    commit: int = 2 * GiB  # one commit's operations, small files included
    small_file: int = 10 * MiB
    json: int = 16 * MiB
    multipart_above: int = 64 * MiB
    part: int = 32 * MiB
    page: int = 1000
    expanded_page: int = 50


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One handled request. `received` and `sent` count body bytes; `status` is 0 if no response was sent."""

    method: str
    path: str
    query: str
    status: int
    received: int
    sent: int
    seconds: float
    fault: str | None


@dataclass(frozen=True, kw_only=True)
class Hub:
    """State that all requests share. `endpoint` is the server's address, e.g. http://127.0.0.1:8765."""

    storage: Storage
    endpoint: str
    owner: str = "me"
    namespaces: tuple[str, ...] = ("me",)
    limits: Limits = Limits()
    faults: Faults = field(default_factory=Faults)
    seen: deque[Seen] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    rebuilding: threading.Lock = field(default_factory=threading.Lock)

    def sign(self, *parts: object) -> str:
        """A signature (HMAC) with this data folder's secret."""
        return hmac.new(self.storage.key, "\n".join(map(str, parts)).encode(), sha256).hexdigest()

    def signed_query(self, *parts: object) -> str:
        """The query of a signed link, valid for an hour without a token; `parts` name what it gives access to."""
        expires = int(time.time()) + _HOUR
        return urlencode({"expires": expires, "signature": self.sign(*parts, expires)})


@dataclass(frozen=True, kw_only=True)
class User:
    name: str
    can_write: bool


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A request body in a temporary file, which is deleted unless an endpoint moves it."""

    path: Path
    file: BinaryIO
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Call:
    """`params` are the named parts of the path, unquoted; `body` is filled for routes with body="memory"."""

    hub: Hub
    request: Request
    params: Mapping[str, str]
    user: User | None
    body: bytes = b""
    upload: Upload | None = None

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    @property
    def repo_type(self) -> str:
        return self.params.get("types", "models").removesuffix("s")

    @property
    def repo_id(self) -> str:
        return f"{self.params['ns']}/{self.params['name']}"

    @property
    def author(self) -> str:
        return self.user.name if self.user else self.hub.owner

    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise bad_request(f"The body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise bad_request("The body must be a JSON object")
        return value

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")

    def readable(self) -> Repository:
        """The repo, if the caller may see it; a private repo of another user counts as missing."""
        try:
            repo = self.hub.storage.repo(self.repo_id, repo_type=self.repo_type)
            if repo.settings["private"] and not self.owns(repo):
                raise repo_not_found()
        except Refused as refusal:
            if refusal.code == "RepoNotFound" and self.user is None:
                raise Refused(401, refusal.message, code=refusal.code) from None
            raise
        return repo

    def downloadable(self) -> Repository:
        """The repo, if the caller may download its files."""
        repo = self.readable()
        settings = repo.settings
        let_in = self.user is not None and self.user.name in settings["granted"]
        if settings["gated"] and not self.owns(repo) and not let_in:
            refusal = gated(self.repo_id)
            raise refusal if self.user else Refused(401, refusal.message, code=refusal.code)
        return repo

    def writable(self) -> Repository:
        """The repo, if the caller may change it."""
        repo = self.readable()
        self.may_write(self.params["ns"])
        return repo

    def may_write(self, namespace: str) -> None:
        if self.user is None:
            raise Refused(401, "You must be logged in to do this")
        if not self.user.can_write:
            raise Refused(403, "Your token has no write permission")
        if namespace not in self.hub.namespaces:
            raise Refused(403, f"You don't have the rights to create or change repos under the namespace {namespace}")

    def owns(self, repo: Repository) -> bool:
        return self.user is not None and repo.repo_id.partition("/")[0] in self.hub.namespaces

    def signed(self, *parts: object) -> None:
        """Refuse the request unless its link has a valid signature of `parts` that has not expired."""
        expires = self.query.get("expires", "")
        expected = self.hub.sign(*parts, expires)
        signature = self.query.get("signature", "")
        if not expires.isdigit() or not hmac.compare_digest(expected.encode(), signature.encode()):
            raise Refused(403, "This link was not signed by this Hub")
        if int(expires) < time.time():
            raise Refused(403, "This link has expired")

    def web_url(self, repo: Repository) -> str:
        """The repo's address in a browser."""
        prefix = "" if repo.repo_type == "model" else f"{repo.repo_type}s/"
        return f"{self.hub.endpoint}/{prefix}{repo.repo_id}"

    def api_url(self, repo: Repository) -> str:
        return f"{self.hub.endpoint}/api/{repo.repo_type}s/{repo.repo_id}"


Body = Literal["none", "memory", "disk"]
Handler = Callable[[Call], "Response"]


@dataclass(frozen=True, kw_only=True)
class Route:
    """An endpoint. `pattern`: the path with variable parts in braces, `{path*}` for the rest. `limit`: body bytes.

    `slow` handlers may wait for other requests to this server, so they run in a separate thread pool.
    """

    methods: tuple[str, ...]
    pattern: str
    handler: Handler
    body: Body = "none"
    limit: Callable[[Limits], int] = lambda limits: limits.json
    slow: bool = False
