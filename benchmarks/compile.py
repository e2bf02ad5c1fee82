"""Compile a package and measure seconds and memory: python benchmarks/compile.py [PACKAGE ...].

Without a package, one of the size of Stable Diffusion 1.5's UNet with split attention
is made: about 18,000 operations and a weight file of 1.72 GB (a sparse file: its
content is never read, but it is copied). Each way of placing the weights runs in a
process of its own; memory is that process' peak beyond what importing costs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.bundle import read_bundle
from hubpub.coreml.compiler import compile_bundle
from hubpub.coreml.package import WEIGHT_BIN
from hubpub.coreml.values import string_value, tensor_type, tensor_value
from tests.support.mil_models import ARRAY, blob_value, block, const, feature, function, model, operation, save_package

LAYERS, HEADS, WIDTH = 343, 8, 2_507_776  # 343 weights of 2.5 million elements: 1.72 GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubpub-benchmark-") as name:
        folder = Path(name)
        for package in arguments.package or [make(folder / "unet.mlpackage")]:
            size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
            print(f"{package.name}: {size / 1e6:.0f} MB")
            for way in ("link", "copy"):
                bundle = folder / f"{way}.mlmodelc"
                seconds, busy, memory = measured(package, bundle, way)
                text = (bundle / "model.mil").stat().st_size / 1e6
                print(f"  {way}: {seconds:.2f} s ({busy:.2f} s of processor), {memory:.0f} MB, {text:.1f} MB of text")
            start = time.process_time()
            operations = sum(read_bundle(bundle).histogram.values())
            seconds = time.process_time() - start
            print(f"  read back: {seconds:.2f} s of processor, {operations} operations besides constants")


def measured(package: Path, target: Path, way: str) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak megabytes of compiling in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_compile, (package, target, way))


def _compile(package: Path, target: Path, way: str) -> tuple[float, float, float]:
    before = _peak()
    start, busy = time.perf_counter(), time.process_time()
    compile_bundle(package, target, stem="unet", link_weights=way == "link")
    return time.perf_counter() - start, time.process_time() - busy, _peak() - before


def _peak() -> float:
    """Megabytes that this process has had at most (on Linux not counting the process that started it)."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def make(folder: Path) -> Path:
    """A package in the image of a UNet with split attention: per layer a weight, and heads of slices and einsums."""
    kind = tensor_type(schema.FLOAT16, (2, 320, 64, 64))
    operations, last = [], "sample"
    record = 64 + WIDTH * 2
    for layer in range(LAYERS):
        weight = const(f"w_{layer}", blob_value(schema.FLOAT16, (WIDTH,), 64 + layer * record), named=True)
        operations += [weight, *_attention(layer, last, kind)]
        last = f"sum_{layer}"
    source = model(
        {"main": function(block(operations, [last]), opset="CoreML6", sample=kind)},
        spec=7,
        inputs=[feature("sample", (2, 320, 64, 64), dtype=ARRAY.FLOAT16)],
        outputs=[feature(last, (2, 320, 64, 64), dtype=ARRAY.FLOAT16)],
    )
    save_package(folder, source)
    weights = folder / WEIGHT_BIN
    weights.parent.mkdir(parents=True)
    with weights.open("wb") as file:
        file.write(struct.pack("<II56x", LAYERS, 2))
        for layer in range(LAYERS):
            offset = 64 + layer * record
            file.seek(offset)
            file.write(struct.pack("<IIQQQ32x", 0xDEADBEEF, 1, WIDTH * 2, offset + 64, 0))
        file.truncate(64 + LAYERS * record)
    return folder


def _attention(layer: int, x: str, kind: schema.ValueType) -> list[schema.Operation]:
    made = []
    parts = []
    for head in range(HEADS):
        name = f"{layer}_{head}"
        made += [
            const(f"begin_{name}", tensor_value([0, 40 * head, 0, 0], schema.INT32, (4,)), named=True),
            const(f"end_{name}", tensor_value([2, 40 * head + 40, 64, 64], schema.INT32, (4,)), named=True),
            const(f"mask_{name}", tensor_value([True, False, True, True], schema.BOOL, (4,)), named=True),
            _named("slice_by_index", f"part_{name}", kind, x=x, begin=f"begin_{name}", end=f"end_{name}"),
            const(f"equation_{name}", string_value("bchq,bkhc->bkhq"), named=True),
            _named("einsum", f"out_{name}", kind, values=[f"part_{name}", f"part_{name}"], equation=f"equation_{name}"),
        ]
        parts.append(f"out_{name}")
    made += [
        const(f"axis_{layer}", tensor_value([1], schema.INT32), named=True),
        const(f"interleave_{layer}", tensor_value([False], schema.BOOL), named=True),
        _named("concat", f"all_{layer}", kind, values=parts, axis=f"axis_{layer}", interleave=f"interleave_{layer}"),
        _named("add", f"sum_{layer}", kind, x=f"all_{layer}", y=f"w_{layer}"),
    ]
    return made


def _named(kind: str, name: str, out: schema.ValueType, **inputs: str | list[str]) -> schema.Operation:
    return operation(kind, {name: out}, inputs, {"name": string_value(f"{name}_cast_fp16")})


if __name__ == "__main__":
    main()
