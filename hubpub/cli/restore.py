"""restore."""

from __future__ import annotations

from typing import Annotated

import typer

from hubpub.cli import app as shared


def register(app: typer.Typer) -> None:
    """Add this group's command."""
    shared.command(app)(restore)


def restore(
    repo: Annotated[str, typer.Argument(help="Repo id.")],
    revision: Annotated[str, typer.Argument(help="Tag or commit of the release to bring back.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change in the repo; change nothing.")
    ] = False,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
) -> None:
    """Bring an earlier release back to the main branch of a repo.

    In one commit, without an upload: the Hub has its large files still.

    Example: hubpub restore me/coreml-openjourney-v4-palettized v1 --dry-run
    """
    from hubpub.cli.receipts import show_published
    from hubpub.verbs.restore import restore as verb
    from hubpub.verbs.session import Session

    with Session.open(endpoint=endpoint, token=token, quiet=json or quiet) as session:
        published = verb(repo, revision, session=session, dry_run=dry_run)
    if json:
        shared.print_json(published.to_json())
    elif quiet:
        typer.echo(published.receipt.url)
    else:
        show_published(published)
