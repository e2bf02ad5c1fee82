"""Pages for people: the repos, and each repo as the Hub would show it. No scripts; everything is escaped.

What is shown was written by others, so the browser is told to load nothing from elsewhere. Files
are those of `resolve`, which the client downloads too.
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
_MOST_TEXT = 1 << 20  # characters of a card; a longer one is cut
_MOST_COMMITS = 50
_SERVICES = ("api", "cas", "cdn", "lfs", "v1")  # first parts of paths that are no namespaces


def front(call: Call) -> Response:
    """All repos that anyone may see."""

    def build() -> tuple[str, dict[str, Any]]:
        kinds = {
            repo_type: [_summary(call, repo) for repo in call.hub.storage.repos(repo_type=repo_type) if _open(repo)]
            for repo_type in REPO_TYPES
        }
        return "hub/front.html.j2", {"kinds": kinds}

    return _page(call, build)


def repo_page(call: Call) -> Response:
    """One repo at a revision: card, tags of its front matter, how to fetch it, files, commits."""

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
    # Large files come from the server's other name (see endpoints_content).
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
        "card": Markup(_rendered(_body(text), repo, commit, tree)),  # HTML in the card itself is shown, not used
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
    """The command that fetches each variant; archives are fetched as the compiled variant they hold."""
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
    """Markdown as HTML. HTML in it is shown as text; addresses of the repo's files lead to them."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    tokens = markdown.parse(text)
    base = f"{_address(repo)}/resolve/{commit.id}/"
    _adapt(tokens, lambda address: _file(address, base, tree))
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def _adapt(tokens: Sequence[Token], file: Callable[[str], str]) -> None:
    """Headings one level down, below the page's own; addresses made absolute; pictures of elsewhere as links."""
    for token in tokens:
        if token.type in ("th_open", "td_open"):  # no style of the card's own
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
    """Where a card's address leads: to a file of the repo, or elsewhere as it says; to the list of files if neither."""
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
