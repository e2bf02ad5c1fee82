"""Endpoints for whole repos: whoami, create, delete, settings, refs, history, tags, branches, card checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from hubpub.localhub import cards
from hubpub.localhub.call import Call, Route
from hubpub.localhub.refused import Refused, bad_request
from hubpub.localhub.storage.git import Commit, Entry, Tree, stamp
from hubpub.localhub.storage.repository import Repository
from hubpub.localhub.storage.storage import REPO_TYPES
from hubpub.localhub.views import card_data, next_link, page, pointer_size

_COMMITS_PER_PAGE = 50


def whoami(call: Call) -> Response:
    if call.user is None:
        raise Refused(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": name, "fullname": name, "roleInOrg": "admin"} for name in call.hub.namespaces]
    role = "write" if call.user.can_write else "read"
    return JSONResponse(
        {
            "type": "user",
            "id": call.hub.storage.id,
            "name": call.user.name,
            "fullname": call.user.name,
            "isPro": False,
            "orgs": [org for org in orgs if org["name"] != call.user.name],
            "auth": {"type": "access_token", "accessToken": {"displayName": "local", "role": role}},
        }
    )


def create(call: Call) -> Response:
    body = call.json()
    name = body.get("name")
    namespace = body.get("organization") or call.hub.owner
    repo_type = body.get("type") or "model"
    if not isinstance(name, str) or not isinstance(namespace, str) or repo_type not in REPO_TYPES:
        raise bad_request('A new repo needs a "name", and a "type" that is model, dataset or space')
    call.may_write(namespace)
    visibility = body.get("visibility") or ("private" if body.get("private") else "public")
    try:
        repo = call.hub.storage.create(f"{namespace}/{name}", repo_type=repo_type, private=visibility != "public")
    except Refused as refusal:
        if refusal.status != 409:
            raise
        url = call.web_url(call.hub.storage.repo(f"{namespace}/{name}", repo_type=repo_type))
        # the client reads the repo's address from this error
        return JSONResponse(
            {"error": refusal.message, "url": url}, status_code=409, headers={"X-Error-Message": refusal.message}
        )
    return JSONResponse({"url": call.web_url(repo), "name": repo.repo_id, "id": repo.find("main").id[:24]})


def delete(call: Call) -> Response:
    body = call.json()
    namespace = str(body.get("organization") or call.hub.owner)
    repo_type = body.get("type") or "model"
    call.may_write(namespace)
    call.hub.storage.delete(f"{namespace}/{body.get('name')}", repo_type=str(repo_type))
    return JSONResponse({})


def settings(call: Call) -> Response:
    repo = call.writable()
    body = call.json()
    changed: dict[str, Any] = {}
    if "visibility" in body or "private" in body:
        changed["private"] = body.get("visibility") == "private" or body.get("private") is True
    if "gated" in body:
        if body["gated"] not in (False, "auto", "manual"):
            raise bad_request('"gated" must be false, "auto" or "manual"')
        changed["gated"] = body["gated"]
    repo.change_settings(**changed)
    return JSONResponse(repo.settings)


def check_access(call: Call) -> Response:
    call.downloadable()
    return JSONResponse({})


def check_write_access(call: Call) -> Response:
    call.writable()
    return JSONResponse({})


def validate_yaml(call: Call) -> Response:
    content = call.json().get("content")
    if not isinstance(content, str):
        raise bad_request('"content" must be the text of a README.md')
    findings = cards.validate(content)
    status = 400 if findings.errors else 200
    if "text/plain" in call.request.headers.get("accept", ""):
        lines = [f"Error: {text}" for text in findings.errors] + [f"Warning: {text}" for text in findings.warnings]
        return PlainTextResponse("\n".join(lines), status_code=status)
    messages = {"errors": findings.errors, "warnings": findings.warnings}
    return JSONResponse(
        {key: [{"message": text} for text in texts] for key, texts in messages.items()}, status_code=status
    )


def info(call: Call) -> Response:
    repo = call.readable()
    commit = repo.find(call.params.get("rev", "main"))
    return JSONResponse(describe(repo, commit, blobs=call.flag("blobs")))


def listing(call: Call) -> Response:
    author, search = call.query.get("author"), call.query.get("search", "").lower()
    rows = [
        describe(repo, repo.find("main"), blobs=False)
        for repo in call.hub.storage.repos(repo_type=call.repo_type)
        if (not repo.settings["private"] or call.owns(repo))
        and (author is None or repo.repo_id.partition("/")[0] == author)
        and search in repo.repo_id.lower()
    ]
    return JSONResponse(rows[: _number(call, "limit", default=1000)])


def describe(repo: Repository, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    """The repo at a commit, in the form of the Hub's `/api/models/…`."""
    tree = repo.tree(commit)
    card = card_data(repo, tree)
    settings = repo.settings
    tags = [tag for tag in card.get("tags") or [] if isinstance(tag, str)]
    extra = [
        card.get("library_name"),
        card.get("pipeline_tag"),
        f"license:{card['license']}" if card.get("license") else None,
    ]
    return {
        "_id": commit.id[:24],
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "author": repo.repo_id.partition("/")[0],
        "sha": commit.id,
        "lastModified": stamp(commit.date),
        "createdAt": settings["created"],
        "private": settings["private"],
        "gated": settings["gated"],
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(dict.fromkeys([*tags, *(tag for tag in extra if isinstance(tag, str))])),
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "cardData": card,
        "siblings": [_sibling(path, tree[path], blobs=blobs) for path in sorted(tree)],
        "spaces": [],
        "usedStorage": _used(tree),
    }


