"""report: a release as one page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli import app as shared


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    shared.command(app)(report)


def report(
    target: Annotated[str, typer.Argument(help="A folder that was converted, or a repo id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path("report.html"),
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", help="A release of another width to compare with; repeatable.", metavar="FOLDER|REPO"
        ),
    ] = None,
    revision: shared.Revision = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Show a release as one HTML page with charts.

    Sizes, quality tensor by tensor, time and memory, pictures, every digest; it asks for nothing.

    Example: hubpub report release -o report.html
    """
    from hubpub.verbs.report import report as verb

    done = verb(target, out, revision=revision, others=against or (), endpoint=endpoint, token=token)
    if json:
        shared.print_json(done.to_json())
    else:
        typer.echo(str(done.path))
