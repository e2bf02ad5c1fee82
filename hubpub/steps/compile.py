"""compile: a package → the compiled bundle that apps download.

The bundle is always called `model.mlmodelc` in `out`; the name under which the package
is published goes into the bundle as its class name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from hubpub.coreml.compiler import compile_bundle
from hubpub.steps.step import Step

BUNDLE = "model.mlmodelc"

Compiler = Literal["apple", "portable"]


@dataclass(frozen=True, kw_only=True)
class Compile(Step):
    """Compile `inputs["package"]` into `out/model.mlmodelc`.

    The weights are hard links where the file system has them: finished steps are never edited.
    """

    VERSION: ClassVar[int] = 1

    component: str
    attention: str | None
    stem: str
    compiler: Compiler
    by: str  # the bundle names who wrote it, so another version of hubpub writes other bytes

    @property
    def label(self) -> str:
        return f"compile {self.component}" + (f" {self.attention}" if self.attention else "")

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        start = time.perf_counter()
        result = compile_bundle(
            inputs["package"], out / BUNDLE, stem=self.stem, compiler=self.compiler, link_weights=True
        )
        return {
            "compiler": result.compiler,
            "compiler_version": result.version,
            "unverified": list(result.unverified),
            "seconds": round(time.perf_counter() - start, 3),
        }
