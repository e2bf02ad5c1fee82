"""pytest plugin for coremltools' tests: simulates a Mac, with hubpub's runtime in place of Core ML.

coremltools calls Core ML through one class, `_MLModelProxy`; on Linux it is None, and the
tests convert models without predicting. The plugin replaces that class with `Proxy`, which
loads the package with hubpub.runtime. Everything else is coremltools': input checks,
converters, expected values and tolerances.

For each test the plugin also records the MIL ops of its models, and the largest error of every
compared output relative to the largest expected value, because Apple's tolerances for fp16
(0.5 absolute, 5 % relative) are large.
"""

from __future__ import annotations

import inspect
import json
import os
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("PYMIL_TEST_TARGETS", "mlprogram")
os.environ.setdefault("INCLUDE_MIL_FP32_UNIT_TESTS", "1")

import coremltools.converters.mil.testing_utils as mil_testing
import coremltools.models.model as ct_model
import coremltools.models.utils as ct_utils
from coremltools.converters.mil.frontend.torch.test import testing_utils as torch_testing

import hubpub.runtime
from hubpub.errors import HubpubError

PRECISION = os.environ.get("HUBPUB_CONFORMANCE_PRECISION", "fp16")
MACOS = (15, 0)
STRICT = 0.005  # of the largest expected value


class Proxy:
    """What coremltools takes for Core ML: a package, loaded by hubpub when it is first asked to predict."""

    def __init__(self, path: str, compute_units: str, function: str, hints: dict[str, str], asset: Any) -> None:
        self._path, self._function = path, function
        self._model: hubpub.runtime.Model | None = None

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return 10

    def _load(self) -> hubpub.runtime.Model:
        if self._model is None:
            if not Path(self._path).is_dir():
                pytest.skip("a neural network, which is not an ML Program")
            RECORD.ops |= ops_of(ct_utils.load_spec(self._path))
            RECORD.attempted = True  # also where loading fails
            self._model = hubpub.runtime.load(self._path, precision=PRECISION, function=self._function or None)
        RECORD.attempted = True
        return self._model

    def predict(self, inputs: dict[str, Any], state: Any = None) -> dict[str, Any]:
        model = self._load()
        try:
            outputs = model.predict(inputs, state=state.state if state is not None else None)
        except HubpubError as error:
            raise RuntimeError(str(error)) from error  # what Core ML's proxy raises
        RECORD.answers.update({id(value): value for value in outputs.values()})
        return outputs

    def batchPredict(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.predict(inputs) for inputs in batch]

    def newState(self) -> StateProxy:
        return StateProxy(self._load().make_state())


class StateProxy:
    """What coremltools takes for Core ML's state."""

    def __init__(self, state: hubpub.runtime.State) -> None:
        self.state = state

    def read_state(self, name: str) -> Any:
        return self.state.read(name)

    def write_state(self, name: str, value: Any) -> None:
        self.state.write(name, value)


class Record:
    """What happened during one test."""

    def __init__(self) -> None:
        self.attempted = False
        self.ops: set[str] = set()
        self.answers: dict[int, Any] = {}
        self.compared = 0
        self.worst = 0.0


RECORD = Record()


def ops_of(spec: Any) -> set[str]:
    """The op types in a model, without constants."""
    found: set[str] = set()

    def walk(block: Any) -> None:
        for operation in block.operations:
            found.add(operation.type)
            for inner in operation.blocks:
                walk(inner)

    for function in spec.mlProgram.functions.values():
        walk(function.block_specializations[function.opset])
    return found - {"const"}


def relative_error(answer: Any, expected: Any) -> float:
    """The largest difference, in units of the largest finite expected value; inf where NaN or infinities differ."""
    a, b = np.asarray(answer, np.float64), np.asarray(expected, np.float64)
    a, b = np.broadcast_arrays(a, b)
    if not a.size:
        return 0.0
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    difference, scale = float(np.abs(a[finite] - b[finite]).max()), float(np.abs(b[finite]).max())
    if scale == 0.0:
        return 0.0 if difference <= 1e-4 else float("inf")
    return difference / scale


_assert_allclose = np.testing.assert_allclose


def assert_allclose(actual: Any, desired: Any, *args: Any, **kwargs: Any) -> None:
    """numpy's, which also notes how far an answer of ours is from what was expected."""
    if id(actual) in RECORD.answers or id(desired) in RECORD.answers:
        mine, other = (actual, desired) if id(actual) in RECORD.answers else (desired, actual)
        RECORD.compared += 1
        if np.shape(mine) == np.shape(other) or np.size(mine) == np.size(other):
            RECORD.worst = max(RECORD.worst, relative_error(np.reshape(mine, np.shape(other)), other))
    _assert_allclose(actual, desired, *args, **kwargs)


def pytest_configure(config: pytest.Config) -> None:
    ct_model._MLModelProxy = Proxy
    for module in (ct_model, ct_utils):
        module._is_macos = lambda: True
        module._macos_version = lambda: MACOS
    for module in (mil_testing, torch_testing):
        module._IS_MACOS = True
    np.testing.assert_allclose = assert_allclose


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that build one of the ops asked for, and one in so many."""
    ops = os.environ.get("HUBPUB_CONFORMANCE_OPS", "").split()
    every = int(os.environ.get("HUBPUB_CONFORMANCE_EVERY", "1"))
    kept = [
        item
        for item in items
        if zlib.crc32(item.nodeid.encode()) % every == 0
        and (not ops or any(f"mb.{op}(" in _source(item) for op in ops))
    ]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@cache
def _source(item: pytest.Item) -> str:
    return inspect.getsource(item.cls if getattr(item, "cls", None) else item.obj)  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    global RECORD
    RECORD = Record()
    return (yield)


_OUT = os.environ.get("HUBPUB_CONFORMANCE_OUT")
_STARTED = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if _OUT and (report.when == "call" or (report.when == "setup" and report.outcome != "passed")):
        outcome, reason = report.outcome, ""
        if hasattr(report, "wasxfail"):
            outcome, reason = ("xpassed" if outcome == "passed" else "xfailed"), str(report.wasxfail)
        elif outcome == "skipped":
            reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        elif outcome == "failed" and call.excinfo is not None:
            reason = f"{call.excinfo.typename}: {str(call.excinfo.value)[:600]}"
        line = {
            "test": item.nodeid.split("coremltools/")[-1],
            "outcome": outcome,
            "reason": reason,
            "ran": RECORD.attempted,
            "ops": sorted(RECORD.ops),
            "compared": RECORD.compared,
            "worst": RECORD.worst if np.isfinite(RECORD.worst) else "inf",
            "seconds": round(report.duration, 3),
        }
        with Path(_OUT).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = float(os.environ.get("HUBPUB_CONFORMANCE_SECONDS", "inf"))
    if time.monotonic() - _STARTED > limit:
        item.session.shouldstop = "time is up"
