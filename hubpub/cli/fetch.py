"""fetch, variants, verify, audit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubpub.cli import app as shared
from hubpub.cli import settings

if TYPE_CHECKING:
    from hubpub.remote.signing import Wanted
    from hubpub.verbs.measure import Measured

Repo = Annotated[
    str | None, typer.Argument(help="Repo id; by default the one that hubpub.toml names.", show_default=False)
]
VerifySignature = Annotated[
    bool | None,
    typer.Option("--verify-signature/--no-verify-signature", help="Demand a valid signature of the manifest."),
]
Identity = Annotated[
    str | None, typer.Option("--identity", help="Who must have signed: an e-mail address or a workflow's address.")
]
Issuer = Annotated[
    str | None, typer.Option("--issuer", help="Who must have vouched for the signer: address of an OIDC issuer.")
]

ComparedSource = Annotated[
    str | None,
    typer.Option("--source", metavar="SOURCE", help="Run the packages and this source, and compare the numbers."),
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    shared.command(app)(fetch)
    shared.command(app)(variants)
    shared.command(app)(verify)
    shared.command(app)(audit)


def fetch(
    repo: Repo = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="ATTENTION/FORMAT [default: original/packages].")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Source of the model, where hubpub.toml names several.")
    ] = None,
    revision: shared.Revision = None,
    dest: Annotated[
        Path | None, typer.Option("--dest", help="Folder to write into [default: models/<repo>_<variant>].")
    ] = None,
    archive: Annotated[bool | None, typer.Option("--zip/--no-zip", help="Download the archive and unpack it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be downloaded.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Download again, and remove files that do not belong.")
    ] = False,
    verify_signature: VerifySignature = None,
    identity: Identity = None,
    issuer: Issuer = None,
    app_config: Annotated[
        Path | None,
        typer.Option(
            "--app-config",
            help="Write what an app needs to download the archive itself, as JSON; with --dry-run nothing else.",
            metavar="FILE",
        ),
    ] = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
) -> None:
    """Bring one variant back, every file checked; print its folder.

    Example: hubpub fetch apple/coreml-stable-diffusion-v1-5-palettized --variant original/packages
    """
    from hubpub.cli.receipts import show_download, show_extra
    from hubpub.verbs import app
    from hubpub.verbs import fetch as verb

    repo_id = repo or _configured(model, config)
    wanted = settings.fetching(
        config, variant=variant, revision=revision, dest=dest, zip=archive,
        verify_signature=verify_signature, identity=identity, issuer=issuer,
    )  # fmt: skip
    with settings.session(endpoint=endpoint, token=token, quiet=json or quiet) as session:
        fetched = verb.run(
            repo_id,
            wanted.variant,
            hub=session.hub,
            revision=wanted.revision,
            dest=Path(wanted.dest) if wanted.dest is not None else None,
            archive=wanted.zip,
            dry_run=dry_run,
            force=force,
            signed_by=_signed_by(wanted.verify_signature, wanted.identity, wanted.issuer),
            progress=session.report.transfer,
        )
        if app_config is not None:
            app.write_config(fetched, app_config, hub=session.hub)
        lines = None if json or quiet or dry_run else app.lines(fetched, hub=session.hub)
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
        if lines:
            typer.echo(f"\n{lines}", err=True)


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
    from hubpub.engine.progress import human, table
    from hubpub.verbs import fetch as verb

    with settings.session(endpoint=endpoint, token=token, quiet=True) as session:
        offers = verb.variants(repo or _configured(None, config), hub=session.hub, revision=revision)
    if json:
        shared.print_json([{"variant": offer.name, "files": len(offer.files), "bytes": offer.size} for offer in offers])
        return
    rows = [{"variant": offer.name, "files": str(len(offer.files)), "size": human(offer.size)} for offer in offers]
    typer.echo(table(rows, right=frozenset({"files", "size"})))


def verify(
    target: Annotated[str, typer.Argument(help="A folder that was converted or fetched, or a repo id.")],
    revision: shared.Revision = None,
    verify_signature: VerifySignature = None,
    identity: Identity = None,
    issuer: Issuer = None,
    source: ComparedSource = None,
    floor: shared.Floors = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Check a release again: digests, structure, what apps need.

    Also that each compiled bundle belongs to its package.

    Example: hubpub verify models/coreml-openjourney-v4-palettized_original_packages --source prompthero/openjourney-v4
    """
    from hubpub.verbs import measure
    from hubpub.verbs import verify as verb

    with settings.session(endpoint=endpoint, token=token, quiet=json) as session:
        signed_by = _signed_by(bool(verify_signature), identity, issuer)
        floors = settings.floors(floor or ())
        verified = verb.check(target, session=session, revision=revision, signed_by=signed_by)
        measured = (
            measure.measure(target, source, session=session, revision=revision, floors=floors)
            if source is not None and not verified.findings
            else ()
        )
    if json:
        numbers = {"measured": [one.to_json() for one in measured]} if source is not None else {}
        shared.print_json({**verified.to_json(), **numbers})
    else:
        for finding in verified.findings:
            typer.echo(f"{finding.path} {finding.problem}", err=True)
        typer.echo(verified.summary)
        if measured:
            typer.echo("\n" + _numbers(measured))
    verb.raise_findings(verified)
    measure.raise_low(measured)


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

    with settings.session(endpoint=endpoint, token=token, quiet=json) as session:
        audited = verb.audit(target, hub=session.hub, revision=revision)
    if json:
        shared.print_json(audited.to_json())
    else:
        for finding in audited.findings:
            typer.echo(f"{finding.severity:7}  {finding.path}: {finding.sentence}")
        for path, told in audited.bundles.items():
            typer.echo(f"bundle   {path}: {told}")
        typer.echo(f"{target}: {len(audited.variants)} variants, {len(audited.errors)} errors.")
    verb.raise_errors(audited)


def _signed_by(demanded: bool, identity: str | None, issuer: str | None) -> Wanted | None:
    """Whose signature is demanded; naming somebody demands it, too."""
    from hubpub.remote.signing import Wanted

    return Wanted(identity=identity, issuer=issuer) if demanded or identity or issuer else None


def _configured(model: str | None, config: Path | None) -> str:
    """The destination that the config file names."""
    from hubpub.errors import ConfigError
    from hubpub.plan.config import read_file

    listed: list[Any] = [entry for entry in read_file(config, Path.cwd()) if entry.get("to")]
    if model is not None:
        listed = [entry for entry in listed if model in (entry.get("source"), entry["to"])]
    if len(listed) == 1:
        return str(listed[0]["to"])
    if not listed:
        raise ConfigError(
            "No repo was named.", hint="Name one, or write hubpub.toml with `to` under [[models]] (see --model)."
        )
    names = ", ".join(str(entry["to"]) for entry in listed)
    raise ConfigError(f"The config file names several repos: {names}.", hint="Choose one with --model.")
