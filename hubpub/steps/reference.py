"""reference: what the source's own modules answer, in fp32, to the inputs that packages are tried with.

runtime/references.py has the modules, runtime/samples.py the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hubpub import architectures
from hubpub.checkpoints import open_checkpoint
from hubpub.coreml import schema_pb2 as schema
from hubpub.networks import Size
from hubpub.steps.step import Step

FILE = "reference.npz"

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Reference(Step):
    """Write `out/reference.npz`: `input/<name>` as packages take them, `output/<name>` as the source answers (fp32).

    inputs: `source` (the component's folder). All attentions, widths and targets of a
    component take the same inputs, so they share one reference.
    """

    VERSION: ClassVar[int] = 3
    NEEDS: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers")

    family: str
    component: str
    config: Mapping[str, Any]  # the network's config as plain JSON
    config_json: Mapping[str, Any]  # the source's config.json
    height: int  # of the latent
    width: int
    batch: int
    checkpoint: Mapping[str, Any]  # what open_checkpoint takes
    samples: Mapping[str, Any]  # what realistic inputs depend on: timesteps, scaling_factor, size

    @property
    def label(self) -> str:
        return f"run {self.component} of the source"

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        from hubpub.coreml.program import write

        known = architectures.find(self.family, self.component)
        size = Size(height=self.height, width=self.width, batch=self.batch)
        config = known.read_config(self.config)
        network = known.program(config, size=size, attention="original")
        model = write(network, target="macOS13", floats=config.floats)
        arrays, outputs = self.answers(list(model.description.input), inputs)
        stored = {f"input/{name}": array for name, array in arrays.items()}
        stored |= {f"output/{name}": array for name, array in outputs.items()}
        np.savez(out / FILE, allow_pickle=False, **stored)
        return {"outputs": {name: list(array.shape) for name, array in outputs.items()}}

    def answers(self, given: Sequence[schema.FeatureDescription], inputs: Mapping[str, Path]) -> tuple[Arrays, Arrays]:
        """Realistic values for a package's inputs, and what the source's module answers to them (fp32)."""
        from hubpub.runtime.features import feature
        from hubpub.runtime.references import answers
        from hubpub.runtime.samples import realistic

        known = architectures.find(self.family, self.component)
        config = known.read_config(self.config)
        features = [feature(description) for description in given]
        arrays = realistic(features, params={**self.samples, **known.samples(config)})
        with open_checkpoint(self.checkpoint, inputs) as checkpoint:
            outputs = answers(known.reference, self.config_json, config, checkpoint, arrays)
        return arrays, {name: outputs[name] for name in known.checks(outputs)}


def read_reference(path: Path) -> tuple[Arrays, Arrays]:
    """Inputs and outputs of a reference.npz, by name."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    inputs, outputs = (
        {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}
        for kind in ("input/", "output/")
    )
    return inputs, outputs
