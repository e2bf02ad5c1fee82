"""cache: the store of finished steps."""

from __future__ import annotations

from typing import Annotated

import typer

from hubpub.cli import app as shared


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    cache = typer.Typer(help="The store of finished steps.", no_args_is_help=True)
    shared.command(cache, name="ls")(listing)
    shared.command(cache)(prune)
    shared.command(cache)(verify)
    app.add_typer(cache, name="cache")


def listing(json: shared.Json = False, debug: shared.Debug = False) -> None:
    """List the finished steps.

    Example: hubpub cache ls
    """
    from hubpub.engine.progress import table
    from hubpub.files.sizes import human
    from hubpub.verbs import cache as verb
    from hubpub.verbs.session import Session

    with Session.open() as session:
        steps = verb.steps(session)
    if json:
        shared.print_json(steps.to_json())
        return
    rows = [
        {"key": entry.key[:12], "step": entry.kind, "what": entry.label, "size": human(entry.size)}
        for entry in steps.entries
    ]
    typer.echo(table(rows, right=frozenset({"size"})) or "The store is empty.")
    typer.echo(f"{steps.root}: {steps.summary}", err=True)


def prune(
    days: Annotated[int, typer.Option("--older-than", min=0, help="Keep steps younger than this many days.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    debug: shared.Debug = False,
) -> None:
    """Remove finished steps, what killed runs left behind, and facts about repos that were not used lately.

    Example: hubpub cache prune --older-than 30 --yes
    """
    from hubpub.verbs import cache as verb
    from hubpub.verbs.session import Session

    def agree(old: verb.Steps) -> bool:
        return yes or typer.confirm(f"Remove {old.summary} from {old.root}?")

    with Session.open() as session:
        pruned = verb.prune(session, days=days, agree=agree)
    if pruned is None:
        raise typer.Abort
    typer.echo(f"Removed {pruned.steps.summary}; forgot {pruned.forgotten} repos and folders.")


def verify(debug: shared.Debug = False) -> None:
    """Read every finished step and compare it with its digests; damaged ones are removed.

    Example: hubpub cache verify
    """
    from hubpub.verbs import cache as verb
    from hubpub.verbs.session import Session

    with Session.open() as session:
        checked = verb.verify(session)
    for wrong in checked.damaged:
        typer.echo(f"{wrong}; removed", err=True)
    typer.echo(f"{checked.steps} steps read, {len(checked.damaged)} damaged.")
    verb.raise_damaged(checked)
