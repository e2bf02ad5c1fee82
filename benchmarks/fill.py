"""Fill a source of true size: seconds, CPU seconds and peak memory per component.

    python benchmarks/fill.py WORK_FOLDER [--family sd15] [--bits 16 --bits 6] [--component unet] [--cold]

The source is written and the graphs are exported (minutes, needs torch) when they are not
in WORK_FOLDER yet. Each fill runs in a process of its own. `--cold` drops the source's
pages from the system's cache first, so that the disk is read.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hubpub import architectures
from hubpub.checkpoints.weights import choose
from hubpub.engine.worker import peak_memory
from hubpub.steps import fill

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder", "safety_checker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--attention", choices=architectures.ATTENTIONS, default="original")
    parser.add_argument("--bits", type=int, action="append", help="default: 16 and 6")
    parser.add_argument("--component", choices=COMPONENTS, action="append", help="default: all but the safety checker")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--fill", help=argparse.SUPPRESS)  # what a child process is to fill, as JSON
    arguments = parser.parse_args()
    if arguments.fill:
        print(json.dumps(fill_one(**json.loads(arguments.fill))))
        return
    source = prepare_source(arguments.work / arguments.family, arguments.family)
    components = {component.name: component for component in family_of(source).components}
    for name in arguments.component or [name for name in COMPONENTS[:-1] if name in components]:
        graph = prepare_graph(arguments.work / "graphs", source, components[name], arguments.attention)
        for bits in arguments.bits or [16, 6]:
            if bits == 16 or components[name].palettizes:
                folder = source / components[name].folder
                report(name, bits, measure(graph, folder, arguments.work / "out", bits=bits, cold=arguments.cold))


def report(name: str, bits: int, measured: dict[str, Any]) -> None:
    """One line for people."""
    print(
        f"{name} {bits}-bit: {measured['seconds']:.1f} s, {measured['cpu']:.1f} CPU s, "
        f"peak {measured['peak'] / 1e6:.0f} MB, weight.bin {measured['bytes'] / 1e6:.0f} MB"
        + (f", lowest SNR {measured['snr']:.1f} dB" if measured["snr"] else ""),
        flush=True,
    )


def configs_of(source: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in source.glob("*/config.json")}


def family_of(source: Path) -> architectures.Architecture:
    return architectures.detect(json.loads((source / "model_index.json").read_text()), configs_of(source))


def prepare_source(folder: Path, family: str) -> Path:
    if not (folder / "model_index.json").exists():
        from tests.support.sources import make_source

        make_source(folder, family, tiny=False)
    return folder


def prepare_graph(folder: Path, source: Path, component: architectures.Component, attention: str) -> Path:
    home = folder / f"{source.name}-{component.name}-{attention}"
    if not home.exists():
        from hubpub.steps import export

        params = architectures.export_params(
            component, configs_of(source), attention=attention, latent=None, batch=2, target="macOS14"
        )
        part = home.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        export.run(params, {}, part)
        part.rename(home)
    return home


def measure(graph: Path, source: Path, out: Path, *, bits: int, cold: bool) -> dict[str, Any]:
    """Fill in a process of its own, whose peak memory is its own."""
    if cold:
        for path in source.iterdir():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    request = json.dumps({"graph": str(graph), "source": str(source), "out": str(out), "bits": bits})
    command = [sys.executable, __file__, ".", "--fill", request]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def fill_one(*, graph: str, source: str, out: str, bits: int) -> dict[str, Any]:
    """Fill one component and measure this process."""
    target = Path(out)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files = choose((f"component/{path.name}" for path in Path(source).iterdir()), folder="component")
    params = {
        "component": "the component",
        "bits": bits,
        "palettizes": True,
        "weights": [name.removeprefix("component/") for name in files],
        "metadata": {},
    }
    start = time.perf_counter()
    made = fill.run(params, {"graph": Path(graph), "source": Path(source)}, target)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    shutil.rmtree(target)
    return {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": peak_memory(),  # not ru_maxrss, which counts the process that started this one
        "bytes": made["weights"]["bytes"],
        "snr": made.get("lowest_snr"),
    }


if __name__ == "__main__":
    main()
