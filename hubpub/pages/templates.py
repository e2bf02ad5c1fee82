"""Finds the templates: beside the package in a checkout, inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hubpub.files.sizes import human


def folder() -> Path:
    """The folder of the shipped templates."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_templates"
    return installed if installed.is_dir() else package.parent / "templates"


def environment(*own: Path) -> Environment:
    """A strict, sandboxed Jinja2 environment: an undefined name is an error.

    Folders in `own` are searched first. The sandbox limits an untrusted template to rendering text.
    """
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader([*own, folder()]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # cards are Markdown; the site that shows a card escapes it
    )
    environment.filters["bytes"] = human
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")  # in a Markdown table
    return environment
