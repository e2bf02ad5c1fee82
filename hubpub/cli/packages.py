"""compile, run: commands for packages that are on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hubpub.cli import app as shared

if TYPE_CHECKING:
    from hubpub.mil.compiled import Compiler


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    shared.command(app, name="compile")(compile_packages)
    shared.command(app)(run)


def compile_packages(
    packages: Annotated[list[Path], typer.Argument(help=".mlpackage folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write .mlmodelc bundles into.")],
    compiler: Annotated[str, typer.Option("--compiler", help="auto, portable, or apple (needs Xcode).")] = "auto",
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Compile packages into the bundles that apps load, on any machine.

    Example: hubpub compile Unet.mlpackage -o Resources
    """
    from hubpub import compile_package
    from hubpub.variant import choose

    chosen = cast("Compiler", choose("compiler", compiler, ("auto", "portable", "apple")))
    bundles = [compile_package(package, out, compiler=chosen) for package in packages]
    if json:
        shared.print_json([str(bundle) for bundle in bundles])
    else:
        for bundle in bundles:
            typer.echo(str(bundle))


def run(
    package: Annotated[Path, typer.Argument(help="An .mlpackage.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="An .npy file, or NAME=FILE.npy where there are several inputs; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write OUTPUT.npy files into.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option("--precision", help="fp16 or fp32.")] = "fp16",
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Run a package on arrays, without a Mac; without inputs, list what it takes and gives.

    Example: hubpub run TextEncoder.mlpackage --input ids.npy -o outputs
    """
    from hubpub.verbs.run import run as verb

    result = verb(package, inputs or [], out=out, device=device, precision=precision)
    if json:
        shared.print_json(result)
        return
    for kind in ("inputs", "outputs"):
        for feature in result[kind]:
            detail = feature.get("path") or feature.get("range") or ""
            typer.echo(f"{kind[:-1]:6}  {feature['name']}  {feature['dtype']} {feature['shape']}  {detail}".rstrip())
