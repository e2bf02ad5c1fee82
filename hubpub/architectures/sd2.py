"""Stable Diffusion 2.x: OpenCLIP ViT-H text encoder (exact GELU, 23 layers), heads of 64 channels."""

from __future__ import annotations

from hubpub.architectures.component import Architecture, Config, Configs
from hubpub.architectures.difference import difference
from hubpub.architectures.sd1 import COMPONENTS, is_second_generation


def _recognises(model_index: Config, configs: Configs) -> bool:
    return difference(model_index, configs) is None and is_second_generation(configs)


# The same five networks with other numbers; most 2.x sources list no safety checker, some fine-tunes do.
SD2 = Architecture(name="sd2", title="Stable Diffusion 2.x", components=COMPONENTS, recognises=_recognises)
