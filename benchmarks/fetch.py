"""Fetch and the Hub client's own download of the same files: python benchmarks/fetch.py [--megabytes 200] [--files 3].

The embedded Hub runs in a process of its own on loopback. The runs take turns, so that both meet the same machine;
`hubpub fetch` checks every byte and syncs it to the disk, `snapshot_download` compares sizes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = "me/coreml-bench"
PREFIX = "original/packages"
SERVE = """
import sys, time
from pathlib import Path
from hubpub.localhub import running
with running(Path(sys.argv[1])) as hub:
    hub.storage.import_folder(sys.argv[2], Path(sys.argv[3]))
    print(hub.endpoint, flush=True)
    sys.stdin.read()
"""


def main() -> None:
    """Time both, print MB/s and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="of each file")
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's for temporary files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        os.environ.update(HF_HOME=f"{folder}/hf", HUBPUB_CACHE=f"{folder}/store", HF_HUB_DISABLE_XET="1")
        size = make(Path(folder, "made"), files=given.files, size=given.megabytes * 1_000_000)
        with serving(Path(folder)) as endpoint:
            ways = {"fetch": fetch, "snapshot_download": download}
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(given.times):
                for name, way in ways.items():
                    seconds[name].append(timed(way, endpoint, Path(folder, "out")))
        speed = {name: size / statistics.median(values) / 1e6 for name, values in seconds.items()}
        for name, values in seconds.items():
            print(f"{name:18} {speed[name]:5.0f} MB/s  ({', '.join(f'{value:.2f}' for value in values)} s)")
        print(f"fetch ÷ snapshot_download: {speed['fetch'] / speed['snapshot_download']:.2f}")


def make(folder: Path, *, files: int, size: int) -> int:
    """Random files of `size` bytes, as packages; bytes in all."""
    for number in range(files):
        path = folder / PREFIX / f"{number}.mlpackage" / "weight.bin"
        path.parent.mkdir(parents=True)
        path.write_bytes(random.Random(number).randbytes(size))
    return files * size


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of an embedded Hub that has the files."""
    command = [sys.executable, "-c", SERVE, str(folder / "hub"), REPO, str(folder / "made")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def timed(way: Callable[[str, Path], None], endpoint: str, out: Path) -> float:
    """Seconds until the files are in a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    started = time.perf_counter()
    way(endpoint, out)
    return time.perf_counter() - started


def fetch(endpoint: str, out: Path) -> None:
    from hubpub import fetch

    fetch(REPO, PREFIX, dest=out, endpoint=endpoint)


def download(endpoint: str, out: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, allow_patterns=f"{PREFIX}/*", local_dir=out, endpoint=endpoint)


if __name__ == "__main__":
    main()
