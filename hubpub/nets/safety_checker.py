"""The safety checker of Stable Diffusion 1.x (diffusers' StableDiffusionSafetyChecker)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hubpub.nets.clip import VisionTower

# What a special concept, once seen, adds to the score of every other.
_SPECIAL_CARE = 0.01
_CONCEPTS = 17
_SPECIAL_CONCEPTS = 3


class SafetyChecker(nn.Module):
    """Cosines of the image with known concepts, minus their thresholds; an image above one is blacked out.

    clip_input (1, 3, S, S), images (1, H, W, 3), adjustment (1) → filtered_images (1, H, W, 3),
    has_nsfw_concepts (1, 1, 1, 1) as 0 or 1, concept_scores (1, 17).

    The four concept parameters hold the source's tensors after a transform (see TRANSFORMED):
    normalised directions and negated thresholds, so that scores are one linear each.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["projection_dim"]
        self.vision_model = VisionTower(config)
        self.visual_projection = nn.Linear(config["hidden_size"], width, bias=False)
        self.concept_embeds = nn.Parameter(torch.zeros(_CONCEPTS, width))
        self.concept_embeds_weights = nn.Parameter(torch.zeros(_CONCEPTS))
        self.special_care_embeds = nn.Parameter(torch.zeros(_SPECIAL_CONCEPTS, width))
        self.special_care_embeds_weights = nn.Parameter(torch.zeros(_SPECIAL_CONCEPTS))

    def forward(self, clip_input: Tensor, images: Tensor, adjustment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        direction = F.normalize(self.visual_projection(self.vision_model(clip_input)))
        special = F.linear(direction, self.special_care_embeds, self.special_care_embeds_weights) + adjustment
        care = (special.amax(dim=1, keepdim=True) > 0).to(images.dtype) * _SPECIAL_CARE
        scores = F.linear(direction, self.concept_embeds, self.concept_embeds_weights) + care
        flagged = (scores.amax(dim=1) > 0).to(images.dtype).reshape(1, 1, 1, 1)
        return images * (1 - flagged), flagged, scores


# Parameter → the transform of hubpub.graph that makes it from the source's tensor of the same name.
TRANSFORMED = {
    "concept_embeds": "l2_normalize",
    "concept_embeds_weights": "negate",
    "special_care_embeds": "l2_normalize",
    "special_care_embeds_weights": "negate",
}
