"""What a new architecture costs, once: build the graphs of Stable Diffusion 1.5, step by step.

    python benchmarks/graphs.py WORK [--attention original …] [--target macOS14]

The default target is one for which hubpub ships none. Each graph is built by a worker
process, as for a source whose graphs are not shipped. Prints Markdown.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from main_job import entries
from measuring import machine, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--attention", action="append", help="default: original and split_einsum_v2")
    parser.add_argument("--target", default="macOS14")
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    shutil.rmtree(work / "store", ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}\n")
    options = [word for name in arguments.attention or () for word in ("--attention", name)]
    command = ["-m", "hubpub", "graphs", "build", "--family", "sd15", "--deployment-target", arguments.target]
    done = run([*command, *options, "--json"], folder=work, environment={"HUBPUB_CACHE": str(work / "store")})
    print("| graph | operations | seconds | peak memory |\n|---|---:|---:|---:|")
    for _, entry in sorted(entries(work / "store"), key=lambda one: float(one[1]["created"])):
        told = entry["measurements"]
        peak = told["peak_memory"] / 1e6
        print(f"| {entry['label']} | {told['operations']:,} | {entry['seconds']:.0f} | {peak:.0f} MB |")
    print(f"| all of it | | {done.seconds:.0f} | {done.peak / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
