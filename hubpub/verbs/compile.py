"""compile: packages become bundles that apps load. Packages → bundles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from hubpub.coreml.compiler import Compiler, compile_package
from hubpub.plan.variant import choose


def compile_all(packages: Iterable[Path], out: Path, *, compiler: str = "auto") -> list[Path]:
    """Compile each package into a bundle in `out`. Raises UnknownVariant for a compiler that does not exist."""
    chosen = cast("Compiler", choose("compiler", compiler, ("auto", "portable", "apple")))
    return [compile_package(package, out, compiler=chosen) for package in packages]
