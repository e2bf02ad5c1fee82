"""The one place that knows where the templates are: beside the package in a checkout, inside it in a wheel."""

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
    """A strict environment: a name that is not there is an error, never a blank.

    Folders in `own` are looked in first. Sandboxed: a template of somebody else's can
    fill in a card and do nothing more.
    """
    made = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader([*own, folder()]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: whoever shows the card escapes
    )
    made.filters["bytes"] = human
    made.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")  # in a Markdown table
    return made
