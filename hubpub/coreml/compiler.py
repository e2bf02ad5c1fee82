"""Compiles a `.mlpackage` to a `.mlmodelc`, on any machine.

For ML Programs, compiling means printing: the program as MIL text, the weights unchanged,
two small archives and a JSON description. The portable compiler writes the same bytes as
Apple's, with three exceptions: its own name in the text's build information, the order of
user metadata (Apple's is random), and the formatting of `metadata.json` (the same JSON).
It refuses models for which Apple's output is not known.

`compiler="auto"` selects the portable compiler on every machine, also on a Mac, so the same
input gives the same bytes everywhere. `"apple"` selects Xcode's compiler.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args

from hubpub import __version__
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.bundle import ANALYTICS, DATA, METADATA, SUFFIX, TEXT, read_build_info
from hubpub.coreml.coremldata import write_analytics, write_archive
from hubpub.coreml.histogram import guessed
from hubpub.coreml.metadata import metadata, metadata_json, unverified_features
from hubpub.coreml.package import parse_model, read_model_bytes, weights_folder
from hubpub.coreml.printer import print_program
from hubpub.coreml.shape_ranges import flexible_attributes
from hubpub.coreml.supported import check_interface, check_supported, features
from hubpub.coreml.survey import Survey, survey
from hubpub.coreml.weights import weight_files
from hubpub.errors import CannotWrite, ConfigError, StepFailed
from hubpub.files.copies import place
from hubpub.files.disk import writing

T = TypeVar("T")
Compiler = Literal["auto", "apple", "portable"]

# The keys are Apple's, because tools look for them; the values name hubpub.
BUILD_INFO: Final[Mapping[str, str]] = {"coremlc-component-MIL": "hubpub", "coremlc-version": __version__}

# C99 literals for which no text by Apple's compiler has been seen.
_ASSUMED_LITERAL = re.compile(r"[(\[ ](?:nan|inf|-0x0p\+0)[,)\]]")
_PIECES = 4096


@dataclass(frozen=True, kw_only=True)
class CompileResult:
    """A compiled bundle, its compiler, and the forms in it that were never compared with Apple's output."""

    bundle: Path
    compiler: str  # portable or apple
    version: str  # of that compiler
    unverified: tuple[str, ...] = ()


def compile_package(package: Path | str, dest: Path | str, *, compiler: Compiler = "auto") -> Path:
    """Compile one .mlpackage into `dest/<stem>.mlmodelc` and return that folder.

        compile_package("out/Unet.mlpackage", "out")  # out/Unet.mlmodelc

    Replaces an existing bundle atomically. Raises BadPackage for an incomplete package,
    UnsupportedOps for one that only Xcode can compile, ToolMissing and StepFailed for
    Xcode's errors, NoSpace and CannotWrite for the disk's; no files are left in these cases.

    Source of the format: bundles written by Apple's compiler; see `hubpub.coreml.printer`,
    `hubpub.coreml.coremldata` and `hubpub.coreml.metadata`.
    """
    package = Path(package)
    stem = package.resolve().name.removesuffix(".mlpackage")
    return compile_bundle(package, Path(dest) / f"{stem}{SUFFIX}", stem=stem, compiler=compiler).bundle


def compile_bundle(
    package: Path,
    bundle: Path,
    *,
    stem: str,
    compiler: Compiler = "auto",
    link_weights: bool = False,
    build_info: Mapping[str, str] = BUILD_INFO,
) -> CompileResult:
    """Compile `package` into the folder `bundle`, as if the package had the name `<stem>.mlpackage`.

    `link_weights` hard-links the weights instead of copying them: only for packages and
    bundles that are never edited. `build_info` names the compiler in the text. Raises the
    errors of compile_package, and ConfigError for an unknown compiler.
    """
    if compiler not in get_args(Compiler):
        raise ConfigError(f"There is no compiler {compiler!r}.", hint=f"Known: {', '.join(get_args(Compiler))}.")
    if compiler == "apple":
        version = _build(bundle, lambda folder: _compile_with_xcode(package, folder, stem=stem))
        return CompileResult(bundle=bundle, compiler="apple", version=version)
    unverified = _build(
        bundle,
        lambda folder: _compile_portably(package, folder, stem=stem, link=link_weights, build_info=build_info),
    )
    return CompileResult(bundle=bundle, compiler="portable", version=__version__, unverified=unverified)


