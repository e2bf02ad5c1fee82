"""graphs: ML Programs without weights; which there are, whether they are right, and new ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubpub.cli import app as shared
from hubpub.cli import settings

if TYPE_CHECKING:
    from hubpub.verbs.graphs import Known


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    graphs = typer.Typer(
        help="Networks without weights, as Core ML programs: shipped with hubpub, or built once and kept in the store.",
        no_args_is_help=True,
    )
    shared.command(graphs, name="list")(listing)
    shared.command(graphs)(verify)
    shared.command(graphs)(build)
    app.add_typer(graphs, name="graphs")


def listing(json: shared.Json = False, debug: shared.Debug = False) -> None:
    """List the graphs that are shipped or in the store: whatever has one of these is published without torch.

    Example: hubpub graphs list
    """
    from hubpub.verbs.graphs import known

    with settings.session(quiet=True) as session:
        _show(known(session), json=json)


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Beginnings of keys, components or families [default: all].", metavar="NAME"),
    ] = None,
    shipped: Annotated[bool, typer.Option("--shipped", help="Only those that come with hubpub.")] = False,
    digests: Annotated[bool, typer.Option("--digests", help="Check digests only; build nothing (no torch).")] = False,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Check the digests of graphs, and that building them again gives the same programs (a UNet takes minutes).

    Example: hubpub graphs verify --shipped text_encoder
    """
    from hubpub.verbs.graphs import choose, known
    from hubpub.verbs.graphs import verify as verb

    with settings.session(quiet=json) as session:
        found = [one for one in known(session) if one.file or not shipped]
        chosen = choose(found, names or ())
        built = verb(chosen, session=session, rebuild=not digests, say=session.report.line)
    if json:
        shared.print_json({"graphs": [one.key for one in chosen], "built_again": built})
    else:
        typer.echo(f"{len(chosen)} graphs are what they should be; {built} of them were built again.")


def build(
    source: Annotated[str | None, typer.Argument(help="Folder, Hub repo id, hf:ORG/NAME or git+URL.")] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="In place of a source: sd15, sd21-base, sd21 or demo.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write them here as well, in the form that is shipped.")
    ] = None,
    attention: shared.Attentions = None,
    latent_height: shared.LatentHeight = None,
    latent_width: shared.LatentWidth = None,
    batch_one: shared.BatchOne = None,
    deployment_target: shared.TargetOption = None,
    safety_checker: shared.SafetyChecker = None,
    revision: shared.Revision = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Build the graphs of a source, or of a well-known family, into the store: publishing then needs no torch.

    Example: hubpub graphs build --family sd15 --deployment-target macOS14
    """
    from hubpub.errors import ConfigError
    from hubpub.plan.config import effective
    from hubpub.verbs.graphs import build as verb

    if (source is None) is (family is None):
        raise ConfigError("Which graphs?", hint="Name a source, or a family with --family.")
    given = settings.flags(
        source=source or family,
        attention=attention,
        latent_height=latent_height,
        latent_width=latent_width,
        batch_one=batch_one,
        deployment_target=deployment_target,
        safety_checker=safety_checker,
        revision=revision,
    )
    with settings.session(endpoint=endpoint, token=token, quiet=json) as session:
        _show(verb(effective({}, given), name=family, session=session, out=out), json=json)


def _show(found: Sequence[Known], *, json: bool) -> None:
    from hubpub.engine.progress import human, table

    if json:
        shared.print_json([one.to_json() for one in found])
        return
    rows = [_row(told) | {"size": human(told["bytes"])} for told in (one.to_json() for one in found)]
    typer.echo(table(rows, right=frozenset({"size"})) or "There are none.")


def _row(told: dict[str, Any]) -> dict[str, str]:
    params, versions = told["params"], told["built_with"]
    shape = params.get("latent") or params.get("image") or []
    plain = "unproven" in told["proof"]
    return {
        "key": told["key"][:12],
        "where": told["where"] + (" (plain way)" if plain else ""),
        "component": told["component"],
        "config of": ", ".join(told["families"]) or "another model",
        "attention": params.get("attention", ""),
        "shape": "×".join(map(str, shape)),
        "batch": str(params.get("batch", "")),
        "target": params["target"],
        "built with": f"torch {versions.get('torch', '?')}, coremltools {versions.get('coremltools', '?')}",
    }
