"""init, doctor, config: the first commands, and those that explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli import app as shared
from hubpub.cli import options
from hubpub.plan.settings import Making, Naming


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    shared.command(app, settings=options.of(Naming, Making, only=("to", "license")))(init)
    shared.command(app)(doctor)
    config = typer.Typer(help="hubpub.toml: what it comes to, and its schema.", no_args_is_help=True)
    shared.command(config)(show)
    shared.command(config)(schema)
    app.add_typer(config, name="config")


def init(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A diffusers folder, a Hub repo id, hf:ORG/NAME or git+URL; by default the one folder here.",
            show_default=False,
        ),
    ] = None,
    *,
    to: str | None = None,
    license: str | None = None,
    workflow: Annotated[
        bool | None, typer.Option("--workflow/--no-workflow", help="Write the GitHub workflow [default: yes].")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take what is given, and the defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there, unasked.")] = False,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
) -> None:
    """Write hubpub.toml, and a workflow that publishes what it names. Overwrites nothing unasked.

    Example: hubpub init prompthero/openjourney-v4 --yes
    """
    from hubpub.verbs.init import init as verb

    written = verb(
        Path.cwd(),
        source=source,
        to=to,
        license=license,
        workflow=workflow,
        force=force,
        ask=None if yes else _Terminal(),
        endpoint=endpoint,
        token=token,
    )
    for file in written:
        typer.echo(file.path.as_posix())
    if not quiet:
        typer.echo("\nNext:  hubpub doctor,  hubpub plan,  hubpub publish --dry-run", err=True)


class _Terminal:
    """Prompts on the terminal."""

    def text(self, question: str, *, default: str | None) -> str:
        answer: str = typer.prompt(question, default=default, show_default=bool(default))
        return answer

    def confirm(self, question: str, *, default: bool) -> bool:
        return typer.confirm(question, default=default)


def doctor(
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Say what is missing here, line by line, with what to do.

    The exit status is 4 where something needed is broken.

    Example: hubpub doctor
    """
    from hubpub.verbs import doctor as verb
    from hubpub.verbs.session import Session

    with Session.open(endpoint=endpoint, token=token) as session:
        checks = list(verb.examine(session))
    if json:
        shared.print_json([check.to_json() for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = {"ok": "ok    ", "note": "note  ", "broken": "BROKEN"}[check.state]
            typer.echo(f"{mark}  {check.name:{width}}  {check.found}")
            if check.to_do:
                typer.echo(f"{'':8}{'':{width}}  → {check.to_do}")
    verb.raise_broken(checks)


def show(
    source: Annotated[
        str | None, typer.Argument(help="Source of one model; by default all of hubpub.toml.", show_default=False)
    ] = None,
    config: shared.ConfigFile = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Print what hubpub.toml comes to, defaults included, as TOML; with --json one object per model.

    Example: hubpub config show
    """
    from hubpub.verbs.config import show as verb

    shown = verb(source, config)
    if json:
        shared.print_json(shown.to_json())
    else:
        typer.echo(shown.to_toml(), nl=False)


def schema(debug: shared.Debug = False) -> None:
    """Print the JSON Schema of hubpub.toml, for editors.

    Example: hubpub config schema > hubpub.schema.json
    """
    from hubpub.plan.config import schema as made

    shared.print_json(made())
