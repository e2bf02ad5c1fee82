"""The main job, timed: publish a source to the embedded Hub, publish it again, fetch a variant.

    python benchmarks/main_job.py SOURCE WORK [--verify weights] [--attention original …] [--keep-graphs]

Each run starts with an empty store (with --keep-graphs, one that holds the graphs alone, as
for a second fine-tune of one architecture). Peak memory is the largest sum of the private
and the proportionally shared memory (PSS) of all of hubpub's processes, looked at ten times
a second; Linux only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

REPO = "me/coreml-bench-palettized"


def main() -> None:
    """Run it all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--verify", default="weights")
    parser.add_argument("--attention", action="append", default=[])
    parser.add_argument("--keep-graphs", action="store_true")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    if arguments.keep_graphs:
        keep_graphs(work / "store")
    else:
        shutil.rmtree(work / "store", ignore_errors=True)
    for name in ("hub", "models"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    options = ["--verify", arguments.verify, *(word for name in arguments.attention for word in ("--attention", name))]
    publish = ["publish", str(arguments.source.resolve()), "--to", REPO, "--endpoint", "local", "--json", *options]
    print("| run | seconds | peak memory | bytes sent |\n|---|---:|---:|---:|")
    first = report("publish, empty store", publish, work)
    report("publish again, nothing changed", publish, work)
    report("fetch original/packages", ["fetch", REPO, "--endpoint", "local", "--json"], work)
    report("fetch again", ["fetch", REPO, "--endpoint", "local", "--json"], work)
    print(f"\n{first['counts']['new']} files in the release\n")
    steps(work / "store")


def report(name: str, arguments: list[str], work: Path) -> dict[str, dict[str, int]]:
    """Run hubpub once, print a row, return its JSON."""
    seconds, peak, answer = run(arguments, work)
    told = json.loads(answer)
    sent = told.get("sent_bytes")
    print(f"| {name} | {seconds:.1f} | {peak / 1e9:.2f} GB | {'' if sent is None else f'{sent:,}'} |", flush=True)
    return dict(told)


def run(arguments: list[str], work: Path) -> tuple[float, int, str]:
    """Seconds, peak bytes over all processes, and stdout of one run of hubpub."""
    environment = {**os.environ, "HUBPUB_CACHE": str(work / "store"), "HUBPUB_HUB": str(work / "hub")}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "hubpub", *arguments], cwd=work, env=environment, stdout=subprocess.PIPE, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(memory(process.pid)))
        time.sleep(0.1)
    assert process.stdout is not None
    if process.returncode != 0:
        raise SystemExit(f"hubpub {arguments[0]} ended with {process.returncode}")
    return time.monotonic() - started, peak, process.stdout.read()


def memory(pid: int) -> Iterator[int]:
    """PSS of a process and of all that it has started."""
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            yield 1024 * int(text.split("Pss:")[1].split()[0])
    except (psutil.NoSuchProcess, OSError, IndexError):
        return  # it has ended between the list and the look


def entries(store: Path) -> Iterator[tuple[Path, dict[str, float | str | dict[str, int]]]]:
    """The store's finished steps."""
    for path in store.glob("steps/??/*/entry.json"):
        yield path.parent, json.loads(path.read_text(encoding="utf-8"))


def keep_graphs(store: Path) -> None:
    """Remove every step but the graphs."""
    for folder, entry in list(entries(store)):
        if entry["kind"] != "export":
            shutil.rmtree(folder)


def steps(store: Path) -> None:
    """The per-step table."""
    print("| step | seconds | peak memory | written |\n|---|---:|---:|---:|")
    rows = sorted((entry for _, entry in entries(store)), key=lambda entry: entry["created"])
    for entry in rows:
        size = sum(file["size"] for file in entry["files"]) / 1e6
        peak = entry["measurements"]["peak_memory"] / 1e6
        print(f"| {entry['label']} ({entry['kind']}) | {entry['seconds']:.1f} | {peak:.0f} MB | {size:.1f} MB |")


if __name__ == "__main__":
    main()
