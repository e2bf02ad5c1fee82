"""publish, convert, plan, card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer

from hubpub.cli import app as shared
from hubpub.cli import settings

if TYPE_CHECKING:
    from hubpub.engine.progress import Reporter
    from hubpub.verbs.batch import Attempt, Work
    from hubpub.verbs.publish import Published

Source = Annotated[
    str | None,
    typer.Argument(
        help="A diffusers folder, a Hub repo id, hf:ORG/NAME or git+URL; by default the models of hubpub.toml.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    shared.command(app)(publish)
    shared.command(app)(convert)
    shared.command(app)(plan)
    shared.command(app)(card)


def publish(
    source: Source = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change in the repo; change nothing.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit status 11 where something would change.")
    ] = False,
    create_pr: Annotated[
        bool | None, typer.Option("--create-pr/--no-create-pr", help="Open a pull request instead of committing.")
    ] = None,
    branch: Annotated[str | None, typer.Option("--branch", help="Commit to this branch.")] = None,
    private: Annotated[bool | None, typer.Option("--private/--no-private", help="Make a new repo private.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag the commit.")] = None,
    prune: Annotated[
        bool | None, typer.Option("--prune/--no-prune", help="Remove variants of ours that this run does not name.")
    ] = None,
    sign: Annotated[
        bool | None,
        typer.Option("--sign/--no-sign", help="Sign the manifest with sigstore, as whoever runs this; that is public."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write a summary into this folder: Markdown, JSON, KEY=VALUE.", metavar="DIR"),
    ] = None,
    jobs: shared.Jobs = None,
    memory: shared.Memory = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
    **making: Unpack[shared.Making],
) -> None:
    """Convert, verify, and publish all variants in one commit.

    A folder that `hubpub convert` made is published as it is. Of several models in hubpub.toml, one that fails
    does not stop the others; the exit status is that of the first that failed.

    Example: hubpub publish prompthero/openjourney-v4 --tag v1
    """
    from dataclasses import fields
    from functools import partial

    from hubpub.verbs import publish as verb
    from hubpub.verbs.batch import Work

    given = settings.flags(
        **making, create_pr=create_pr, branch=branch, private=private, tag=tag, prune=prune, sign=sign
    )
    how = settings.running(config, jobs=jobs, memory=memory)
    with settings.session(endpoint=endpoint, token=token, quiet=json or quiet, **how) as session:
        if source is not None and verb.is_converted(Path(source)):
            hears = {field.name for field in fields(verb.Delivery)}
            settings.refuse(given, but=("to", *hears), why="is published as it is")
            chosen = {key: value for key, value in given.items() if key in hears}
            delivery = verb.Delivery(dry_run=dry_run, **chosen)
            folder = partial(
                verb.publish_folder, Path(source), repo_id=making["to"], delivery=delivery, session=session
            )
            work = [Work(source=source, repo_id=making["to"], publish=folder)]
        else:
            work = [
                Work(
                    source=model.source,
                    repo_id=model.to,
                    publish=partial(
                        verb.publish_config, model, delivery=verb.Delivery.of(model, dry_run=dry_run), session=session
                    ),
                )
                for model in settings.models(source, config, given)
            ]
        attempts = _attempt(work, session.report)
    if report is not None:
        from hubpub.verbs.ci_summary import write

        write(attempts, report)
    _conclude(attempts, json=json, quiet=quiet)
    if endpoint == "local" and not (json or quiet or dry_run):
        typer.echo("The embedded Hub has stopped; `hubpub hub serve` shows its repos in a browser.", err=True)
    if dry_run and exit_code and not all(attempt.published and attempt.published.nothing_to_do for attempt in attempts):
        raise typer.Exit(11)


def convert(
    source: Source = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write the release's tree into.")] = None,
    *,
    jobs: shared.Jobs = None,
    memory: shared.Memory = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
    **making: Unpack[shared.Making],
) -> None:
    """Convert a source into the tree that publish uploads.

    Example: hubpub convert ./my-model -o release --to me/coreml-my-model-palettized
    """
    from hubpub.errors import ConfigError
    from hubpub.verbs.convert import make, write
    from hubpub.verbs.preparation import prepare

    if out is None:
        raise ConfigError("No folder was named.", hint="Say where to write with -o DIR.")
    given = settings.flags(**making)
    how = settings.running(config, jobs=jobs, memory=memory)
    with settings.session(endpoint=endpoint, token=token, quiet=json or quiet, **how) as session:
        outcome = make(prepare(settings.model(source, config, given), session, owner=None), session, out=out)
        write(outcome, out, session)
    if json:
        shared.print_json({"path": str(out), "files": len(outcome.artifacts), "bytes": outcome.size})
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
    **making: Unpack[shared.Making],
) -> None:
    """Show the steps that publish would take, and do nothing.

    With bytes and memory of each, and where files will lie in the repo.

    Example: hubpub plan prompthero/openjourney-v4 --attention split_einsum_v2
    """
    from hubpub.verbs.preparation import prepare

    given = settings.flags(**making)
    with settings.session(endpoint=endpoint, token=token, quiet=True) as session:
        plans = []
        for model in settings.models(source, config, given):
            prepared = prepare(model, session, owner=None)
            missing = {step.key for step in prepared.missing(session.store)}
            plans.append((prepared.plan, missing, prepared.snapshot))
    if json:
        shared.print_json(
            [
                {
                    **made.to_json(),
                    "missing": [step.key for step in made.steps if step.key in missing],
                    "source": {"name": snapshot.source.name, "commit": snapshot.commit},
                }
                for made, missing, snapshot in plans
            ]
        )
        return
    for made, missing, _ in plans:
        _show_plan(made, missing)


def card(
    source: Source = None,
    *,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    debug: shared.Debug = False,
    **making: Unpack[shared.Making],
) -> None:
    """Print the card (README.md) that a release would have.

    Of a folder that `hubpub convert` made, or of a source whose steps are done.

    Example: hubpub card release --template mine.md.j2
    """
    from hubpub.verbs import card as verb
    from hubpub.verbs.publish import is_converted

    given = settings.flags(**making)
    if source is not None and is_converted(Path(source)):
        settings.refuse(given, but=("template",), why="is not changed by looking at its card")
        text = verb.of_folder(Path(source), template=making["template"])
    else:
        with settings.session(endpoint=endpoint, token=token, quiet=True) as session:
            text = verb.of_config(settings.model(source, config, given), session)
    typer.echo(text, nl=False)


def _show_plan(made: Any, missing: set[str]) -> None:
    from hubpub.engine.progress import human, table

    # without `to`, publish puts the name of the token's account there
    destination = made.destination if made.config.to else f"<you>/{made.destination.rpartition('/')[2]}"
    typer.echo(f"{made.config.source} → {destination}  ({made.architecture.title}, verify: {made.verify})\n")
    rows = [
        {
            "step": step.kind,
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


def _attempt(work: Sequence[Work], report: Reporter) -> list[Attempt]:
    """Publish each model; of several, say at once what became of it."""
    from hubpub.verbs.batch import attempts

    made = []
    for attempt in attempts(work):
        made.append(attempt)
        if attempt.error is not None and len(work) > 1:
            report.warn(f"{attempt.label} failed: {attempt.error.message}")
    return made


def _conclude(attempts: Sequence[Attempt], *, json: bool, quiet: bool) -> None:
    """Show every receipt and error; the first error ends the command."""
    several = len(attempts) > 1
    if json and (several or attempts[0].error is None):
        told = [attempt.to_json() for attempt in attempts]
        shared.print_json(told if several else told[0])
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
