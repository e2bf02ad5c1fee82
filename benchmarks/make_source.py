"""Write a diffusers source with random weights: python benchmarks/make_source.py sd15 DIR."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.sources import FAMILIES, Layout, make_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="toy size instead of true size")
    parser.add_argument("--bin", action="store_true", help="torch's .bin files (needs torch) instead of safetensors")
    parser.add_argument("--dtype", choices=("F16", "BF16", "F32"), default="F16")
    parser.add_argument("--variant", action="store_true", help="name the files *.fp16.*")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--legacy", action="store_true", help="tensor names of 2022")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], metavar="COMPONENT", help="weights of this one alone")
    arguments = parser.parse_args()
    kind = "bin" if arguments.bin else "safetensors"
    layout = Layout(
        dtype=arguments.dtype, kind=kind, variant=arguments.variant, shards=arguments.shards, legacy=arguments.legacy
    )
    start = time.perf_counter()
    make_source(
        arguments.folder,
        arguments.family,
        tiny=arguments.tiny,
        layout=layout,
        seed=arguments.seed,
        only=arguments.only,
    )
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{size / 1e6:.0f} MB in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
