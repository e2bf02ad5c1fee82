"""How the cost grows with fine-tunes of one architecture: python benchmarks/finetunes.py WORK [--count 1 …] [--true N].

Toy sources of one architecture, each with weights of its own, are listed in one hubpub.toml
and published by one command into an empty store. With --true, so many sources of Stable Diffusion 1.5's size as well,
one attention, archives left out (2.7 GB of disk for each, and as much again for its release).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import hubpub

from hubpub.localhub import running
from tests.support.sources import make_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, action="append", help="default: 1, 5 and 20")
    parser.add_argument("--true", type=int, default=0, help="how many of true size, too")
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    print("| fine-tunes | seconds | for each further one | peak memory |\n|---|---:|---:|---:|")
    rows = [(count, True) for count in arguments.count or [1, 5, 20]]
    rows += [(count, False) for count in range(1, arguments.true + 1)]
    first: dict[bool, float] = {}
    for count, tiny in rows:
        seconds, peak = published(work, count, tiny=tiny)
        first.setdefault(tiny, seconds)
        more = f"{(seconds - first[tiny]) / (count - 1):.1f} s" if count > 1 else ""
        size = "toy size" if tiny else "true size"
        print(f"| {count}, {size} | {seconds:.1f} | {more} | {peak / 1e9:.2f} GB |", flush=True)


def published(work: Path, count: int, *, tiny: bool) -> tuple[float, int]:
    """Seconds and peak bytes of publishing `count` sources into an empty store and an empty Hub."""
    for name in ("store", "hub", "hf"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    lines = ['verify = "weights"', 'attention = ["original"]', 'formats = ["packages", "compiled"]']
    for number in range(count):
        folder = work / f"{'tiny' if tiny else 'true'}-{number}"
        if not (folder / "model_index.json").exists():
            make_source(folder, "sd15", tiny=tiny, seed=number)
        lines += ["[[models]]", f'source = "{folder}"', f'to = "me/coreml-tune{number}-palettized"']
    config = work / "hubpub.toml"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with running(work / "hub") as hub:
        done = hubpub(
            ["publish", "--config", str(config)],
            work=work,
            endpoint=hub.endpoint,
            token=hub.token,
        )
    return done.seconds, done.peak


if __name__ == "__main__":
    main()
