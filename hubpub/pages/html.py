"""HTML pages: everything that goes in is escaped, the style is one sheet for all, and the policy allows only that.

What a page shows (manifests, cards, file names) was written by others. So values are escaped by
the environment, never by the templates, and the browser is told to run nothing and to ask for nothing
but what the page itself brings.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from hubpub.files.sizes import human
from hubpub.pages.templates import folder

STYLE = "page.css"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of a repo: its folders and files by name, and the bytes of all that is in it."""

    name: str
    size: int = 0
    count: int = 0
    folders: dict[str, Folder] = field(default_factory=dict)
    files: list[Mapping[str, Any]] = field(default_factory=list)


def file_tree(files: Iterable[Mapping[str, Any]]) -> Folder:
    """Rows with `path` and `size` (bytes) as nested folders; each row also gets its `name`."""
    root = _Growing("")
    for file in sorted(files, key=lambda row: str(row["path"])):
        *parents, name = str(file["path"]).split("/")
        place = root
        for parent in parents[:_DEEPEST]:
            place = place.child(parent)
        place.files.append({**file, "name": "/".join([*parents[_DEEPEST:], name])})
    return root.done()


def page(name: str, **values: Any) -> str:
    """The template `name` with these values, every one of them escaped unless it is Markup."""
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader([folder()]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters["bytes"] = human
    return environment.get_template(name).render(values)


def own(name: str) -> Markup:
    """A style sheet or script of ours, as it stands, to be put between its tags."""
    return Markup((folder() / name).read_text(encoding="utf-8"))  # ours, and nobody else's words are in it


def policy(*, style: str, script: str = "", images: str = "data:") -> str:
    """A Content-Security-Policy: this style, this script, images from there, and nothing else at all."""
    rules = {
        "default-src": "'none'",
        "img-src": images,
        "style-src": _digest(style),
        "script-src": _digest(script) if script else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# A path may have thousands of slashes; templates and browsers are spared that.
_DEEPEST = 12


class _Growing:
    """A folder while files are put into it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folders: dict[str, _Growing] = {}
        self.files: list[Mapping[str, Any]] = []

    def child(self, name: str) -> _Growing:
        return self.folders.setdefault(name, _Growing(name))

    def done(self) -> Folder:
        folders = {name: child.done() for name, child in sorted(self.folders.items())}
        return Folder(
            name=self.name,
            size=sum(file["size"] for file in self.files) + sum(child.size for child in folders.values()),
            count=len(self.files) + sum(child.count for child in folders.values()),
            folders=folders,
            files=self.files,
        )
