"""publish, convert, plan, card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubpub.cli import app as shared
from hubpub.cli import settings

if TYPE_CHECKING:
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


def publish(
    source: Source = None,
    to: shared.To = None,
    attention: shared.Attentions = None,
    bits: shared.Bits = None,
    formats: shared.Formats = None,
    verify: shared.Verify = None,
    floor: shared.Floors = None,
    revision: shared.Revision = None,
    license: shared.License = None,
    name: shared.Name = None,
    latent_height: shared.LatentHeight = None,
    latent_width: shared.LatentWidth = None,
    batch_one: shared.BatchOne = None,
    deployment_target: shared.TargetOption = None,
    no_safety_checker: shared.NoSafetyChecker = False,
    template: shared.Template = None,
    compiler: shared.Compiler = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change in the repo; change nothing.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit status 11 where something would change.")
    ] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    branch: Annotated[str | None, typer.Option("--branch", help="Commit to this branch.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag the commit.")] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove variants of ours that this run does not name.")
    ] = False,
    jobs: shared.Jobs = None,
    memory: shared.Memory = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
) -> None:
    """Convert a source, verify it, and publish all variants in one commit.

    A folder that `hubpub convert` made is published as it is.

    Example: hubpub publish prompthero/openjourney-v4 --tag v1
    """
    from hubpub.verbs import publish as verb

    given = settings.flags(
        to=to, attention=attention, bits=bits, formats=formats, verify=verify, floor=floor, revision=revision,
        license=license, name=name, latent_height=latent_height, latent_width=latent_width, batch_one=batch_one,
        deployment_target=deployment_target, no_safety_checker=no_safety_checker, template=template, compiler=compiler,
    )  # fmt: skip
    delivery = verb.Delivery(dry_run=dry_run, create_pr=create_pr, branch=branch, private=private, tag=tag, prune=prune)
    with settings.session(endpoint=endpoint, token=token, jobs=jobs, memory=memory, quiet=json or quiet) as session:
        if source is not None and verb.is_converted(Path(source)):
            results = [verb.publish_folder(Path(source), repo_id=to, delivery=delivery, session=session)]
        else:
            models = settings.models(source, config, given)
            results = [verb.publish_config(model, delivery=delivery, session=session) for model in models]
    for published in results:
        _show(published, json=json, quiet=quiet)
    if dry_run and exit_code and not all(published.nothing_to_do for published in results):
        raise typer.Exit(11)


def convert(
    source: Source = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write the release's tree into.")] = None,
    to: shared.To = None,
    attention: shared.Attentions = None,
    bits: shared.Bits = None,
    formats: shared.Formats = None,
    verify: shared.Verify = None,
    floor: shared.Floors = None,
    revision: shared.Revision = None,
    license: shared.License = None,
    name: shared.Name = None,
    latent_height: shared.LatentHeight = None,
    latent_width: shared.LatentWidth = None,
    batch_one: shared.BatchOne = None,
    deployment_target: shared.TargetOption = None,
    no_safety_checker: shared.NoSafetyChecker = False,
    template: shared.Template = None,
    compiler: shared.Compiler = None,
    jobs: shared.Jobs = None,
    memory: shared.Memory = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
) -> None:
    """Convert a source into a folder: exactly the tree that publish uploads.

    Example: hubpub convert ./my-model -o release --to me/coreml-my-model-palettized
    """
    from hubpub.errors import ConfigError
    from hubpub.verbs.convert import make, write
    from hubpub.verbs.prepare import prepare

    if out is None:
        raise ConfigError("No folder was named.", hint="Say where to write with -o DIR.")
    given = settings.flags(
        to=to, attention=attention, bits=bits, formats=formats, verify=verify, floor=floor, revision=revision,
        license=license, name=name, latent_height=latent_height, latent_width=latent_width, batch_one=batch_one,
        deployment_target=deployment_target, no_safety_checker=no_safety_checker, template=template, compiler=compiler,
    )  # fmt: skip
    with settings.session(endpoint=endpoint, token=token, jobs=jobs, memory=memory, quiet=json or quiet) as session:
        models = settings.models(source, config, given)
        if len(models) > 1:
            raise ConfigError("The config file lists several models.", hint="Name the source of the one to convert.")
        outcome = make(prepare(models[0], session, owner=None), session, out=out)
        write(outcome, out, session)
    if json:
        shared.print_json({"path": str(out), "files": len(outcome.artifacts), "bytes": outcome.size})
    else:
        typer.echo(str(out))


def plan(
    source: Source = None,
    to: shared.To = None,
    attention: shared.Attentions = None,
    bits: shared.Bits = None,
    formats: shared.Formats = None,
    verify: shared.Verify = None,
    floor: shared.Floors = None,
    revision: shared.Revision = None,
    license: shared.License = None,
    name: shared.Name = None,
    latent_height: shared.LatentHeight = None,
    latent_width: shared.LatentWidth = None,
    batch_one: shared.BatchOne = None,
    deployment_target: shared.TargetOption = None,
    no_safety_checker: shared.NoSafetyChecker = False,
    compiler: shared.Compiler = None,
    config: shared.ConfigFile = None,
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Show the steps that publish would take, with bytes and memory; do nothing.

    Example: hubpub plan prompthero/openjourney-v4 --attention split_einsum_v2
    """
    from hubpub.verbs.prepare import prepare

    given = settings.flags(
        to=to, attention=attention, bits=bits, formats=formats, verify=verify, floor=floor, revision=revision,
        license=license, name=name, latent_height=latent_height, latent_width=latent_width, batch_one=batch_one,
        deployment_target=deployment_target, no_safety_checker=no_safety_checker, compiler=compiler,
    )  # fmt: skip
    with settings.session(endpoint=endpoint, token=token, quiet=True) as session:
        plans = []
        for model in settings.models(source, config, given):
            prepared = prepare(model, session, owner=None)
            plans.append((prepared.plan, {step.key for step in prepared.missing(session.store)}))
    if json:
        shared.print_json(
            [
                {**made.to_json(), "missing": [step.key for step in made.steps if step.key in missing]}
                for made, missing in plans
            ]
        )
        return
    for made, missing in plans:
        _show_plan(made, missing)


def _show_plan(made: Any, missing: set[str]) -> None:
    from hubpub.report import human, table

    typer.echo(f"{made.config.source} → {made.destination}  ({made.architecture.title}, verify: {made.verify})\n")
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


def _show(published: Published, *, json: bool, quiet: bool) -> None:
    if json:
        shared.print_json(published.to_json())
    elif quiet:
        typer.echo(published.receipt.pull_request or published.receipt.url)
    else:
        from hubpub.cli.show import show_published

        show_published(published)
