"""hub serve, demo: what needs no account and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli import app as shared


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    hub = typer.Typer(help="The embedded Hub: a small Hub of your own, on loopback.", no_args_is_help=True)
    shared.command(hub)(serve)
    app.add_typer(hub, name="hub")
    shared.command(app)(demo)


def serve(
    root: Annotated[Path | None, typer.Option("--root", help="Data folder [default: HUBPUB_HUB].")] = None,
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1.")] = 8765,
    debug: shared.Debug = False,
) -> None:
    """Keep the embedded Hub up until Ctrl-C.

    Example: hubpub hub serve --port 8765
    """
    from hubpub.localhub import LocalHub
    from hubpub.verbs.serve import serve as verb

    def ready(hub: LocalHub) -> None:
        typer.echo(f"The embedded Hub is at {hub.endpoint}, its data in {hub.root}. Ctrl-C stops it.")
        typer.echo(f"Use it from another terminal:  hubpub variants REPO --endpoint {hub.endpoint}")

    verb(root, port=port, ready=ready)


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where fetched models go.")] = Path("models"),
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Publish a small model to the embedded Hub, and fetch it back.

    The main job in a minute, with neither account nor network.

    Example: hubpub demo
    """
    from hubpub.files.sizes import human
    from hubpub.verbs.demo import REPO, REQUEST
    from hubpub.verbs.demo import demo as verb
    from hubpub.verbs.session import Session

    with Session.open(endpoint="local", quiet=json) as session:
        done = verb(folder, session=session)
    if json:
        shared.print_json(done.to_json())
        return
    receipt, place = done.published.receipt, done.folder
    sent = "it was there already" if receipt.nothing_to_do else f"{human(receipt.sent_bytes)} sent"
    drawn = (
        f"{done.picture}  ({REQUEST.prompt}, by the fetched packages)"
        if done.picture
        else "pip install 'hubpub[numeric]' first"
    )
    typer.echo(f"""
Done in {done.seconds:.0f} s.

  published  {REPO}  ({sent})
  fetched    {place}
  verified   {done.verified.files} files, all as published
  drawn      {drawn}

Next:
  hubpub hub serve        look at the repo in a browser
  hubpub plan ORG/NAME    the same for a model of yours
  hubpub report {REPO} --endpoint local
  hubpub generate {place} --prompt "the digit 3" --guidance 3 --endpoint local
""")