def refs(call: Call) -> Response:
    repo = call.readable()
    rows: dict[str, list[dict[str, str]]] = {"heads": [], "tags": [], "pr": []}
    for ref, commit_id in sorted(repo.refs().items()):
        kind, _, name = ref.partition("/")
        rows[kind].append({"name": name, "ref": f"refs/{ref}", "targetCommit": commit_id})
    reply: dict[str, Any] = {"branches": rows["heads"], "converts": [], "tags": rows["tags"]}
    if call.flag("include_prs"):
        reply["pullRequests"] = rows["pr"]
    return JSONResponse(reply)


def commits(call: Call) -> Response:
    repo = call.readable()
    rows = [_commit(commit) for commit in repo.log(repo.find(call.params["rev"]))]
    at = _number(call, "p", default=0)
    shown, more = page(rows, at * _COMMITS_PER_PAGE, _COMMITS_PER_PAGE)
    return JSONResponse(shown, headers=next_link(call, p=at + 1) if more else {})


def create_tag(call: Call) -> Response:
    repo = call.writable()
    name = call.json().get("tag")
    if not isinstance(name, str):
        raise bad_request('"tag" must be a name')
    repo.add_ref(f"tags/{name}", repo.find(call.params["rev"]).id)
    return JSONResponse({})


def delete_tag(call: Call) -> Response:
    call.writable().delete_ref(f"tags/{call.params['rev']}")
    return JSONResponse({})


def create_branch(call: Call) -> Response:
    repo = call.writable()
    start = call.json().get("startingPoint") or "main"
    repo.add_ref(f"heads/{call.params['rev']}", repo.find(str(start)).id)
    return JSONResponse({})


def delete_branch(call: Call) -> Response:
    call.writable().delete_ref(f"heads/{call.params['rev']}")
    return JSONResponse({})


def squash(call: Call) -> Response:
    repo = call.writable()
    title = call.json().get("message") or "Super-squash branch"
    commit = repo.squash(call.params["rev"], title=str(title), author=call.author)
    return JSONResponse({"commitOid": commit.id})


def telemetry(call: Call) -> Response:
    """hf-xet's speed reports; ignored."""
    return Response(status_code=204)


def _number(call: Call, name: str, *, default: int) -> int:
    text = call.query.get(name)
    if text is None:
        return default
    if not text.isdigit():
        raise bad_request(f'"{name}" must be a number')
    return int(text)


def _sibling(path: str, entry: Entry, *, blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": path}
    if blobs:
        row |= {"size": entry.size, "blobId": entry.oid}
        if entry.sha256:
            row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": pointer_size(entry)}
    return row


def _commit(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author}],
        "date": stamp(commit.date),
        "formatted": {"title": commit.title, "message": commit.message},
    }


def _used(tree: Tree) -> int:
    sizes: Iterable[tuple[str, int]] = ((entry.digest, entry.size) for entry in tree.values())
    return sum(dict(sizes).values())


_REPO = "/api/{types}/{ns}/{name}"
_POST, _GET, _DELETE = ("POST",), ("GET",), ("DELETE",)
ROUTES: tuple[Route, ...] = (
    Route(methods=_GET, pattern="/api/whoami-v2", handler=whoami),
    Route(methods=_POST, pattern="/api/repos/create", handler=create, body="memory"),
    Route(methods=_DELETE, pattern="/api/repos/delete", handler=delete, body="memory"),
    Route(methods=_POST, pattern="/api/validate-yaml", handler=validate_yaml, body="memory"),
    Route(methods=_POST, pattern="/v1/telemetry", handler=telemetry, body="memory"),
    Route(methods=_GET, pattern="/api/{types}", handler=listing),
    Route(methods=_GET, pattern=_REPO, handler=info),
    Route(methods=_GET, pattern=f"{_REPO}/revision/{{rev}}", handler=info),
    Route(methods=("PUT",), pattern=f"{_REPO}/settings", handler=settings, body="memory"),
    Route(methods=_GET, pattern=f"{_REPO}/auth-check", handler=check_access),
    Route(methods=_GET, pattern=f"{_REPO}/auth-check/write", handler=check_write_access),
    Route(methods=_GET, pattern=f"{_REPO}/refs", handler=refs),
    Route(methods=_GET, pattern=f"{_REPO}/commits/{{rev}}", handler=commits),
    Route(methods=_POST, pattern=f"{_REPO}/tag/{{rev}}", handler=create_tag, body="memory"),
    Route(methods=_DELETE, pattern=f"{_REPO}/tag/{{rev}}", handler=delete_tag),
    Route(methods=_POST, pattern=f"{_REPO}/branch/{{rev}}", handler=create_branch, body="memory"),
    Route(methods=_DELETE, pattern=f"{_REPO}/branch/{{rev}}", handler=delete_branch),
    Route(methods=_POST, pattern=f"{_REPO}/super-squash/{{rev}}", handler=squash, body="memory"),
)
