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
    from hubpub.engine.progress import human, table
    from hubpub.engine.store import Store, default_root

    store = Store(default_root())
    entries = sorted(store.entries(), key=lambda entry: entry.created)
    if json:
        shared.print_json(
            [
                {
                    "key": entry.key,
                    "kind": entry.kind,
                    "label": entry.label,
                    "bytes": entry.size,
                    "created": entry.created,
                }
                for entry in entries
            ]
        )
        return
    rows = [
        {"key": entry.key[:12], "step": entry.kind, "what": entry.label, "size": human(entry.size)} for entry in entries
    ]
    typer.echo(table(rows, right=frozenset({"size"})) or "The store is empty.")
    typer.echo(f"{store.root}: {len(entries)} steps, {human(sum(entry.size for entry in entries))}", err=True)


def prune(
    days: Annotated[int, typer.Option("--older-than", min=0, help="Keep steps younger than this many days.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    debug: shared.Debug = False,
) -> None:
    """Remove finished steps, what killed runs left behind, and what was learnt of repos that nobody asks for.

    Example: hubpub cache prune --older-than 30 --yes
    """
    import math
    import time

    from hubpub.engine.progress import human
    from hubpub.engine.store import Store, default_root
    from hubpub.remote.cache import Remembered

    store = Store(default_root())
    limit = time.time() - days * 86400 if days else math.inf  # "all" is all, whatever a clock said
    for key in list(store.unreadable()):
        store.remove(key)
    old = [entry for entry in store.entries() if entry.created <= limit]
    size = sum(entry.size for entry in old)
    if old and not yes:
        typer.confirm(f"Remove {len(old)} steps ({human(size)}) from {store.root}?", abort=True)
    with store.alone():
        store.clean()
        for entry in old:
            store.remove(entry.key)
        forgotten = Remembered(store.root).prune(before=limit)
    typer.echo(f"Removed {len(old)} steps, {human(size)}; forgot {forgotten} repos and folders.")


def verify(debug: shared.Debug = False) -> None:
    """Read every finished step and compare it with its digests; damaged ones are removed.

    Example: hubpub cache verify
    """
    from hubpub.engine.store import Store, default_root
    from hubpub.errors import FindingsError

    store = Store(default_root())
    damaged = [(key, f"{key[:12]}: entry.json cannot be read") for key in store.unreadable()]
    for key, _ in damaged:
        store.remove(key)
    count = len(damaged)
    for entry in list(store.entries()):
        count += 1
        if wrong := store.damage(entry):
            damaged.append((entry.key, f"{entry.label} ({entry.key[:12]}): {wrong}"))
            store.remove(entry.key)
    for _, wrong in damaged:
        typer.echo(f"{wrong}; removed", err=True)
    typer.echo(f"{count} steps read, {len(damaged)} damaged.")
    if damaged:
        raise FindingsError(f"{len(damaged)} steps of the store were damaged.", hint="They are made again when needed.")
