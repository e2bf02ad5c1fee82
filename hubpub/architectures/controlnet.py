"""A ControlNet's repo as a source of its own: config.json and weights in its top folder, for any of the families."""

from __future__ import annotations

from hubpub.architectures.component import Architecture, Configs
from hubpub.architectures.components import ONLY_CONTROL

CLASS = "ControlNetModel"
_XL_TEXT = 2048  # channels of the text that XL's are told


def _latent(configs: Configs) -> tuple[int, int] | None:
    """The size that its base model was trained for, which only the width of the text tells."""
    side = 128 if configs[""].get("cross_attention_dim") == _XL_TEXT else 64
    return side, side


CONTROLNET = Architecture(
    name="controlnet",
    title="ControlNet",
    components=(ONLY_CONTROL,),
    pipelines=frozenset({CLASS}),
    difference=lambda model_index, configs: None,
    latent=_latent,
    main="controlnet",
    tokenizer=None,
    devices="A ControlNet works beside a base model of the same family, whose release has a ControlledUnet.",
    swift=None,
)
