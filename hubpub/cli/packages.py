"""compile, run, generate: commands for packages that are on this disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubpub.cli import app as shared


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    shared.command(app, name="compile")(compile_packages)
    shared.command(app)(run)
    shared.command(app)(generate)


def compile_packages(
    packages: Annotated[list[Path], typer.Argument(help=".mlpackage folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write .mlmodelc bundles into.")],
    compiler: Annotated[str, typer.Option("--compiler", help="auto, portable, or apple (needs Xcode).")] = "auto",
    json: shared.Json = False,
    debug: shared.Debug = False,
) -> None:
    """Compile packages into bundles that apps load, anywhere.

    Example: hubpub compile Unet.mlpackage -o Resources
    """
    from hubpub.verbs.compile import compile_all

    bundles = compile_all(packages, out, compiler=compiler)
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
    """Run a package on arrays, without a Mac.

    Without inputs, list what it takes and gives.

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


def generate(
    target: Annotated[str, typer.Argument(help="A fetched or converted folder; with --compare, a source.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What to draw.")],
    negative: Annotated[str, typer.Option("--negative-prompt", help="What not to draw.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="The same seed draws the same picture.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Steps of the scheduler.", show_default="the model's own, else 20"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", min=0, help="Guidance scale; 1 is none.", show_default="the model's own, else 7.5"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file to write.")] = Path("picture.png"),
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Draw with the source in PyTorch and at 16, 8, 6 and 4 bits, side by side."),
    ] = False,
    source: Annotated[
        Path | None, typer.Option("--source", help="Diffusers folder with tokenizer and scheduler, if TARGET has none.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    endpoint: shared.Endpoint = None,
    token: shared.Token = None,
    json: shared.Json = False,
    quiet: shared.QuietFlag = False,
    debug: shared.Debug = False,
) -> None:
    """Draw a picture with published packages, without a Mac.

    Example: hubpub generate models/coreml-digits-palettized_original_packages --prompt "a handwritten seven"
    """
    from hubpub.runtime.pictures import Request
    from hubpub.verbs import generate as verb
    from hubpub.verbs.session import Session

    request = Request(prompt=prompt, negative=negative, seed=seed, steps=steps, guidance=guidance)
    with Session.open(endpoint=endpoint, token=token, quiet=json or quiet) as session:
        if compare:
            drawn = verb.compare(target, request, out, session=session, device=device)
        else:
            drawn = verb.generate(target, request, out, session=session, source=source, device=device)
    if json:
        shared.print_json(drawn.to_json())
        return
    typer.echo(str(drawn.path))
    for bits, value in drawn.psnr.items():
        typer.echo(f"{bits:>3} bits  {value:6.2f} dB against the source in PyTorch", err=True)
