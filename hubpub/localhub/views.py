"""Parts of responses that several endpoints share: pages, the card's data, rows of files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.responses import FileResponse

from hubpub.localhub import cards
from hubpub.localhub.call import Call
from hubpub.localhub.storage import git
from hubpub.localhub.storage.git import Entry, Tree
from hubpub.localhub.storage.repository import Repository

Row = TypeVar("Row")


class FileAnswer(FileResponse):
    """A response with a file's bytes. Each chunk is read in a thread; large chunks are several times faster."""

    chunk_size = 1 << 20


def page(rows: Sequence[Row], start: int, size: int) -> tuple[list[Row], bool]:
    """`size` rows from index `start`, and whether more follow."""
    return list(rows[start : start + size]), len(rows) > start + size


def next_link(call: Call, **changed: object) -> dict[str, str]:
    """The Link header with the address of the next page."""
    query = urlencode(
        [(key, value) for key, value in call.query.multi_items() if key not in changed] + list(changed.items())
    )
    path = call.request.scope["raw_path"].decode("latin-1")
    return {"Link": f'<{call.hub.endpoint}{path}?{query}>; rel="next"'}


def card_data(repo: Repository, tree: Tree) -> dict[str, Any]:
    """The front matter of the repo's README.md; empty if there is none or it cannot be read."""
    try:
        data = cards.front_matter(repo.text(tree, "README.md")) or {}
    except ValueError:
        return {}
    return {str(key): _plain(value) for key, value in data.items()}


def pointer_size(entry: Entry) -> int:
    return len(git.pointer(entry.sha256 or "", entry.size))


def file_row(repo: Repository, path: str, entry: Entry) -> dict[str, Any]:
    """A file's row in tree listings."""
    row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.sha256:
        row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer_size(entry)}
        name = repo.objects.xet.named(entry.sha256)
        if name:
            row["xetHash"] = name.hash
    return row


def _plain(value: Any) -> Any:
    """A YAML value as JSON allows it: dates and keys become strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
