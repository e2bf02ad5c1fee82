"""The steps of a source, one by one, each in a process of its own: seconds, CPU seconds, peak memory, bytes.

    python benchmarks/steps.py SOURCE WORK [--cold]

Weights at 16 and 6 bits, then programs over them: every attention, another size, batch one,
macOS 15; and compiling. `--cold` drops the source's pages from the system's cache first, so
that the disk is read. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import machine

from hubpub import architectures
from hubpub.checkpoints import choose
from hubpub.engine.worker import peak_memory
from hubpub.steps import KINDS
from hubpub.steps.package import PACKAGE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # what a child process is to run, as JSON
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(run_one(**json.loads(arguments.step))))
        return
    source, work = arguments.source.resolve(), arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    print(f"{machine()}\n")
    print("| component | step | seconds | CPU seconds | peak memory | written |\n|---|---|---:|---:|---:|---:|")
    configs = {path.parent.name: json.loads(path.read_text()) for path in source.glob("*/config.json")}
    index = json.loads((source / "model_index.json").read_text())
    architecture = architectures.detect(index, configs)
    for component in architectures.components_of(architecture, index, safety_checker=True):
        measure_component(component, architecture.name, configs, source, work, cold=arguments.cold)
    shutil.rmtree(work)


def measure_component(
    component: architectures.Component,
    family: str,
    configs: dict[str, Any],
    source: Path,
    work: Path,
    *,
    cold: bool,
) -> None:
    """All rows of one component."""
    folder = component.origin.folder
    files = choose((f"{folder}/{path.name}" for path in (source / folder).iterdir()), folder=folder)
    identity = {
        "family": family,
        "component": component.name,
        "config": component.meaning(component.config(configs)),
    }
    checkpoint = {"files": [name.removeprefix(f"{folder}/") for name in files]}
    weights = work / "weights"
    for bits in (16, 6) if component.palettizes else (16,):
        if cold:
            drop(source / folder)
        params = {**identity, "bits": bits, "checkpoint": checkpoint}
        row(component.name, f"weights, {bits}-bit", step("weights", params, {"source": source / folder}, weights))
    size = architectures.published_size(configs, None, 2)
    programs = [("original", size.height, size.width, 2, "macOS13")]
    if "attention" in component.knobs:
        programs += [(one, size.height, size.width, 2, "macOS13") for one in ("split_einsum", "split_einsum_v2")]
    if "latent" in component.knobs:
        programs.append(("original", size.height + 32, size.width, 2, "macOS13"))
    programs.append(("original", size.height, size.width, 1, "macOS15"))
    package = work / "package"
    for attention, height, width, batch, target in programs:
        params = {
            **identity,
            "attention": attention if "attention" in component.knobs else None,
            "height": height,
            "width": width,
            "batch": batch,
            "target": target,
            "metadata": {},
        }
        name = f"package, {attention + ', ' if params['attention'] else ''}{height}×{width}, batch {batch}, {target}"
        row(component.name, name, step("package", params, {"weights": weights}, package))
    params = {"component": component.name, "attention": None, "stem": "x", "compiler": "portable", "by": "benchmark"}
    row(component.name, "compile", step("compile", params, {"package": package / PACKAGE}, work / "bundle"))


def drop(folder: Path) -> None:
    """Drop the files of a folder from the system's cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def step(kind: str, params: dict[str, Any], inputs: dict[str, Path], out: Path) -> dict[str, float]:
    """Run a step in a process of its own, whose peak memory is its own."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    request = {
        "kind": kind,
        "params": params,
        "inputs": {name: str(path) for name, path in inputs.items()},
        "out": str(out),
    }
    command = [sys.executable, __file__, ".", ".", "--step", json.dumps(request)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def run_one(*, kind: str, params: dict[str, Any], inputs: dict[str, str], out: str) -> dict[str, float]:
    """Run one step and measure this process."""
    start = time.perf_counter()
    KINDS[kind](**params).run({name: Path(path) for name, path in inputs.items()}, Path(out))
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": peak_memory(),  # not ru_maxrss, which counts the process that started this one
        "bytes": sum(path.stat().st_size for path in Path(out).rglob("*") if path.is_file()),
    }


def row(component: str, name: str, done: dict[str, float]) -> None:
    """One line of the table."""
    print(
        f"| {component} | {name} | {done['seconds']:.2f} | {done['cpu']:.2f} | {done['peak'] / 1e6:.0f} MB "
        f"| {done['bytes'] / 1e6:.0f} MB |",
        flush=True,
    )


if __name__ == "__main__":
    main()
