"""LoRAs that make a model draw in a few steps: the scheduler, steps and guidance that they were trained for.

Nothing in their tensors says so; their authors' names do (latent-consistency/lcm-lora-*, ByteDance/SDXL-Lightning and
Hyper-SD, whose cards give these settings).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STEPS = re.compile(r"(\d{1,2})[-_]?steps?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FewSteps:
    """How a model with such a LoRA is driven; `scheduler` replaces the class and some values of the model's own."""

    scheduler: Mapping[str, Any]
    steps: int
    guidance: float


def few_steps(name: str) -> FewSteps | None:
    """What a LoRA of this name asks for; None for one that leaves the model's scheduler alone.

    >>> few_steps("ByteDance/SDXL-Lightning/sdxl_lightning_4step_lora.safetensors").steps
    4
    """
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    count = int(found[1]) if (found := _STEPS.search(name)) else None
    if "lcm" in words:
        return FewSteps(scheduler={"_class_name": "LCMScheduler"}, steps=count or 4, guidance=1.0)
    if "lightning" in words:
        trailing = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
        return FewSteps(scheduler=trailing, steps=count or 4, guidance=0.0)
    if "hyper" in words and count:
        trailing = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
        return FewSteps(scheduler=trailing, steps=count, guidance=0.0)
    return None
