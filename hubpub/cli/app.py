"""The typer application, how its commands fail, and the options that they share."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_type_hints

import typer

from hubpub import __version__
from hubpub.errors import HubpubError

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


# Options that commands share. The names are those of the Hub's own program where it has them.
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only: a path, a URL.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Token = Annotated[
    str | None, typer.Option("--token", help="Token of the Hub; by default HF_TOKEN or the one that `hf` has stored.")
]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint", help="Address of the Hub, or `local` for the embedded one.", metavar="URL|local"),
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit.")]
Attentions = Annotated[
    list[str] | None,
    typer.Option(
        "--attention",
        help="original, split_einsum or split_einsum_v2; repeatable [default: original, split_einsum_v2].",
        metavar="NAME",
    ),
]
Bits = Annotated[int | None, typer.Option("--bits", help="16, 8, 6, 4, 2 or 1 bits per weight [default: 6].")]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="packages, compiled or zip; repeatable [default: all].", metavar="NAME"),
]
Verify = Annotated[
    str | None,
    typer.Option("--verify", help="numeric, weights or off [default: numeric where torch is installed, else weights]."),
]
Floors = Annotated[
    list[str] | None,
    typer.Option("--floor", help="Lowest accepted PSNR of a component, as COMPONENT=DB; repeatable."),
]
License = Annotated[str | None, typer.Option("--license", help="Licence id, where the source names none.")]
Name = Annotated[str | None, typer.Option("--name", help="ORG/NAME that a local source is known by.")]
To = Annotated[
    str | None, typer.Option("--to", help="Destination repo [default: <you>/coreml-<name>-palettized].", metavar="REPO")
]
LatentHeight = Annotated[int | None, typer.Option("--latent-height", help="Latent height (image height / 8).")]
LatentWidth = Annotated[int | None, typer.Option("--latent-width", help="Latent width (image width / 8).")]
BatchOne = Annotated[bool | None, typer.Option("--batch-one/--no-batch-one", help="UNet for batch 1 instead of 2.")]
TargetOption = Annotated[
    str | None,
    typer.Option("--deployment-target", help="macOS13/iOS16, macOS14/iOS17 or macOS15/iOS18 [default: macOS13]."),
]
SafetyChecker = Annotated[
    bool | None,
    typer.Option("--safety-checker/--no-safety-checker", help="Convert the source's safety checker [default: yes]."),
]
Template = Annotated[Path | None, typer.Option("--template", help="Card template of your own (Jinja2).")]
Compiler = Annotated[
    str | None, typer.Option("--compiler", help="auto, portable, or apple (needs Xcode) [default: auto].")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", help="Draw this and publish the picture with the card; repeatable.", metavar="TEXT"),
]
PromptSteps = Annotated[
    int | None, typer.Option("--prompt-steps", help="Scheduler steps of each picture [default: 20].")
]
PromptGuidance = Annotated[
    float | None, typer.Option("--prompt-guidance", help="Guidance scale of each picture [default: 7.5].")
]
Jobs = Annotated[int | None, typer.Option("--jobs", min=1, help="Steps at once [default: number of cores, at most 4].")]
Memory = Annotated[
    float | None,
    typer.Option("--memory", min=0.1, help="GB that steps may use together [default: 80 % of what is free]."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Config file [default: hubpub.toml, else pyproject.toml, here].")
]


class Making(TypedDict):
    """The options that say what is made, of publish, convert and plan alike; each is a key of hubpub.toml."""

    to: To
    attention: Attentions
    bits: Bits
    formats: Formats
    verify: Verify
    floor: Floors
    revision: Revision
    license: License
    name: Name
    latent_height: LatentHeight
    latent_width: LatentWidth
    batch_one: BatchOne
    deployment_target: TargetOption
    safety_checker: SafetyChecker
    template: Template
    compiler: Compiler
    prompts: Prompts
    prompt_steps: PromptSteps
    prompt_guidance: PromptGuidance


# How typer itself ends a command.
_CONTROL = (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError)


def command(group: typer.Typer, *, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose errors are sentences and exit statuses."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except HubpubError as error:
                show_error(error, debug=bool(kwargs.get("debug")))
                raise typer.Exit(error.exit_status) from None
            except Exception as error:
                # Whatever was not foreseen is a fault of ours: said in a sentence, and shown whole to who asks.
                if isinstance(error, _CONTROL) or kwargs.get("debug"):
                    raise
                typer.echo(f"Error: hubpub itself failed: {type(error).__name__}: {error}", err=True)
                typer.echo("Hint: Run again with --debug and report what it shows. Nothing finished is lost.", err=True)
                raise typer.Exit(1) from None
            except KeyboardInterrupt:
                typer.echo("\nStopped. What is finished is kept; run the same command again to go on.", err=True)
                raise typer.Exit(130) from None

        guarded.__signature__ = _spread(function)  # type: ignore[attr-defined]
        return group.command(name)(guarded)

    return register


def _spread(function: Callable[..., None]) -> inspect.Signature:
    """A signature in which `**making: Unpack[Making]` is an option a key, None where it is not given."""
    given = list(inspect.signature(function, eval_str=True).parameters.values())
    if given[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return inspect.Signature(given)
    (options,) = get_args(given.pop().annotation)
    spread = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in get_type_hints(options, include_extras=True).items()
    ]
    own = [parameter for parameter in given if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    return inspect.Signature([*given[: len(given) - len(own)], *spread, *own])


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
