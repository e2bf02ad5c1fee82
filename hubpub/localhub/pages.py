"""HTML pages: the list of repos, and a page for each repo. No scripts; every value is escaped.

Cards and file names are untrusted, so the pages' Content-Security-Policy forbids loading anything from
other servers. Links to files use the `resolve` endpoint, as the client does.
"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from hubpub.localhub import cards
from hubpub.localhub.call import Call, Route
from hubpub.localhub.refused import Refused
from hubpub.localhub.storage.git import Commit, Tree
from hubpub.localhub.storage.repository import Repository
from hubpub.localhub.storage.storage import REPO_TYPES
from hubpub.localhub.views import card_data
from hubpub.pages.html import STYLE, file_tree, own, page, policy
from hubpub.release.release import variant_of

_CARD = "README.md"
_MOST_TEXT = 1 << 20  # characters of a card that are shown
_MOST_COMMITS = 50
_SERVICES = ("api", "cas", "cdn", "lfs", "v1")  # first parts of paths that are not namespaces


def front(call: Call) -> Response:
    """The page of all public repos."""

    def build() -> tuple[str, dict[str, Any]]:
        kinds = {
            repo_type: [_summary(call, repo) for repo in call.hub.storage.repos(repo_type=repo_type) if _open(repo)]
            for repo_type in REPO_TYPES
        }
        return "hub/front.html.j2", {"kinds": kinds}

    return _page(call, build)


def repo_page(call: Call) -> Response:
    """The page of one repo at a revision: card, front matter tags, fetch commands, files, commits."""

    def build() -> tuple[str, dict[str, Any]]:
        if call.params.get("ns") in _SERVICES:
            raise Refused(404, "There is nothing here")
        return "hub/repo.html.j2", _repo(call)

    return _page(call, build)


def _page(call: Call, build: Callable[[], tuple[str, dict[str, Any]]]) -> Response:
    status, headers = 200, {}
    try:
        name, values = build()
    except Refused as refusal:
        status, name = refusal.status, "hub/refused.html.j2"
        values = {"status": status, "message": refusal.message}
        headers = {"X-Error-Message": quote(refusal.message, safe=" :'/,.")}
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
    style = own(STYLE)
    # Large files are served under the server's other name (see endpoints/content.py).
    port = urlsplit(call.hub.endpoint).port
    images = f"'self' data: http://127.0.0.1:{port} http://localhost:{port}"
    headers |= {
        "Content-Security-Policy": policy(style=style, images=images) + "; frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    html = page(name, style=style, endpoint=call.hub.endpoint, address=_address, **values)
    return HTMLResponse(html, status_code=status, headers=headers)


def _repo(call: Call) -> dict[str, Any]:
    repo = call.readable()
    revision = call.params.get("rev", "main")
    commit = repo.find(revision)
    tree = repo.tree(commit)
    text = repo.text(tree, _CARD)[:_MOST_TEXT]
    files = [{"path": path, "size": entry.size, "digest": entry.sha256 or ""} for path, entry in tree.items()]
    refs = repo.refs()
    log = list(itertools.islice(repo.log(commit), _MOST_COMMITS + 1))
    base = _address(repo)
    return {
        "repo": repo,
        "revision": revision,
        "commit": commit,
        "settings": repo.settings,
        "tags": card_data(repo, tree),
        "findings": cards.validate(text),
        "card": Markup(_rendered(_body(text), repo, commit, tree)),  # HTML inside the card is shown as text
        "has_card": _CARD in tree,
        "fetches": _fetches(repo, tree, revision, call.hub.endpoint),
        "tree": file_tree(files),
        "size": sum(entry.size for entry in tree.values()),
        "link": lambda path: f"{base}/resolve/{quote(revision, safe='')}/{quote(path)}",
        "log": log[:_MOST_COMMITS],
        "more_commits": len(log) > _MOST_COMMITS,
        "refs": {
            kind: [(name.removeprefix(prefix), commit_id) for name, commit_id in sorted(refs.items())
                   if name.startswith(prefix)]
            for kind, prefix in (("branch", "heads/"), ("tag", "tags/"), ("pull request", "pr/"))
        },
        "kinds": {"branch": "", "tag": "", "pull request": "refs/pr/"},
    }  # fmt: skip


def _summary(call: Call, repo: Repository) -> dict[str, Any]:
    commit = repo.find("main")
    tree = repo.tree(commit)
    return {"repo": repo, "size": sum(entry.size for entry in tree.values()), "files": len(tree), "commit": commit}


def _open(repo: Repository) -> bool:
    return not repo.settings["private"]


def _address(repo: Repository, revision: str = "") -> str:
    """The path of a repo's page."""
    prefix = "" if repo.repo_type == "model" else f"/{repo.repo_type}s"
    return f"{prefix}/{repo.repo_id}" + (f"/tree/{quote(revision, safe='')}" if revision else "")


