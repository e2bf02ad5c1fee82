"""sample: pictures of a release, drawn by its packages, and by the source in PyTorch from the same noise.

For people who want to see what a width costs before they fetch it. Names end in
`_source` and `_<bits>bit`, so that a report can lay the two over each other.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hubpub.steps.step import Step

if TYPE_CHECKING:
    from hubpub.runtime.pictures import Painter


@dataclass(frozen=True, kw_only=True)
class Sample(Step):
    """Write `out/<prompt>_source.png` and `out/<prompt>_<bits>bit.png` for every prompt.

    inputs: the packages by component (`text_encoder`, `unet` …); `source/model` (the diffusers
    folder) and `source/refiner`, where there is one. Measures the PSNR of each pair in dB.
    """

    VERSION: ClassVar[int] = 3
    NEEDS: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers")

    requests: Sequence[Mapping[str, Any]]  # prompt, negative, seed, steps, guidance of each
    bits: int
    scheduler: str
    scheduler_config: Mapping[str, Any]
    scaling_factor: float
    described: Mapping[str, Any] | None  # of a source that is no diffusers folder: what write_folder takes
    pads: Mapping[str, str]  # the token that the source pads with, by text encoder
    guides: bool  # whether guidance is computed from two texts

    @property
    def label(self) -> str:
        return f"draw {len(self.requests)} pictures"

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        from hubpub.runtime import pictures
        from hubpub.runtime.model import load
        from hubpub.runtime.source_folder import write_folder
        from hubpub.runtime.tokenizers import read_tokenizers

        names = [name for name in pictures.PARTS if name in inputs]
        pictures.check_parts(names, "The release")
        painter = pictures.Painter(
            models={name: load(inputs[name], precision="fp16") for name in names},
            tokenizers=read_tokenizers(inputs["tokenizer"], self.pads),
            scheduler_config=self.scheduler_config,
            scheduler_class=self.scheduler,
            scaling_factor=self.scaling_factor,
            guides=self.guides,
        )
        described = self.described
        with tempfile.TemporaryDirectory(dir=out.parent) as temporary:  # beside the weights, where there is room
            if described is not None:
                folder = write_folder(Path(temporary) / "model", described, inputs, inputs["tokenizer"])
                inputs = {**inputs, "source/model": folder}
            return {"pictures": self._draw(painter, inputs, out)}

    def _draw(self, painter: Painter, inputs: Mapping[str, Path], out: Path) -> list[dict[str, Any]]:
        """Draw every request with both, and compare."""
        from PIL import Image

        from hubpub.runtime import pictures, source_pictures

        requests = [pictures.Request(**request) for request in self.requests]
        drawn = [pictures.draw(painter, request) for request in requests]
        painter.close()
        pairs = []
        for number, (request, picture) in enumerate(zip(requests, drawn, strict=True)):
            refiner = inputs.get("source/refiner")
            reference = source_pictures.draw_with_diffusers(
                inputs["source/model"], request, refiner=refiner, size=(picture.shape[0], picture.shape[1])
            )
            stem = slug(request.prompt, number)
            files = {"source": f"{stem}_source.png", "release": f"{stem}_{self.bits}bit.png"}
            Image.fromarray(reference).save(out / files["source"], optimize=True)
            Image.fromarray(picture).save(out / files["release"], optimize=True)
            psnr = round(pictures.picture_psnr(reference, picture), 2)
            pairs.append({**vars(request), **files, "psnr": psnr})
        return pairs


def slug(prompt: str, number: int) -> str:
    """A prompt as a file name: no two are the same."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
    return f"{number + 1}-{words}" if words else str(number + 1)
