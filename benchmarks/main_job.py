"""The main job, timed: publish a source to the embedded Hub, publish it again and at another width, fetch a variant.

    python benchmarks/main_job.py SOURCE WORK [--verify weights] [--attention original …]

Each run starts with an empty store. The embedded Hub runs in this process, and
memory is that of hubpub's processes: a user publishes to huggingface.co. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import Run, hubpub, limits, machine, memory, run

from hubpub.localhub import LocalHub, running

REPO = "me/coreml-bench-palettized"
# What a worker imports before it writes weights and palettizes.
IMPORTS = "import hubpub.steps, hubpub.palettize"


def main() -> None:
    """Run it all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--verify", default="weights")
    parser.add_argument("--attention", action="append", default=[])
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    for name in ("store", "hub", "hf", "models"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}\n")
    options = ["--verify", arguments.verify, *(word for name in arguments.attention for word in ("--attention", name))]
    publish = ["publish", str(arguments.source.resolve()), *options]
    with running(work / "hub") as hub:
        print("| run | seconds | peak memory | bytes sent |\n|---|---:|---:|---:|")
        first = report(f"publish, empty store (`--verify {arguments.verify}`)", [*publish, "--to", REPO], work, hub)
        report("publish again, nothing changed", [*publish, "--to", REPO], work, hub)
        report("fetch original/packages", ["fetch", REPO], work, hub)
        report("fetch again", ["fetch", REPO], work, hub)
        published = keys(work / "store")
        report("publish at 8 bits, same store", [*publish, "--to", f"{REPO}-8", "--bits", "8"], work, hub)
        other = ["--latent-height", "96", "--latent-width", "64", "--deployment-target", "macOS14"]
        report("publish at 96×64 for macOS 14, same store", [*publish, "--to", f"{REPO}-tall", *other], work, hub)
        row("import what writes and palettizes weights", run(["-c", IMPORTS], folder=work))
        own = next(memory(os.getpid()))
        print(f"\n{first['counts']['new']} files in the release; the Hub's own process: {own / 1e6:.0f} MB\n")
    steps(work / "store", published)
    print()
    for name, rate in limits(work).items():
        print(f"{name}: {rate / 1e6:.0f} MB/s")


def report(name: str, arguments: list[str], work: Path, hub: LocalHub) -> dict[str, Any]:
    """Run hubpub once, print a row, return its JSON."""
    done = hubpub(arguments, work=work, endpoint=hub.endpoint, token=hub.token)
    told: dict[str, Any] = json.loads(done.answer)
    row(name, done, sent=told.get("sent_bytes"))
    return told


def row(name: str, done: Run, *, sent: int | None = None) -> None:
    """One line of the table."""
    amount = "" if sent is None else f"{sent:,}"
    print(f"| {name} | {done.seconds:.1f} | {done.peak / 1e9:.2f} GB | {amount} |", flush=True)


def entries(store: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The store's finished steps."""
    for path in store.glob("steps/??/*/entry.json"):
        yield path.parent, json.loads(path.read_text(encoding="utf-8"))


def keys(store: Path) -> set[str]:
    """The keys of all finished steps."""
    return {str(entry["key"]) for _, entry in entries(store)}


def steps(store: Path, published: set[str]) -> None:
    """The table of the first publish's steps, and what another width made anew."""
    head = "| step | seconds | peak memory | written |\n|---|---:|---:|---:|"
    rows = sorted((entry for _, entry in entries(store)), key=lambda entry: entry["created"])
    first = [entry for entry in rows if entry["key"] in published]
    for title, some in (("", first), ("\nOf another width, only these:\n\n", rows[len(first) :])):
        print(f"{title}{head}")
        for entry in some:
            size = sum(file["size"] for file in entry["files"]) / 1e6
            peak = entry["measurements"]["peak_memory"] / 1e6
            print(f"| {entry['label']} ({entry['kind']}) | {entry['seconds']:.1f} | {peak:.0f} MB | {size:.1f} MB |")


if __name__ == "__main__":
    main()
