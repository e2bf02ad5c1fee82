"""What several endpoints show alike: pages, the card's data, a file's row."""

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
    """A file's bytes. Each piece is read in a thread of its own, so large ones are several times faster."""

    chunk_size = 1 << 20


def page(rows: Sequence[Row], start: int, size: int) -> tuple[list[Row], bool]:
    """`size` rows from `start` on, and whether there are more."""
    return list(rows[start : start + size]), len(rows) > start + size


def next_link(call: Call, **changed: object) -> dict[str, str]:
    """The header that says where the next page is."""
    query = urlencode(
        [(key, value) for key, value in call.query.multi_items() if key not in changed] + list(changed.items())
    )
    path = call.request.scope["raw_path"].decode("latin-1")
    return {"Link": f'<{call.hub.endpoint}{path}?{query}>; rel="next"'}


def card_data(repo: Repository, tree: Tree) -> dict[str, Any]:
    """The front matter of the repo's README.md; empty where it has none that can be read."""
    try:
        data = cards.front_matter(repo.text(tree, "README.md")) or {}
    except ValueError:
        return {}
    return {str(key): _plain(value) for key, value in data.items()}


def pointer_size(entry: Entry) -> int:
    return len(git.pointer(entry.sha256 or "", entry.size))


def file_row(repo: Repository, path: str, entry: Entry) -> dict[str, Any]:
    """A file as tree listings show it."""
    row: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    if entry.sha256:
        row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer_size(entry)}
        name = repo.objects.xet.named(entry.sha256)
        if name:
            row["xetHash"] = name.hash
    return row


def _plain(value: Any) -> Any:
    """YAML knows dates and keys that are no strings; JSON does not."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
