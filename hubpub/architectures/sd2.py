"""Stable Diffusion 2.x: OpenCLIP ViT-H text encoder (exact GELU), heads of 64 channels, linear projections."""

from __future__ import annotations

from dataclasses import replace

from hubpub.architectures.component import Config, Configs
from hubpub.architectures.sd1 import SD1, is_second_generation, stable_diffusion


def _difference(model_index: Config, configs: Configs) -> str | None:
    other = stable_diffusion(model_index, configs)
    return other or (None if is_second_generation(configs) else "Stable Diffusion 1.x")


# The same networks with other numbers; most 2.x sources list no safety checker, some fine-tunes do.
SD2 = replace(SD1, name="sd2", title="Stable Diffusion 2.x", difference=_difference)
