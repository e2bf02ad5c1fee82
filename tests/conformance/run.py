"""Run coremltools' op tests with hubpub's numbers:  python -m tests.conformance.run --ops conv softmax

    --ops NAME …      only tests that build one of these MIL ops
    --files NAME …    only these test files, e.g. iOS17/test_linear or torch/test_torch_ops
    --all-targets     every deployment target that a test allows, not only its lowest
    --every K         one test in K, chosen by name
    --seconds N       stop after N seconds
    --out FILE        append one JSON line per test (tests.conformance.report reads them)

One process, in the order of the files; exit status 1 where a number was wrong.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest


def coremltools_folder() -> Path | None:
    """Where coremltools is installed, without importing it; None where it is not."""
    spec = find_spec("coremltools")
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def test_files(root: Path) -> dict[str, Path]:
    """Short name → test file: MIL op tests by opset folder, torch front-end tests as torch/…"""
    mil = root / "converters/mil/mil/ops/tests"
    torch = root / "converters/mil/frontend/torch/test"
    found = {f"{path.parent.name}/{path.stem}": path for path in sorted(mil.glob("*/test_*.py"))}
    found |= {f"torch/{path.stem}": path for path in sorted(torch.glob("test_*.py"))}
    return found


def run(
    files: Sequence[Path],
    root: Path,
    *,
    ops: Sequence[str] = (),
    all_targets: bool = False,
    every: int = 1,
    seconds: float | None = None,
    out: Path | None = None,
    select: str = "",
) -> int:
    """Run test files in this process; returns pytest's exit status."""
    os.environ["HUBPUB_CONFORMANCE_OPS"] = " ".join(ops)
    os.environ["HUBPUB_CONFORMANCE_EVERY"] = str(every)
    os.environ["RUN_BACKWARD_COMPATIBILITY"] = "1" if all_targets else "0"
    if seconds is not None:
        os.environ["HUBPUB_CONFORMANCE_SECONDS"] = str(seconds)
    if out is not None:
        os.environ["HUBPUB_CONFORMANCE_OUT"] = str(out.resolve())
    arguments = ["-c", os.devnull, f"--rootdir={root}", "-p", "no:cacheprovider", "-p", "tests.conformance.plugin"]
    arguments += ["-q", "--no-header", "--tb=short", "-W", "ignore", *map(str, files)]
    return int(pytest.main(arguments + (["-k", select] if select else [])))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="+", default=[])
    parser.add_argument("--files", nargs="+", default=[])
    parser.add_argument("--all-targets", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--out", type=Path)
    parser.add_argument("-k", dest="select", default="")
    given = parser.parse_args(argv)
    root = coremltools_folder()
    if root is None:
        parser.error("coremltools is not installed")
    known = test_files(root)
    unknown = [name for name in given.files if name not in known]
    if unknown:
        parser.error(f"no test file {', '.join(unknown)}; there are: {' '.join(known)}")
    files = [known[name] for name in given.files] or list(known.values())
    if given.ops:
        files = [path for path in files if any(f"mb.{op}(" in path.read_text(encoding="utf-8") for op in given.ops)]
    return run(
        files,
        root,
        ops=given.ops,
        all_targets=given.all_targets,
        every=given.every,
        seconds=given.seconds,
        out=given.out,
        select=given.select,
    )


if __name__ == "__main__":
    raise SystemExit(main())
