"""How the cost of a UNet grows with its size: python benchmarks/growth.py WORK [--family sd15 --family sdxl].

Random weights at the true size (0.86 and 2.57 billion parameters) are filled at 16 and 6
bits and compiled, each step in a process of its own, the source's pages dropped from the
system's cache before (`cold`) or not. The graphs name every tensor of the UNet, and use
each in one operation: what a network computes with its weights is of no matter here, so
that a family is measured whose networks hubpub does not build. Of palettization, it tells
where the time goes. 9 GB of disk for SDXL; everything is removed but the sources.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fill import measure
from measuring import machine, run

from hubpub.checkpoints.weights import open_weights
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.values import string_value, tensor_type
from hubpub.graph import Graph, GraphInfo, Reference
from hubpub.palettize.palette import fit, histogram, packed_indices
from tests.support.mil_models import ARRAY, block, feature, function, model, operation
from tests.support.sources import components, make_source

_COMPILE = """
import json, sys, time
from pathlib import Path
from hubpub.steps import compile
from hubpub.worker import peak_memory
start, busy = time.perf_counter(), time.process_time()
params = {"compiler": "portable", "stem": "unet"}
compile.run(params, {"package": Path(sys.argv[1])}, Path(sys.argv[2]))
print(json.dumps([time.perf_counter() - start, time.process_time() - busy, peak_memory()]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--family", action="append", choices=("sd15", "sdxl"), help="default: both")
    work: Path = parser.parse_args().work.resolve()
    print(f"{machine()}\n")
    print("| UNet | parameters | step | seconds | CPU seconds | peak memory | written |", flush=True)
    print("|---|---:|---|---:|---:|---:|---:|", flush=True)
    spent = {}
    for family in parser.parse_args().family or ["sd15", "sdxl"]:
        source = prepare(work, family)
        graph, elements = make_graph(work / f"{family}-graph", family)
        for bits, cold in ((16, True), (16, False), (6, True), (6, False)):
            done = measure(graph, source, work / "out", bits=bits, cold=cold)
            name = f"{bits}-bit, {'cold' if cold else 'cached'}"
            row(family, elements, f"fill, {name}", done["seconds"], done["cpu"], done["peak"], done["bytes"])
        row(family, elements, "compile", *compiled(graph, source, work), 0)
        spent[family] = palettization(source)
    print()
    for family, parts in spent.items():
        told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts.items())
        print(f"Palettization of {family}, CPU seconds: {told}.")


def row(family: str, elements: int, step: str, seconds: float, busy: float, peak: float, written: float) -> None:
    """One line of the table."""
    print(
        f"| {family} | {elements / 1e9:.2f} billion | {step} | {seconds:.1f} | {busy:.1f} | {peak / 1e6:.0f} MB "
        f"| {written / 1e6:.0f} MB |",
        flush=True,
    )


def prepare(work: Path, family: str) -> Path:
    """The UNet's folder of a source that has no other weights."""
    folder = work / f"{family}-unet"
    if not (folder / "model_index.json").exists():
        make_source(folder, family, tiny=False, only=["unet"])
    return folder / "unet"


def make_graph(folder: Path, family: str) -> tuple[Path, int]:
    """A graph in which every tensor of the UNet is the argument of an operation; and its number of parameters."""
    part = components(family, tiny=False)[0]
    shapes = part.shapes(part.config)
    kind = tensor_type(schema.FLOAT16, (1,))
    operations, last, elements = [], "x", 0
    for number, (name, shape) in enumerate(shapes.items()):
        value = schema.Value(type=tensor_type(schema.FLOAT16, shape))
        value.blobFileValue.fileName = str(Reference(tensor=name))
        constant = schema.Operation(type="const")
        constant.outputs.add(name=f"w_{number}").type.CopyFrom(value.type)
        constant.attributes["name"].CopyFrom(string_value(f"w_{number}"))
        constant.attributes["val"].CopyFrom(value)
        result = f"y_{number}"
        inputs: dict[str, str | list[str]] = {"x": last, "y": f"w_{number}"}
        operations += [constant, operation("add", {result: kind}, inputs, {"name": string_value(result)})]
        last = result
        count = 1
        for side in shape:
            count *= side
        elements += count
    made = model(
        {"main": function(block(operations, [last]), opset="CoreML7", x=kind)},
        spec=8,
        inputs=[feature("x", (1,), dtype=ARRAY.FLOAT16)],
        outputs=[feature(last, (1,), dtype=ARRAY.FLOAT16)],
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    Graph(model=made, info=GraphInfo(component="unet", params={})).save(folder)
    return folder, elements


def compiled(graph: Path, source: Path, work: Path) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak bytes of compiling the 6-bit package."""
    from hubpub.steps import fill

    for name in ("package", "bundle"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
    files = [path.name for path in source.glob("*.safetensors")]
    params = {"component": "unet", "bits": 6, "palettizes": True, "weights": files, "metadata": {}}
    fill.run(params, {"graph": graph, "source": source}, work / "package")
    done = run(["-c", _COMPILE, str(work / "package" / fill.PACKAGE), str(work / "bundle")], folder=work)
    for name in ("package", "bundle"):
        shutil.rmtree(work / name)
    seconds, busy, peak = json.loads(done.answer)
    return seconds, busy, peak


def palettization(source: Path) -> dict[str, float]:
    """CPU seconds for reading and rounding, counting, finding the table, and packing, at 6 bits."""
    spent = dict.fromkeys(("read", "histogram", "k-means", "look-up and pack"), 0.0)
    with open_weights(list(source.glob("*.safetensors"))) as weights:
        for name in weights.names():
            shape = weights.shape(name)
            if len(shape) < 2:
                continue
            start = time.thread_time()
            values = weights.float16(name)
            read = time.thread_time()
            counts = histogram(values)
            counted = time.thread_time()
            table = fit(counts, 6)
            fitted = time.thread_time()
            packed_indices(values, table)
            ends = (read - start, counted - read, fitted - counted, time.thread_time() - fitted)
            for part, seconds in zip(spent, ends, strict=True):
                spent[part] += seconds
            weights.release(name)
    return spent


if __name__ == "__main__":
    main()
