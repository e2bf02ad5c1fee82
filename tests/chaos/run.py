"""Kills by the hundred: `python -m tests.chaos.run [--kills 500] [--seed 1]`, which is `make chaos`.

Rounds are kept in build/chaos, one JSON object a line: stopped at any moment, the same command goes on. At the end it
prints the table and writes it into docs/chaos.md. Remove build/chaos to begin anew.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

from hubpub import __version__
from tests.chaos.jobs import Kind
from tests.chaos.kills import Chaos
from tests.chaos.scene import Scene

_ROOT: Final = Path(__file__).resolve().parents[2]
_PAGE: Final = _ROOT / "docs" / "chaos.md"
_BEGIN, _END = "<!-- make chaos writes from here -->", "<!-- to here -->"

Row = Mapping[str, Any]


def main() -> None:
    """Play rounds until enough commands were killed; exit status 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "chaos")
    given = parser.parse_args()
    rows = play(given.folder, kills=given.kills, seed=given.seed)
    text = summary(rows, seed=given.seed)
    print(f"\n{text}")
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{text}\n{_END}{rest.partition(_END)[2]}", encoding="utf-8")
    raise SystemExit(any(row["problems"] for row in rows))


def play(folder: Path, *, kills: int, seed: int) -> list[Row]:
    """Rounds of a seed, those of earlier runs included, until `kills` commands were killed."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"seed-{seed}.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    chaos = Chaos(scene=Scene.at(folder / "scene"), folder=folder, seed=seed)
    done = sum(len(row["kills"]) for row in rows)
    while done < kills:
        row = asdict(chaos.play(len(rows)))
        rows.append(row)
        with log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        done += len(row["kills"])
        wrong = "".join(f"\n  {problem['kind']}: {problem['what']}" for problem in row["problems"])
        print(
            f"{done:4} kills  {row['operation']} {row['mode']} from {row['start']}, "
            f"killed at {', '.join(row['kills']) or 'no moment'}, {row['seconds']:.0f} s{wrong}",
            flush=True,
        )
    return rows


def summary(rows: Sequence[Row], *, seed: int) -> str:
    """Markdown: what was done, and a line per operation and mode."""
    by_mode: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_mode[row["operation"], row["mode"]].append(row)
    kinds = get_args(Kind)
    lines = [
        f"hubpub {__version__}, Python {platform.python_version()} on {platform.system()}, seed {seed}: "
        f"{sum(len(row['kills']) for row in rows)} kills in {len(rows)} rounds, "
        f"{sum(row['trouble'] is not None for row in rows)} of which had a fault of the Hub as well.",
        "",
        f"| operation | mode | kills | {' | '.join(kinds)} | MB to move | moved again, per kill |",
        f"|---|---|---:|{'---:|' * len(kinds)}---:|---:|",
    ]
    lines += [_line(*mode, by_mode[mode]) for mode in sorted(by_mode)]
    return "\n".join(lines) + "\n"


def _line(operation: str, mode: str, rows: Sequence[Row]) -> str:
    wrong = Counter(problem["kind"] for row in rows for problem in row["problems"])
    kills = sum(len(row["kills"]) for row in rows)
    unique, moved = (sum(row[name] for row in rows) for name in ("unique", "moved"))
    again = f"{(moved - unique) / (unique / len(rows)) / max(kills, 1):.1%}" if unique else "–"
    each = f"{unique / len(rows) / 1e6:.1f}" if unique else "–"
    counts = " | ".join(str(wrong[kind]) for kind in get_args(Kind))
    return f"| {operation} | {mode} | {kills} | {counts} | {each} | {again} |"


if __name__ == "__main__":
    main()
