"""publish, convert, plan, card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubpub.cli import app as shared
from hubpub.cli import options
from hubpub.plan.settings import Delivering, Making, Naming, Running

if TYPE_CHECKING:
    from hubpub.plan.plan import Plan
    from hubpub.verbs.batch import Attempt
    from hubpub.verbs.publish import Published

Source = Annotated[
    str | None,
    typer.Argument(
        help="A diffusers folder, a Hub repo id, hf:ORG/NAME or git+URL; by default the models of hubpub.toml.",
        show_default=False,
    ),
]


_MAKING = options.of(Naming, Making)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    shared.command(app, settings=options.of(Naming, Making, Delivering, Running))(publish)
    shared.command(app, settings=options.of(Naming, Making, Running))(convert)
    shared.command(app, settings=_MAKING)(plan)
    shared.command(app, settings=_MAKING)(card)


def publish(
    source: Source = None,
    *,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would change in the repo; change nothing.", rich_help_panel="Release"
        ),
    ] = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="With --dry-run: exit status 11 where something would change.",
            rich_help_panel="Release",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Write a summary into this folder: Markdown, JSON, KEY=VALUE.",
            metavar="DIR",
            rich_help_panel="Output",
        ),
    ] = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
    jobs: int | None = None,
    memory: float | None = None,
    **given: Any,
) -> None:
    """Convert, verify, and publish all variants in one commit.

    A folder that `hubpub convert` made is published as it is. Of several models in hubpub.toml, one that fails
    does not stop the others; the exit status is that of the first that failed.

    Example: hubpub publish prompthero/openjourney-v4 --tag v1
    """
    from hubpub.verbs.batch import nothing_would_change, publish_all
    from hubpub.verbs.session import Session
    from hubpub.verbs.settings import limits

    how = limits(config, jobs=jobs, memory=memory)
    with Session.open(endpoint=endpoint, token=token, quiet=json or quiet, **how) as session:
        attempts = publish_all(source, config, given, dry_run=dry_run, summary=report, session=session)
    _conclude(attempts, json=json, quiet=quiet)
    if endpoint == "local" and not (json or quiet or dry_run):
        typer.echo("The embedded Hub has stopped; `hubpub hub serve` shows its repos in a browser.", err=True)
    if dry_run and exit_code and not nothing_would_change(attempts):
        raise typer.Exit(11)


def convert(
    source: Source = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder to write the release's tree into.", rich_help_panel="Output"),
    ] = None,
    *,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
    jobs: int | None = None,
    memory: float | None = None,
    **given: Any,
) -> None:
    """Convert a source into the tree that publish uploads.

    Example: hubpub convert ./my-model -o release --to me/coreml-my-model-palettized
    """
    from hubpub.errors import ConfigError
    from hubpub.verbs.convert import convert_config
    from hubpub.verbs.session import Session
    from hubpub.verbs.settings import limits, model

    if out is None:
        raise ConfigError("No folder was named.", hint="Say where to write with -o DIR.")
    how = limits(config, jobs=jobs, memory=memory)
    with Session.open(endpoint=endpoint, token=token, quiet=json or quiet, **how) as session:
        outcome = convert_config(model(source, config, given), out=out, session=session)
    if json:
        shared.print_json(outcome.to_json())
    else:
        typer.echo(str(out))


def plan(
    source: Source = None,
    *,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
    **given: Any,
) -> None:
    """Show the steps that publish would take, and do nothing.

    With bytes and memory of each, and where files will lie in the repo.

    Example: hubpub plan prompthero/openjourney-v4 --attention split_einsum_v2
    """
    from hubpub.verbs.plan import plan_all
    from hubpub.verbs.session import Session

    with Session.open(endpoint=endpoint, token=token) as session:
        plans = plan_all(source, config, given, session=session)
    if json:
        shared.print_json([planned.to_json() for planned in plans])
        return
    for planned in plans:
        _show_plan(planned.plan, planned.missing)


def card(
    source: Source = None,
    *,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    debug: shared.Debug = False,
    **given: Any,
) -> None:
    """Print the card (README.md) that a release would have.

    Of a folder that `hubpub convert` made, or of a source whose steps are done.

    Example: hubpub card release --template mine.md.j2
    """
    from hubpub.verbs.card import card_of
    from hubpub.verbs.session import Session

    with Session.open(endpoint=endpoint, token=token) as session:
        text = card_of(source, config, given, session=session)
    typer.echo(text, nl=False)


def _show_plan(made: Plan, missing: frozenset[str]) -> None:
    from hubpub.engine.progress import table
    from hubpub.files.sizes import human

    # without `to`, publish puts the name of the token's account there
    destination = made.destination if made.config.to else f"<you>/{made.destination.rpartition('/')[2]}"
    typer.echo(f"{made.config.source} → {destination}  ({made.architecture.title}, verify: {made.verify})")
    scales = {adapter.source: f" at scale {adapter.scale:g}" for adapter in made.adapters}
    for name, snapshot in made.sources.items():
        if name != "model":
            typer.echo(f"  {name.partition('/')[0]}: {snapshot.source.name}{scales.get(name, '')}")
    typer.echo("")
    rows = [
        {
            "step": step.kind(),
            "what": step.label,
            "writes": human(step.size) if step.size else "",
            "memory": human(step.memory),
            "state": "to do" if step.key in missing else "done before",
        }
        for step in made.steps
    ]
    typer.echo(table(rows, right=frozenset({"writes", "memory"})))
    todo = [step for step in made.steps if step.key in missing]
    if todo:
        peak = max(step.memory for step in todo)
        typer.echo(
            f"\n{len(todo)} of {len(made.steps)} steps to do: about {human(sum(step.size for step in todo))} of disk, "
            f"{human(peak)} of memory for the largest."
        )
    else:
        typer.echo("\nNothing to do: every step is in the store.")
    typer.echo("\nIn the repo:")
    for target in made.targets:
        typer.echo(f"  {target.path_in_repo}")


def _conclude(attempts: Sequence[Attempt], *, json: bool, quiet: bool) -> None:
    """Show every receipt and error; the first error ends the command."""
    several = len(attempts) > 1
    if json and (several or attempts[0].error is None):
        documents = [attempt.to_json() for attempt in attempts]
        shared.print_json(documents if several else documents[0])
    for attempt in attempts:
        if attempt.published is not None and not json:
            _show(attempt.published, quiet=quiet)
        elif attempt.error is not None and several:
            typer.echo(f"\n{attempt.label}:", err=True)
            shared.show_error(attempt.error)
    if several and not json and not quiet:
        from hubpub.cli.receipts import show_attempts

        show_attempts(attempts)
    failed = [attempt.error for attempt in attempts if attempt.error is not None]
    if failed and several:
        raise typer.Exit(failed[0].exit_status)
    if failed:
        raise failed[0]


def _show(published: Published, *, quiet: bool) -> None:
    if quiet:
        typer.echo(published.receipt.pull_request or published.receipt.url)
    else:
        from hubpub.cli.receipts import show_published

        show_published(published)
