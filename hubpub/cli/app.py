"""The typer application, how its commands fail, and the options that they share."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hubpub import __version__
from hubpub.cli import options
from hubpub.errors import HubpubError
from hubpub.plan.settings import Declared

app = typer.Typer(
    name="hubpub",
    help="Publish Stable Diffusion models to the Hugging Face Hub as Core ML, from any machine; and fetch them back.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help answers in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"hubpub {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Publish Stable Diffusion models to the Hugging Face Hub as Core ML, from any machine; and fetch them back."""


# Options that are no settings. The names are those of the Hub's own program where it has them.
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.", rich_help_panel="Output")]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the result only: a path, a URL.", rich_help_panel="Output")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Output")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        help="Token of the Hub; by default HF_TOKEN or the one that `hf` has stored.",
        rich_help_panel="Connection",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="Address of the Hub, or `local` for the embedded one.",
        metavar="URL|local",
        rich_help_panel="Connection",
    ),
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.", rich_help_panel="Source")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Config file [default: hubpub.toml, else pyproject.toml, here].", rich_help_panel="Source"
    ),
]


# How typer itself ends a command.
_CONTROL = (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError)


def command(
    group: typer.Typer, *, name: str | None = None, settings: Mapping[str, Declared] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose errors are sentences and exit statuses.

    Of `settings`, those that were given are keyword arguments of the function.
    """
    settings = settings or {}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **options.given(kwargs, settings))
            except HubpubError as error:
                show_error(error, debug=bool(kwargs.get("debug")))
                raise typer.Exit(error.exit_status) from None
            except Exception as error:
                # An unforeseen error is a bug of hubpub: one sentence, and the traceback with --debug.
                if isinstance(error, _CONTROL) or kwargs.get("debug"):
                    raise
                typer.echo(f"Error: hubpub itself failed: {type(error).__name__}: {error}", err=True)
                typer.echo("Hint: Run again with --debug and report what it shows. Nothing finished is lost.", err=True)
                raise typer.Exit(1) from None
            except KeyboardInterrupt:
                typer.echo("\nStopped. What is finished is kept; run the same command again to go on.", err=True)
                raise typer.Exit(130) from None

        guarded.__signature__ = options.spread(function, settings)  # type: ignore[attr-defined]
        return group.command(name, cls=options.GroupedHelp)(guarded)

    return register


def show_error(error: HubpubError, *, debug: bool = False) -> None:
    """A sentence and a hint, on stderr."""
    if debug:
        import traceback

        traceback.print_exception(error)
    typer.echo(f"Error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"Hint: {error.hint}", err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


@contextmanager
def completing() -> Iterator[None]:
    """A reader that closes the pipe early (`hubpub plan | head`) is no error."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
