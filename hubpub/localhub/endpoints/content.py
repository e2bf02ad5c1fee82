"""Endpoints that list and serve files: tree, paths-info, resolve, and the address of large files."""

from __future__ import annotations

import mimetypes
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.responses import JSONResponse, RedirectResponse, Response

from hubpub.localhub.call import Call, Route
from hubpub.localhub.refused import Refused, bad_request, entry_not_found
from hubpub.localhub.storage import git
from hubpub.localhub.storage.git import Commit, Entry, stamp
from hubpub.localhub.storage.rebuild import rebuilt
from hubpub.localhub.storage.repository import Repository
from hubpub.localhub.views import FileAnswer, file_row, next_link, page

# An HTML file of a repo is shown in a sandbox, without the rights of the Hub's origin.
_INERT = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}


def tree(call: Call) -> Response:
    """Folders and files below a path, in pages; `cursor` is the number of rows on earlier pages."""
    repo = call.readable()
    commit = repo.find(call.params["rev"])
    below = call.params.get("path", "").strip("/")
    rows = _rows(repo, commit, below, recursive=call.flag("recursive"))
    expand = call.flag("expand")
    most = call.hub.limits.expanded_page if expand else call.hub.limits.page
    limit = call.query.get("limit", "")
    size = min(int(limit), most) if limit.isdigit() and int(limit) > 0 else most
    cursor = call.query.get("cursor", "0")
    if not cursor.isdigit():
        raise bad_request('"cursor" must be a number')
    shown, more = page(rows, int(cursor), size)
    if expand:
        shown = _with_commits(repo, commit, shown)
    return JSONResponse(shown, headers=next_link(call, cursor=int(cursor) + size) if more else {})


def paths_info(call: Call) -> Response:
    """The rows of the requested paths (the client sends a form)."""
    repo = call.readable()
    commit = repo.find(call.params["rev"])
    is_json = "json" in call.request.headers.get("content-type", "")
    form = _json_form(call) if is_json else parse_qs(call.body.decode("utf-8", "replace"))
    files, folders = repo.tree(commit), git.tree_ids(repo.tree(commit))
    rows: list[dict[str, Any]] = []
    for path in (path.strip("/") for path in form.get("paths", [])):
        if path in files:
            rows.append(file_row(repo, path, files[path]))
        elif path in folders and path:
            rows.append(_folder_row(path, folders[path]))
    if str(form.get("expand", ["false"])[0]).lower() in ("true", "1"):
        rows = _with_commits(repo, commit, rows)
    return JSONResponse(rows)


def resolve(call: Call) -> Response:
    """A file's bytes; for a large file a redirect to another host, as on the Hub."""
    repo = call.downloadable()
    commit = repo.find(call.params["rev"])
    path = call.params["path"]
    entry = repo.tree(commit).get(path)
    if entry is None:
        raise entry_not_found(path)
    headers = {
        **_INERT,
        "X-Repo-Commit": commit.id,
        "ETag": f'"{entry.digest}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])}",
    }
    if entry.sha256 is None:
        media = mimetypes.guess_type(path)[0] or "text/plain"
        return FileAnswer(repo.objects.blob_path(entry.oid), headers=headers, media_type=media)
    headers |= {"X-Linked-ETag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    name = repo.objects.xet.named(entry.sha256)
    if name:
        headers["X-Xet-Hash"] = name.hash
        headers["Link"] = f'<{call.api_url(repo)}/xet-read-token/{commit.id}>; rel="xet-auth"'
    return RedirectResponse(_cdn_url(call, entry), status_code=302, headers=headers)


def large_file(call: Call) -> Response:
    """A large file's bytes: the target of `resolve`'s redirect, a signed link that needs no token."""
    sha256, size = call.params["sha256"], call.query.get("size", "")
    call.signed("cdn", sha256, size)
    path = rebuilt(call.hub, git.lfs_entry(sha256, int(size)))
    headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes", **_INERT}
    return FileAnswer(path, headers=headers, media_type="application/octet-stream")


def _cdn_url(call: Call, entry: Entry) -> str:
    # The client follows a Location on the same host at once, but handles one on another host as on the Hub (and
    # does not send its token there). So the link uses the server's other name.
    host = call.request.url.hostname
    port = call.request.url.port
    other = "127.0.0.1" if host == "localhost" else "localhost"
    query = call.hub.signed_query("cdn", entry.sha256, entry.size)
    return f"http://{other}:{port}/cdn/{entry.sha256}?size={entry.size}&{query}"


def _rows(repo: Repository, commit: Commit, below: str, *, recursive: bool) -> list[dict[str, Any]]:
    files = repo.tree(commit)
    folders = git.tree_ids(files)
    if below not in folders:
        raise entry_not_found(below)
    start = f"{below}/" if below else ""

    def shown(path: str) -> bool:
        return path.startswith(start) and len(path) > len(start) and (recursive or "/" not in path[len(start) :])

    rows = [file_row(repo, path, entry) for path, entry in files.items() if shown(path)]
    rows += [_folder_row(path, oid) for path, oid in folders.items() if shown(path)]
    return sorted(rows, key=lambda row: str(row["path"]))


def _folder_row(path: str, oid: str) -> dict[str, Any]:
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _with_commits(repo: Repository, commit: Commit, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    newest = repo.last_commits(commit, [row["path"] for row in rows])
    shown = {path: {"id": last.id, "title": last.title, "date": stamp(last.date)} for path, last in newest.items()}
    return [{**row, "lastCommit": shown[row["path"]]} for row in rows]


def _json_form(call: Call) -> dict[str, list[str]]:
    body = call.json()
    paths = body.get("paths", [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise Refused(400, '"paths" must be a list of paths')
    return {"paths": paths, "expand": [str(body.get("expand", False))]}


_REPO = "/api/{types}/{ns}/{name}"
_READ = ("GET", "HEAD")
ROUTES: tuple[Route, ...] = (
    Route(methods=("GET",), pattern=f"{_REPO}/tree/{{rev}}", handler=tree),
    Route(methods=("GET",), pattern=f"{_REPO}/tree/{{rev}}/{{path*}}", handler=tree),
    Route(methods=("POST",), pattern=f"{_REPO}/paths-info/{{rev}}", handler=paths_info, body="memory"),
    Route(methods=_READ, pattern="/{types}/{ns}/{name}/resolve/{rev}/{path*}", handler=resolve),
    Route(methods=_READ, pattern="/{ns}/{name}/resolve/{rev}/{path*}", handler=resolve),
    Route(methods=_READ, pattern="/cdn/{sha256}", handler=large_file, slow=True),
)