def _compile_portably(
    package: Path, folder: Path, *, stem: str, link: bool, build_info: Mapping[str, str]
) -> tuple[str, ...]:
    data = read_model_bytes(package)
    model = parse_model(data, name=str(package))
    check_supported(model, name=package.name)
    contents = survey(model.mlProgram)
    check_interface(model)
    weights = weight_files(contents.blobs, weights_folder(package).parent)
    unverified = _unverified(model, contents)
    pieces = print_program(
        model.mlProgram,
        spec_version=model.specificationVersion,
        build_info=build_info,
        function_attributes=flexible_attributes(model.description),
    )
    if _write_text(folder / TEXT, pieces):
        unverified.add("literals for infinity, not-a-number or negative zero")
    (folder / DATA).write_bytes(
        write_archive(model.description, spec_version=model.specificationVersion, functions=len(contents.functions))
    )
    (folder / ANALYTICS).parent.mkdir()
    (folder / ANALYTICS).write_bytes(write_analytics(data))
    text = metadata_json(metadata(model, contents, stem=stem))
    (folder / METADATA).write_text(text, encoding="utf-8", newline="\n")
    for relative, path in sorted(weights.items()):
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        place(path, folder / relative, link=link)
    return tuple(sorted(unverified))


def _unverified(model: schema.Model, contents: Survey) -> set[str]:
    unverified = contents.unverified | unverified_features(features(model.description))
    keys = {key for counts in contents.functions.values() for key in guessed(counts.operations, counts.opset)}
    if keys:
        unverified.add(f"the histogram keys {', '.join(sorted(keys))} in metadata.json")
    return unverified


def _write_text(path: Path, pieces: Iterable[str]) -> bool:
    """Write the text; returns whether it contains literals that were never compared with Apple's output."""
    assumed = False
    with path.open("w", encoding="utf-8", newline="\n") as file:
        buffer: list[str] = []
        for piece in pieces:
            buffer.append(piece)
            if len(buffer) == _PIECES:
                assumed |= _flush(file.write, buffer)
        assumed |= _flush(file.write, buffer)
    return assumed


def _flush(write: Callable[[str], int], buffer: list[str]) -> bool:
    text = "".join(buffer)
    buffer.clear()
    write(text)
    return _ASSUMED_LITERAL.search(text) is not None


def _compile_with_xcode(package: Path, folder: Path, *, stem: str) -> str:
    from hubpub.files.processes import run_coremlcompiler

    read_model_bytes(package)  # raises hubpub's error for an invalid package
    with tempfile.TemporaryDirectory(prefix=f".{stem}.", dir=folder.parent) as name:
        work = Path(name)
        source = work / f"{stem}.mlpackage"  # the compiler derives the class name from the folder's name
        shutil.copytree(
            package, source, copy_function=lambda original, copy: place(Path(original), Path(copy), link=True)
        )
        (work / "out").mkdir()
        run_coremlcompiler(source, work / "out")
        compiled = work / "out" / f"{stem}{SUFFIX}"
        if not (compiled / TEXT).is_file() and not (compiled / DATA).is_file():
            raise StepFailed(f"Xcode's compiler reported success but wrote no {compiled.name}.")
        for part in compiled.iterdir():
            part.rename(folder / part.name)
    return read_build_info(folder).get("coremlc-version", "unknown")


def _build(bundle: Path, write: Callable[[Path], T]) -> T:
    """Call `write` with a temporary folder and rename that to `bundle`; removes it if `write` fails."""
    _check_replaceable(bundle)
    with writing(bundle):
        bundle.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.", dir=bundle.parent))
        try:
            temporary.chmod(0o755)
            result = write(temporary)
            _replace(temporary, bundle)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return result


def _check_replaceable(bundle: Path) -> None:
    if bundle.is_dir() and not bundle.is_symlink():
        names = {path.name for path in bundle.iterdir()}
        if not names or names & {TEXT, DATA, METADATA}:
            return
    elif not bundle.exists() and not bundle.is_symlink():
        return
    raise CannotWrite(f"{bundle} is in the way: it is not a compiled model.", hint="Move it, or choose another folder.")


def _replace(temporary: Path, bundle: Path) -> None:
    if not bundle.exists():
        temporary.rename(bundle)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{bundle.name}.old.", dir=bundle.parent))
    former = aside / bundle.name
    try:
        bundle.rename(former)
        try:
            temporary.rename(bundle)
        except OSError:
            former.rename(bundle)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
