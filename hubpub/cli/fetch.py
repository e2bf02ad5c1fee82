"""fetch, variants, verify, audit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubpub.cli import app as shared
from hubpub.cli import options
from hubpub.plan.settings import Fetching, Making

if TYPE_CHECKING:
    from hubpub.verbs.measure import Measured

Repo = Annotated[
    str | None, typer.Argument(help="Repo id; by default the one that hubpub.toml names.", show_default=False)
]
ComparedSource = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Run the packages and this source, and compare the numbers.",
        rich_help_panel="Checks",
    ),
]


_SIGNED = options.of(Fetching, only=("verify_signature", "identity", "issuer"))
# What a release may be made from, beside the source.
_FROM = ("refiner", "controlnet", "vae", "lora", "weights_variant", "prediction_type")
_CHECKED = {**_SIGNED, **options.of(Making, only=("floor", *_FROM))}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    shared.command(app, settings=options.of(Fetching))(fetch)
    shared.command(app)(variants)
    shared.command(app, settings=_CHECKED)(verify)
    shared.command(app)(audit)


def fetch(
    repo: Repo = None,
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Source of the model, where hubpub.toml names several.", rich_help_panel="Source"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be downloaded.", rich_help_panel="Output")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Download again, and remove files that do not belong.", rich_help_panel="Output"),
    ] = False,
    app_config: Annotated[
        Path | None,
        typer.Option(
            "--app-config",
            help="Write what an app needs to download the archive itself, as JSON; with --dry-run nothing else.",
            metavar="FILE",
            rich_help_panel="Output",
        ),
    ] = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
    **given: Any,
) -> None:
    """Bring one variant back, every file checked; print its folder.

    Example: hubpub fetch apple/coreml-stable-diffusion-v1-5-palettized --variant original/packages
    """
    from hubpub.cli.receipts import show_download, show_extra
    from hubpub.verbs.fetch import fetch_as
    from hubpub.verbs.session import Session
    from hubpub.verbs.settings import configured, fetching

    with Session.open(endpoint=endpoint, token=token, quiet=json or quiet) as session:
        fetched = fetch_as(
            fetching(config, given),
            repo_id=repo or configured(model, config),
            dry_run=dry_run,
            force=force,
            app_config=app_config,
            usage=not (json or quiet),
            session=session,
        )
    if fetched.extra:
        show_extra(fetched)
    if json:
        shared.print_json(fetched.to_json())
    elif dry_run and not quiet:
        show_download(fetched)
    else:
        typer.echo(str(fetched.folder))
        if fetched.signer is not None and not quiet:
            typer.echo(f"Signed by {fetched.signer}.", err=True)
        if fetched.usage:
            typer.echo(f"\n{fetched.usage}", err=True)


def variants(
    repo: Repo = None,
    revision: shared.Revision = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """List the variants that a repo offers, with files and bytes.

    Example: hubpub variants apple/coreml-stable-diffusion-2-1-base-palettized
    """
    from hubpub.engine.progress import table
    from hubpub.files.sizes import human
    from hubpub.verbs.fetch import variants as verb
    from hubpub.verbs.session import Session
    from hubpub.verbs.settings import configured

    with Session.open(endpoint=endpoint, token=token) as session:
        offers = verb(repo or configured(None, config), revision=revision, session=session)
    if json:
        shared.print_json([offer.to_json() for offer in offers])
        return
    rows = [{"variant": offer.name, "files": str(len(offer.files)), "size": human(offer.size)} for offer in offers]
    typer.echo(table(rows, right=frozenset({"files", "size"})))


def verify(
    target: Annotated[str, typer.Argument(help="A folder that was converted or fetched, or a repo id.")],
    revision: shared.Revision = None,
    source: ComparedSource = None,
    *,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
    **given: Any,
) -> None:
    """Check a release again: digests, structure, what apps need.

    Also that each compiled bundle belongs to its package.

    Example: hubpub verify models/coreml-openjourney-v4-palettized_original_packages --source prompthero/openjourney-v4
    """
    from hubpub.verbs.measure import check_and_measure
    from hubpub.verbs.session import Session

    with Session.open(endpoint=endpoint, token=token, quiet=json) as session:
        compared = check_and_measure(target, source, revision=revision, session=session, **given)
    if json:
        shared.print_json(compared.to_json())
    else:
        for finding in compared.verified.findings:
            typer.echo(f"{finding.path} {finding.problem}", err=True)
        typer.echo(compared.verified.summary)
        if compared.measured:
            typer.echo("\n" + _numbers(compared.measured))
    compared.raise_wrong()


def _numbers(measured: Iterable[Measured]) -> str:
    from hubpub.engine.progress import table

    rows = [
        {
            "component": one.component,
            "variant": ", ".join(name.rpartition("/")[0] or "." for name in one.packages),
            "bits": str(one.bits),
            "compared with": one.against.rpartition("/")[0] or one.against,
            "PSNR": f"{min(one.psnr, 200):.1f} dB",
            "floor": "–" if one.floor is None else f"{one.floor:g} dB",
            "": "" if one.passed else "too low",
        }
        for one in measured
    ]
    return table(rows, right=frozenset({"bits", "PSNR", "floor"}))


def audit(
    target: Annotated[str, typer.Argument(help="A repo id (anyone's), or a folder.")],
    revision: shared.Revision = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Find what apps will stumble over in a release.

    In anybody's repo, without downloading its weights.

    Example: hubpub audit apple/coreml-stable-diffusion-v1-5-palettized
    """
    from hubpub.verbs import audit as verb
    from hubpub.verbs.session import Session

    with Session.open(endpoint=endpoint, token=token, quiet=json) as session:
        audited = verb.audit(target, revision=revision, session=session)
    if json:
        shared.print_json(audited.to_json())
    else:
        for finding in audited.findings:
            typer.echo(f"{finding.severity:7}  {finding.path}: {finding.sentence}")
        for path, compiler in audited.bundles.items():
            typer.echo(f"bundle   {path}: {compiler}")
        typer.echo(f"{target}: {len(audited.variants)} variants, {len(audited.errors)} errors.")
    verb.raise_errors(audited)
