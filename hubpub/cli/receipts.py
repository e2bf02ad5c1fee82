"""Receipts and listings for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from hubpub.engine.progress import table
from hubpub.files.sizes import human
from hubpub.remote.destinations import changes

if TYPE_CHECKING:
    from hubpub.verbs.batch import Attempt
    from hubpub.verbs.publish import Published


def show_published(published: Published) -> None:
    """What a publish did (or, dry, would do), and what to do next."""
    receipt = published.receipt
    changed = changes(published.operations)
    same = len(published.operations) - len(changed)
    if published.dry_run:
        _show_dry_run(published)
        return
    if receipt.nothing_to_do:
        typer.echo(f"Nothing to do: {receipt.repo_id} already holds this release ({same} files).")
    else:
        sent = human(receipt.sent_bytes)
        typer.echo(
            f"Published {len(changed)} files to {receipt.repo_id} in one commit ({sent} sent, {same} unchanged)."
        )
        if receipt.tag:
            typer.echo(f"Tagged {receipt.tag}.")
    typer.echo(receipt.pull_request or receipt.url)


def show_attempts(attempts: Sequence[Attempt]) -> None:
    """A line for each of several models."""
    rows = []
    for attempt in attempts:
        published, error = attempt.published, attempt.error
        if error is not None:
            result = f"failed: {type(error).__name__}"
        elif published is not None and published.nothing_to_do:
            result = "nothing to do"
        elif published is not None and published.dry_run:
            result = f"{len(changes(published.operations))} files would change"
        else:
            result = "published"
        sent = human(published.receipt.sent_bytes) if published is not None and not published.dry_run else ""
        rows.append({"model": attempt.source, "repo": attempt.repo_id or "", "result": result, "sent": sent})
    typer.echo("\n" + table(rows, right=frozenset({"sent"})))


def _show_dry_run(published: Published) -> None:
    changed = changes(published.operations)
    about = "about " if published.steps_to_do else ""
    rows = [
        {
            "change": operation.action,
            "path": operation.path,
            "size": about + human(operation.size) if operation.size else "",
        }
        for operation in changed
    ]
    if rows:
        typer.echo(table(rows, right=frozenset({"size"})))
    if published.steps_to_do:
        typer.echo(f"\n{len(published.steps_to_do)} steps would be made first (`hubpub plan` shows them).")
        return
    same = len(published.operations) - len(changed)
    if not changed:
        typer.echo(f"Nothing would change: {published.receipt.repo_id} already holds this release ({same} files).")
        return
    size = human(published.receipt.planned_bytes)
    typer.echo(f"\n{len(changed)} files would change ({size} to send), {same} stay as they are.")


def show_download(fetched: Any) -> None:
    """What a fetch would bring."""
    rows = [{"file": file.path, "size": human(file.size)} for file in fetched.missing]
    if rows:
        typer.echo(table(rows, right=frozenset({"size"})))
    size = sum(file.size for file in fetched.missing)
    typer.echo(f"{len(rows)} files, {human(size)}, would go to {fetched.folder}.")


def show_extra(fetched: Any) -> None:
    """Files of the folder that the variant does not have."""
    named = ", ".join(fetched.extra[:3]) + (" …" if len(fetched.extra) > 3 else "")
    count = "1 file" if len(fetched.extra) == 1 else f"{len(fetched.extra)} files"
    typer.echo(
        f"Warning: {fetched.folder} also holds {count} that {fetched.variant} does not have: {named}. "
        "--force removes those that lie inside models.",
        err=True,
    )
