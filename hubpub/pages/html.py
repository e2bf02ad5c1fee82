"""Renders HTML pages from untrusted values (manifests, cards, file names).

The Jinja2 environment escapes every value; templates do not have to. A Content-Security-Policy
forbids scripts and styles other than the page's own, and all requests to other servers.
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
    """A folder of a repo: its folders and files, and the total bytes and number of files in it."""

    name: str
    size: int = 0
    count: int = 0
    folders: dict[str, Folder] = field(default_factory=dict)
    files: list[Mapping[str, Any]] = field(default_factory=list)


def file_tree(files: Iterable[Mapping[str, Any]]) -> Folder:
    """Rows with `path` and `size` (bytes) as nested folders; adds a `name` to each row."""
    root = _FolderBuilder("")
    for file in sorted(files, key=lambda row: str(row["path"])):
        *parents, name = str(file["path"]).split("/")
        builder = root
        for parent in parents[:_MAX_DEPTH]:
            builder = builder.child(parent)
        builder.files.append({**file, "name": "/".join([*parents[_MAX_DEPTH:], name])})
    return root.build()


def page(name: str, **values: Any) -> str:
    """The template `name`, rendered with these values; every value is escaped unless it is Markup."""
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
    """A style sheet or script of hubpub's templates, unescaped, for a style or script element."""
    return Markup((folder() / name).read_text(encoding="utf-8"))  # trusted: part of the package


def policy(*, style: str, script: str = "", images: str = "data:") -> str:
    """A Content-Security-Policy that allows only this style, this script, and images from `images`."""
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


# Deeper folders are shown as part of the file name: a path may have thousands of slashes.
_MAX_DEPTH = 12


class _FolderBuilder:
    """Collects the files of a folder."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folders: dict[str, _FolderBuilder] = {}
        self.files: list[Mapping[str, Any]] = []

    def child(self, name: str) -> _FolderBuilder:
        return self.folders.setdefault(name, _FolderBuilder(name))

    def build(self) -> Folder:
        folders = {name: child.build() for name, child in sorted(self.folders.items())}
        return Folder(
            name=self.name,
            size=sum(file["size"] for file in self.files) + sum(child.size for child in folders.values()),
            count=len(self.files) + sum(child.count for child in folders.values()),
            folders=folders,
            files=self.files,
        )
