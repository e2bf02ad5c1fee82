"""Time and memory of one prediction: python benchmarks/runtime.py PACKAGE [--precision fp32] [--device cuda].

Feeds the package realistic inputs (hubpub/runtime/samples.py) and prints, as one JSON line, seconds
to load and to predict, processor seconds, and the peak of resident memory in MB, of which the share
before the model was loaded (torch itself) is given too. With --layers, the ops that took longest.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from hubpub.runtime import load
from hubpub.runtime.interpreter import Interpreter
from hubpub.runtime.samples import realistic


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def timed_ops(seconds: Counter[str], numbers: Counter[str]) -> None:
    """Count the processor time of every op from now on."""
    original = Interpreter.guarded

    def guarded(self: Interpreter, step: Any, run: Any) -> Any:
        start = time.process_time()
        result = original(self, step, run)
        seconds[step.type] += time.process_time() - start
        numbers[step.type] += 1
        return result

    Interpreter.guarded = guarded  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--layers", action="store_true")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    before = peak_mb()
    start = time.perf_counter()
    model = load(given.package, device=given.device, precision=given.precision)
    loaded = time.perf_counter() - start
    sizes = model.table_sizes("input_ids")
    inputs = realistic(model.inputs.values(), params={"vocabulary": sizes[0]} if sizes else {})
    seconds, numbers = Counter[str](), Counter[str]()
    if given.layers:
        timed_ops(seconds, numbers)
    for _ in range(given.repeat):
        start, processor = time.perf_counter(), time.process_time()
        model.predict(inputs)
        line = {
            "package": given.package.name,
            "precision": given.precision,
            "device": given.device,
            "threads": torch.get_num_threads(),
            "load_s": round(loaded, 2),
            "predict_s": round(time.perf_counter() - start, 2),
            "processor_s": round(time.process_time() - processor, 2),
            "peak_mb": peak_mb(),
            "before_mb": before,
        }
        print(json.dumps(line))
    for op, spent in seconds.most_common(12):
        print(f"{spent:8.2f} s  {numbers[op]:5} × {op}")


if __name__ == "__main__":
    main()
