"""compile: a package → the compiled bundle that apps download.

The bundle is always called `model.mlmodelc` in `out`; the name under which the package
is published goes into the bundle as its class name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubpub.coreml.compiler import compile_bundle

KIND = "compile"
VERSION = 1


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Compile `inputs["package"]` into `out/model.mlmodelc` with `params["compiler"]`, as `params["stem"]`.

    The weights are hard links where the file system has them: finished steps are never edited.
    """
    start = time.perf_counter()
    result = compile_bundle(
        inputs["package"],
        out / "model.mlmodelc",
        stem=params["stem"],
        compiler=params["compiler"],
        link_weights=True,
    )
    return {
        "compiler": result.compiler,
        "compiler_version": result.version,
        "unverified": list(result.unverified),
        "seconds": round(time.perf_counter() - start, 3),
    }