def _fetches(repo: Repository, tree: Tree, revision: str, endpoint: str) -> list[dict[str, Any]]:
    """The fetch command of each variant; an archive is fetched as `compiled --zip`."""
    if repo.repo_type != "model":
        return []
    sizes: dict[str, int] = {}
    for path, entry in tree.items():
        if name := variant_of(path):
            sizes[name] = sizes.get(name, 0) + entry.size
    at = "" if revision == "main" else f" --revision {revision}"
    return [
        {
            "name": name,
            "size": size,
            "command": f"hubpub fetch {repo.repo_id} --variant {name.replace('/zip', '/compiled --zip')}{at}"
            f" --endpoint {endpoint}",
        }
        for name, size in sorted(sizes.items())
    ]


def _body(text: str) -> str:
    """The card without its front matter."""
    lines = text.lstrip("\ufeff").splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        return text
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    return text if end is None else "".join(lines[end + 1 :])


def _rendered(text: str, repo: Repository, commit: Commit, tree: Tree) -> str:
    """Markdown as HTML. HTML inside it is shown as text; relative links lead to the repo's files."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    tokens = markdown.parse(text)
    base = f"{_address(repo)}/resolve/{commit.id}/"
    _adapt(tokens, lambda address: _file(address, base, tree))
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def _adapt(tokens: Sequence[Token], file: Callable[[str], str]) -> None:
    """Change tokens in place: headings one level down, absolute links, text instead of pictures of other servers."""
    for token in tokens:
        if token.type in ("th_open", "td_open"):  # the card cannot set styles
            if str(token.attrs.pop("style", "")).endswith("right"):
                token.attrSet("class", "n")
        elif token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
        elif token.type == "link_open":
            token.attrSet("href", file(str(token.attrGet("href"))))
            token.attrSet("rel", "noopener noreferrer nofollow")
        elif token.type == "image":
            address = file(str(token.attrGet("src")))
            if address.startswith("/") and not address.startswith("//"):
                token.attrSet("src", address)
            else:
                token.type, token.content, token.children = "text", f"[picture: {token.content or address}]", None
        if token.children:
            _adapt(token.children, file)


def _file(address: str, base: str, tree: Tree) -> str:
    """The target of a card's link: a file of the repo, an absolute address unchanged, or else the list of files."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "#files"
    if parts.scheme or parts.netloc or address.startswith(("/", "#")):
        return address
    path = posixpath.normpath(unquote(parts.path))
    return base + quote(path) if path in tree else "#files"


_READ = ("GET", "HEAD")
ROUTES: tuple[Route, ...] = (
    Route(methods=_READ, pattern="/", handler=front),
    Route(methods=_READ, pattern="/{types}/{ns}/{name}", handler=repo_page),
    Route(methods=_READ, pattern="/{types}/{ns}/{name}/tree/{rev}", handler=repo_page),
    Route(methods=_READ, pattern="/{ns}/{name}", handler=repo_page),
    Route(methods=_READ, pattern="/{ns}/{name}/tree/{rev}", handler=repo_page),
)
