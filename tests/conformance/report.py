"""Write docs/conformance.md from the lines of tests.conformance.run:  python -m tests.conformance.report FILE …"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conformance import recorded
from tests.conformance.explanations import FAILURES, OVER, SKIPPED

STRICT = 0.005
NOT_EXPLAINED = "not explained"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"

INTRODUCTION = """\
# Conformance

coremltools has tests of every MIL op and of its torch front end. On a Mac they convert small
models and compare Core ML's predictions with expected values; on other systems they do not predict.
`tests/conformance/plugin.py` replaces one class of coremltools, `_MLModelProxy`, so that hubpub's
runtime makes the predictions: the numbers are then compared on any machine, with Apple's tolerances.
Models run on the CPU at `precision="fp16"`, as on a device; fp32 values of a program stay fp32.

To write this page, run `python -m tests.conformance.recorded --out FILE` and
`python -m tests.conformance.report FILE`.""".splitlines()

Row = Mapping[str, Any]


def read(files: Iterable[Path]) -> list[Row]:
    """All rows; for a test that ran twice with the same parameters, the last."""
    rows = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["test"], row.get("targets", "")] = row
    return list(rows.values())


def numeric(row: Row) -> bool:
    """Whether the test made a prediction and passed or failed."""
    return bool(row["ran"]) and row["outcome"] in ("passed", "failed")


def within(row: Row) -> bool:
    """Whether every compared output was within 0.5 % of the largest expected value."""
    return row["worst"] != "inf" and row["worst"] <= STRICT


def explained(row: Row, table: Sequence[tuple[str, str]]) -> str:
    """The explanation whose pattern matches the test's name or reason."""
    text = f"{row['test']} {row['reason']}"
    return next((why for pattern, why in table if re.search(pattern, text, re.DOTALL)), "not explained")


def short(test: str) -> str:
    """File, class and function of a test, without its parameters."""
    return re.sub(r"^.*/tests?/", "", test.split("[")[0])


def table(rows: Iterable[Row]) -> list[str]:
    """One line per op, with the tests whose model contains it."""
    total, apple, compared, strict = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        for op in row["ops"]:
            total[op] += 1
            apple[op] += row["outcome"] == "passed"
            compared[op] += row["compared"] > 0
            strict[op] += row["compared"] > 0 and within(row)
    lines = ["| op | tests | passed | compared by tolerance | within 0.5 % |", "|---|---:|---:|---:|---:|"]
    return lines + [f"| {op} | {total[op]} | {apple[op]} | {compared[op]} | {strict[op]} |" for op in sorted(total)]


def grouped(rows: Iterable[Row], reasons: Sequence[tuple[str, str]]) -> list[str]:
    """Tests by explanation: their number and names."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    worst: dict[str, float] = {}
    for row in rows:
        why = explained(row, reasons)
        groups[why][short(row["test"])] += 1
        if row["compared"]:
            worst[why] = max(worst.get(why, 0.0), float(row["worst"]))
    lines = []
    for why, tests in sorted(groups.items(), key=lambda item: -sum(item[1].values())):
        names = ", ".join(f"`{name}` ({count})" for name, count in sorted(tests.items()))
        far = f" (error at most {100 * worst[why]:.2g} % of the largest value)" if why in worst else ""
        lines += [f"- **{sum(tests.values())}**: {why}{far}", f"  {names}"]
    return lines or ["None."]


def document(rows: Sequence[Row]) -> str:
    """The whole page."""
    ran = [row for row in rows if numeric(row)]
    failed = [row for row in ran if row["outcome"] == "failed"]
    over = [row for row in ran if row["outcome"] == "passed" and row["compared"] and not within(row)]
    compared = [row for row in ran if row["compared"]]
    left = [row for row in rows if not numeric(row) and row["outcome"] != "passed"]
    front = [row for row in rows if row["outcome"] == "passed" and not row["ran"]]
    files = sorted({short(row["test"]).split("::")[0] for row in rows})
    return "\n".join(
        [
            *INTRODUCTION,
            "",
            f"- **{len(rows)}** tests of {len(files)} files ran; **{len(ran)}** of them made predictions.",
            f"- **{sum(row['outcome'] == 'passed' for row in ran)}** of these passed with Apple's tolerances.",
            f"- **{sum(map(within, compared))}** of the {len(compared)} tests with a tolerance are also within 0.5 %",
            "  of the largest expected value (Apple's tolerances for fp16, 0.5 absolute and 5 % relative, are large).",
            f"- {len(front)} more passed without a prediction: they test only the converter.",
            f"- {len(left)} were skipped by the tests or by the harness; the reasons are below.",
            "",
            "## By op",
            "",
            "A test counts for every op in its model. *passed*: with Apple's tolerances.",
            "",
            *table(ran),
            "",
            "## Failures",
            "",
            *grouped(failed, FAILURES),
            "",
            "## Passed, with an error above 0.5 %",
            "",
            *grouped(over, OVER),
            "",
            "## Skipped",
            "",
            *grouped(left, SKIPPED),
            "",
            "## Selection of tests",
            "",
            "Of a group of tests, those ran whose name's checksum is divisible by the number.",
            "",
            *recorded.table(),
            "",
        ]
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(document(read(arguments.files)), encoding="utf-8")


if __name__ == "__main__":
    main()
