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
    from hubpub.localhub import LocalHub, default_root
    from hubpub.localhub import serve as verb

    def ready(hub: LocalHub) -> None:
        typer.echo(f"The embedded Hub is at {hub.endpoint}, its data in {hub.root}. Ctrl-C stops it.")
        typer.echo(f"Use it from another terminal:  hubpub variants REPO --endpoint {hub.endpoint}")

    verb(root or default_root(), port=port, ready=ready)


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where fetched models go.")] = Path("models"),
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Publish a small model to the embedded Hub, and fetch it back.

    The main job in a minute, with neither account nor network.

    Example: hubpub demo
    """
    from hubpub.verbs.demo import demo as verb

    verb(folder, json=json)
