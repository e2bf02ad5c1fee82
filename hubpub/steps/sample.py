"""sample: pictures of a release, drawn by its packages, and by the source in PyTorch from the same noise.

For people who want to see what a width costs before they fetch it. Names end in
`_source` and `_<bits>bit`, so that a report can lay the two over each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from hubpub.runtime import pictures
from hubpub.runtime.model import load
from hubpub.runtime.pictures import Painter, Request

KIND = "sample"
VERSION = 1

_PARTS = ("text_encoder", "unet", "vae_decoder")


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write `out/<prompt>_source.png` and `out/<prompt>_<bits>bit.png` for every prompt.

    params: `requests` (prompt, negative, seed, steps, guidance of each), `bits`,
    `scheduler`, `scheduler_config`, `scaling_factor`. inputs: the packages `text_encoder`,
    `unet`, `vae_decoder`; `source` (the diffusers folder). Measures the PSNR of each pair in dB.
    """
    parts = {name: load(inputs[name], precision="fp16") for name in _PARTS}
    length = parts["text_encoder"].inputs[0].shape[1]
    painter = Painter(
        **parts,
        tokenizer=pictures.read_tokenizer(inputs["source"] / "tokenizer", length=length),
        scheduler_config=params["scheduler_config"],
        scheduler_class=params["scheduler"],
        scaling_factor=params["scaling_factor"],
    )
    requests = [Request(**given) for given in params["requests"]]
    drawn = [pictures.draw(painter, request) for request in requests]
    for part in parts.values():
        part.close()
    drawn_pairs = []
    for number, (request, picture) in enumerate(zip(requests, drawn, strict=True)):
        reference = pictures.draw_with_diffusers(inputs["source"], request)
        stem = slug(request.prompt, number)
        names = {"source": f"{stem}_source.png", "release": f"{stem}_{params['bits']}bit.png"}
        Image.fromarray(reference).save(out / names["source"], optimize=True)
        Image.fromarray(picture).save(out / names["release"], optimize=True)
        psnr = round(pictures.picture_psnr(reference, picture), 2)
        drawn_pairs.append({**vars(request), **names, "psnr": psnr})
    return {"pictures": drawn_pairs}


def slug(prompt: str, number: int) -> str:
    """A prompt as a file name: no two are the same."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
    return f"{number + 1}-{words}" if words else str(number + 1)
