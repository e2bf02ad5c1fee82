"""LoRAs that bring their scheduler, by the names that their authors gave them."""

from __future__ import annotations

import pytest

from hubpub.architectures.few_steps import few_steps


@pytest.mark.parametrize(
    ("name", "scheduler", "steps", "guidance"),
    [
        ("latent-consistency/lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", "LCMScheduler", 4, 1.0),
        ("latent-consistency/lcm-lora-sdxl/pytorch_lora_weights.safetensors", "LCMScheduler", 4, 1.0),
        ("ByteDance/SDXL-Lightning/sdxl_lightning_8step_lora.safetensors", "EulerDiscreteScheduler", 8, 0.0),
        ("ByteDance/Hyper-SD/Hyper-SDXL-2steps-lora.safetensors", "DDIMScheduler", 2, 0.0),
    ],
)
def test_known_ones(name: str, scheduler: str, steps: int, guidance: float) -> None:
    known = few_steps(name)
    assert known is not None
    assert (known.scheduler["_class_name"], known.steps, known.guidance) == (scheduler, steps, guidance)


@pytest.mark.parametrize("name", ["me/style", "me/lightningbolt-style", "me/hyperreal", "me/calcmodel-lora"])
def test_others_leave_the_scheduler_alone(name: str) -> None:
    assert few_steps(name) is None
