"""StableDiffusionSafetyChecker: cosines of a picture with known concepts, minus their thresholds.

Interface: clip_input (1, 3, S, S), images (1, H, W, 3), adjustment (1,) → filtered_images
(1, H, W, 3), has_nsfw_concepts (1, 1, 1, 1, 1), concept_scores (1, 17). A picture above a
threshold is blacked out. Facts: diffusers' `forward_onnx`, which Apple's converter follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from hubpub.networks.clip import TowerConfig, layer
from hubpub.networks.scope import Scope, Size, Value

_CONCEPTS, _SPECIAL_CONCEPTS, _SPECIAL_CARE = 17, 3, 0.01


@dataclass(frozen=True, kw_only=True)
class SafetyCheckerConfig(TowerConfig):
    """The vision tower and its projection; and the VAE's scale, because it takes pictures."""

    image_size: int
    patch_size: int
    projection_dim: int
    image_scale: int  # pixels of the picture for each latent pixel, along a side


def safety_checker(at: Scope, config: SafetyCheckerConfig, size: Size, attention: str) -> None:
    """Write the safety checker."""
    side, width = config.image_size, config.projection_dim
    pixels = (1, size.height * config.image_scale, size.width * config.image_scale, 3)
    clip_input = at.input("clip_input", (1, 3, side, side))
    images, adjustment = at.input("images", pixels), at.input("adjustment", (1,))
    seen = at.linear("visual_projection", _vision_tower(at / "vision_model", clip_input, config), width, bias=False)
    length = at.binary("maximum", at.reduce("reduce_l2_norm", seen, 1), 1e-12)
    direction = at.binary("real_div", seen, at.tile(length, 1, width))
    special = at.add(_scores(at, direction, "special_care_embeds", _SPECIAL_CONCEPTS), adjustment)
    cares = at.cast(at.binary("greater", at.reduce("reduce_max", special, 1), 0.0), at.floats)
    scores = at.add(_scores(at, direction, "concept_embeds", _CONCEPTS), at.mul(cares, _SPECIAL_CARE))
    flag = at.cast(at.binary("greater", at.reduce("reduce_max", scores, 1, keep=False), 0.0), at.floats)
    flagged = at.reshape(flag, 1, 1, 1, 1)
    at.output("filtered_images", at.mul(images, at.sub(1.0, flagged)))
    at.output("has_nsfw_concepts", flagged)
    at.output("concept_scores", scores)


def _scores(at: Scope, direction: Value, name: str, count: int) -> Value:
    """Cosines with `count` concepts, minus their thresholds."""
    weight = at.weight(name, (count, direction.shape[1]), transform="l2_normalize")
    return at.linear_of(direction, weight, at.weight(f"{name}_weights", (count,), transform="negate"))


def _vision_tower(at: Scope, image: Value, config: SafetyCheckerConfig) -> Value:
    """(B, 3, S, S) → the pooled output (B, C)."""
    width, eps, patch, own = config.hidden_size, config.layer_norm_eps, config.patch_size, at / "embeddings"
    patches = own.conv("patch_embedding", image, width, kernel=patch, stride=patch, pad=0, bias=False)
    batch, _, rows, columns = patches.shape
    patches = own.transpose(own.reshape(patches, batch, width, rows * columns), 0, 2, 1)
    x = own.concat([own.weight("class_embedding", (1, 1, width)), patches], 1)
    x = own.add(x, own.weight("position_embedding.weight", (1, *x.shape[1:])))
    x = at.layer_norm("pre_layrnorm", x, eps)  # spelled so in the source's weights
    for index in range(config.num_hidden_layers):
        x = layer(at / f"encoder.layers.{index}", x, None, config)
    return at.layer_norm("post_layernorm", at.select(x, 1, 0), eps)
