"""One component of a toy source: its steps, run one by one without a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from itertools import count
from pathlib import Path
from typing import Any

from hubpub import architectures
from hubpub.checkpoints import choose, open_checkpoint
from hubpub.networks import Size
from hubpub.sources.metadata import read_facts
from hubpub.steps import Measure, Package, Readback, Reference, Weights
from hubpub.steps.package import PACKAGE
from tests.support.sources import Layout, make_source

METADATA = {
    "author": "Somebody",
    "license": "openrail++",
    "version": "1",
    "short_description": "For tests",
    "user_defined": {"b": "2", "a": "1"},
}
SMALL = Size(height=32, width=32, batch=2)


class Bench:
    """Runs the steps of one component; every result is a folder of its own below `root`."""

    def __init__(self, root: Path, component: str, *, family: str = "sd15", layout: Layout | None = None) -> None:
        self.root = root
        source = make_source(root / "source", family, layout=layout)
        facts = read_facts(lambda path: _read(source / path), name=family)
        self.configs = facts.configs
        self.architecture = architectures.detect(facts.model_index, facts.configs)
        self.component = self.architecture.component(component)
        folder = self.component.origin.folder
        self.source = source / folder
        names = choose((f"{folder}/{path.name}".removeprefix("/") for path in self.source.iterdir()), folder=folder)
        self.checkpoint = {"files": [name.rpartition("/")[2] for name in names]}
        self.config = self.component.meaning(self.component.config(self.configs))
        self._numbers = count()

    def piece(self, name: str) -> Bench:
        """The same source's component, or chunk, of another name; its steps run beside this one's."""
        other = copy(self)
        other.component = self.architecture.component(name)
        return other

    @property
    def identity(self) -> dict[str, Any]:
        return {"family": self.architecture.name, "component": self.component.name, "config": self.config}

    def folder(self) -> Path:
        out = self.root / f"out{next(self._numbers)}" / "payload"
        out.mkdir(parents=True)
        return out

    def weights_report(self, bits: int) -> tuple[Path, dict[str, Any]]:
        out = self.folder()
        step = Weights(**self.identity, bits=bits, checkpoint=self.checkpoint)
        report = step.run({"source": self.source}, out)
        json.dumps(report)
        return out, report

    def weights(self, bits: int) -> Path:
        return self.weights_report(bits)[0]

    def package(
        self, weights: Path, *, attention: str | None = "original", size: Size = SMALL, target: str = "macOS13"
    ) -> Path:
        out = self.folder()
        step = Package(
            **self.identity,
            attention=attention,
            height=size.height,
            width=size.width,
            batch=size.batch,
            target=target,
            metadata=METADATA,
        )
        step.run({"weights": weights}, out)
        return out / PACKAGE

    def reference(self, size: Size = SMALL) -> Path:
        out = self.folder()
        step = Reference(
            **self.identity,
            config_json=self.configs[self.component.origin.folder],
            height=size.height,
            width=size.width,
            batch=size.batch,
            checkpoint=self.checkpoint,
            samples={"timesteps": 1000, "scaling_factor": 0.18215},
        )
        step.run({"source": self.source}, out)
        return out

    def answers(self, size: Size, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """What the source's module answers to these inputs, in fp32."""
        from hubpub.runtime.references import answers

        config = self.component.read_config(self.config)
        with open_checkpoint(self.checkpoint, {"source": self.source}) as checkpoint:
            return answers(
                self.component.reference, self.configs[self.component.origin.folder], config, checkpoint, arrays
            )

    def measure(
        self,
        *,
        package: Path,
        weights: Path,
        expected: Path,
        bits: int = 6,
        attention: str | None = "original",
        target: str = "macOS13",
        size: Size = SMALL,
    ) -> dict[str, Any]:
        step = Measure(
            **self.identity,
            pieces=[self.component.name],
            checkpoint=self.checkpoint,
            attention=attention,
            height=size.height,
            width=size.width,
            batch=size.batch,
            target=target,
            bits=bits,
            floor=25.0,
            floor_program=60.0,
        )
        inputs = {"package/0": package, "weights/0": weights, "source": self.source, "expected": expected}
        return step.run(inputs, self.folder())

    def readback(self, package: Path, *others: Path, bits: int) -> dict[str, Any]:
        step = Readback(**self.identity, bits=bits, checkpoint=self.checkpoint)
        inputs: Mapping[str, Path] = {"source": self.source, "package": package}
        more = {f"packages/{number}": other for number, other in enumerate(others)}
        return step.run({**inputs, **more}, self.folder())


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
