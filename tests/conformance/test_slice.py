"""A bounded slice of coremltools' own tests, with hubpub's numbers; the whole is tests.conformance.run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.explanations import FAILURES
from tests.conformance.report import NOT_EXPLAINED, explained

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_coremltools_own_tests_pass(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the runtime needs torch")
    pytest.importorskip("coremltools", reason="its tests are what is run")
    lines = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "tests.conformance.run", "--every", "24", "--seconds", "40", "--out", str(lines)]
    command += ["--files", "iOS14/test_conv", "iOS14/test_linear", "iOS14/test_normalization", "iOS14/test_activation"]
    command += ["iOS14/test_tensor_operation", "iOS14/test_tensor_transformation", "iOS14/test_reduction"]
    command += ["iOS16/test_constexpr_ops", "iOS16/test_scatter_gather", "iOS18/test_transformers"]
    command += ["iOS14/test_elementwise_binary", "iOS14/test_elementwise_unary"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    failed = [
        f"{row['test']}: {row['reason']}"
        for row in rows
        if row["outcome"] == "failed" and explained(row, FAILURES) == NOT_EXPLAINED
    ]
    assert not failed, "\n".join(failed)
    # pytest's statuses: 1, a number was wrong (explained, or the line above fails); 2, time was up
    assert done.returncode in (0, 1, 2), done.stdout[-2000:]
    compared = [row for row in rows if row["compared"]]
    assert len(compared) > 10
    assert max(row["worst"] for row in compared) < 0.02
