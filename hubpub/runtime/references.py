"""The source's own modules: diffusers' and transformers', with the source's weights, run in fp32.

No network of hubpub is in here, so a package that agrees with this agrees with the
source. Each function builds one module from the source's config.json and returns it with
the way in which it answers a package's inputs. The weights of diffusers' modules stay as
they lie in the file, and each layer is widened to fp32 while it runs; transformers'
modules look at their weights' dtype, so theirs are widened at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hubpub.checkpoints import Checkpoint, match_names
from hubpub.errors import BadWeights

Array = npt.NDArray[Any]
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A module without weights, and how it answers: inputs as packages take them → outputs as packages name them."""

    module: nn.Module
    answer: Callable[[Any, Tensors], dict[str, torch.Tensor]]
    layered: bool  # whether its weights may be widened layer by layer


def find(name: str) -> Callable[[dict[str, Any], Any], Reference]:
    """The function that "module:function" names: (config.json, the network's config) → Reference."""
    module, _, function = name.partition(":")
    build: Callable[[dict[str, Any], Any], Reference] = getattr(import_module(module), function)
    return build


def answers(
    name: str, config_json: Mapping[str, Any], config: Any, checkpoint: Checkpoint, arrays: Mapping[str, Array]
) -> dict[str, Array]:
    """What the source's module answers to `arrays` (as a package takes them), in fp32, by the package's output names.

    `config` is the network's, for what a release has built in and the source has as an input.
    Peak memory: the weights in fp16 (none, where they are mapped from an fp16 file), one layer
    in fp32, and the activations. Raises BadWeights where config and weights do not match.
    """
    with _without_weights():
        reference = find(name)(dict(config_json), config)
    reference.module.eval().requires_grad_(False)
    given = {key: torch.from_numpy(array.astype(np.float32)) for key, array in arrays.items()}
    with torch.inference_mode():
        _dress(reference, checkpoint)
        outputs = reference.answer(reference.module, given)
        return {key: np.asarray(tensor, np.float32) for key, tensor in outputs.items()}


@contextmanager
def _without_weights() -> Iterator[None]:
    """Modules that are built meanwhile have parameters without memory: nothing is allocated or drawn at random.

    Buffers are left alone, because some (positions) are not in a checkpoint.
    """
    register = nn.Module.register_parameter

    def without(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    nn.Module.register_parameter = without
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _dress(reference: Reference, checkpoint: Checkpoint) -> None:
    """Give a module its weights, rounded to fp16 as every package has them."""
    module = reference.module
    names = match_names(checkpoint.tensors(), module.state_dict())
    missing = [name for name in module.state_dict() if name not in names]
    if missing:
        raise BadWeights(f"The source has no {missing[0]}.", hint="Its config.json and its weights do not match.")
    own = {name: parameter for name, parameter in [*module.named_parameters(), *module.named_buffers()]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes
        state = {
            name: torch.from_numpy(checkpoint.float16(source)).reshape(own[name].shape)
            for name, source in names.items()
        }
    if not reference.layered:
        state = {name: tensor.float() for name, tensor in state.items()}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
    for layer in module.modules():
        if reference.layered and layer._parameters:
            layer.register_forward_pre_hook(_widen)
            layer.register_forward_hook(_narrow)


def _widen(layer: nn.Module, _: Any) -> None:
    layer.__dict__["_narrow"] = dict(layer._parameters)
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            layer._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)


def _narrow(layer: nn.Module, _: Any, __: Any) -> None:
    layer._parameters.update(layer.__dict__.pop("_narrow"))


# -- the modules -------------------------------------------------------------------------------------------------


_RESIDUAL = "additional_residual_"


def _conditions(given: Tensors) -> dict[str, Any]:
    """What UNets and ControlNets take alike: text, and XL's pooled text and sizes."""
    states = given["encoder_hidden_states"].squeeze(2).transpose(1, 2)
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    return {"encoder_hidden_states": states, "added_cond_kwargs": added or None, "return_dict": False}


def unet(config_json: dict[str, Any], config: Any) -> Reference:
    """diffusers' UNet2DConditionModel, with the answers of ControlNets and the guidance scale where there are any."""
    from diffusers import UNet2DConditionModel
    from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
        LatentConsistencyModelPipeline,
    )

    def answer(module: nn.Module, given: Tensors) -> dict[str, torch.Tensor]:
        more: dict[str, Any] = {}
        if config.guidance_embedding is not None:
            scale = torch.tensor([config.guidance_embedding - 1])
            waves = LatentConsistencyModelPipeline.get_guidance_scale_embedding(module, scale, config.guidance_dim)
            more["timestep_cond"] = waves
        residuals = [given[f"{_RESIDUAL}{number}"] for number in range(len(given)) if f"{_RESIDUAL}{number}" in given]
        if residuals:
            more["down_block_additional_residuals"] = tuple(residuals[:-1])
            more["mid_block_additional_residual"] = residuals[-1]
        return {"noise_pred": module(given["sample"], given["timestep"], **_conditions(given), **more)[0]}

    return Reference(module=UNet2DConditionModel.from_config(config_json), answer=answer, layered=True)


def controlnet(config_json: dict[str, Any], config: Any) -> Reference:
    """diffusers' ControlNetModel."""
    from diffusers import ControlNetModel

    def answer(module: nn.Module, given: Tensors) -> dict[str, torch.Tensor]:
        picture = given["controlnet_cond"]
        down, middle = module(given["sample"], given["timestep"], controlnet_cond=picture, **_conditions(given))
        return {f"{_RESIDUAL}{number}": value for number, value in enumerate([*down, middle])}

    return Reference(module=ControlNetModel.from_config(config_json), answer=answer, layered=True)


def _vae(config: dict[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL

    module: nn.Module = AutoencoderKL.from_config(config)
    return module


def vae_decoder(config_json: dict[str, Any], config: Any) -> Reference:
    """diffusers' AutoencoderKL, decoding."""

    def answer(module: Any, given: Tensors) -> dict[str, torch.Tensor]:
        return {"image": module.decode(given["z"], return_dict=False)[0]}

    return Reference(module=_vae(config_json), answer=answer, layered=True)


def vae_encoder(config_json: dict[str, Any], config: Any) -> Reference:
    """diffusers' AutoencoderKL, encoding: mean and log variance."""

    def answer(module: Any, given: Tensors) -> dict[str, torch.Tensor]:
        return {"latent": module.encode(given["x"]).latent_dist.parameters}

    return Reference(module=_vae(config_json), answer=answer, layered=True)


def text_encoder(config_json: dict[str, Any], config: Any) -> Reference:
    """transformers' CLIPTextModel, or CLIPTextModelWithProjection where the pooled output is projected."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def answer(module: nn.Module, given: Tensors) -> dict[str, torch.Tensor]:
        answered = module(given["input_ids"].long(), output_hidden_states=True)
        pooled = answered.text_embeds if config.projection_dim else answered.pooler_output
        if config.penultimate:
            return {"hidden_embeds": answered.hidden_states[-2], "pooled_outputs": pooled}
        return {"last_hidden_state": answered.last_hidden_state, "pooled_outputs": pooled}

    kind = CLIPTextModelWithProjection if config.projection_dim else CLIPTextModel
    return Reference(module=kind(CLIPTextConfig(**config_json)), answer=answer, layered=False)


def safety_checker(config_json: dict[str, Any], config: Any) -> Reference:
    """diffusers' StableDiffusionSafetyChecker: concept scores as its forward_onnx computes them on its way."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    def answer(module: Any, given: Tensors) -> dict[str, torch.Tensor]:
        embeds = module.visual_projection(module.vision_model(given["clip_input"])[1])
        normal = nn.functional.normalize
        special = normal(embeds) @ normal(module.special_care_embeds.float()).T
        special = special - module.special_care_embeds_weights.float() + given["adjustment"]
        care = 0.01 * (special > 0).any(dim=1, keepdim=True)
        scores = normal(embeds) @ normal(module.concept_embeds.float()).T - module.concept_embeds_weights.float()
        return {"concept_scores": scores + care}

    return Reference(module=StableDiffusionSafetyChecker(CLIPConfig(**config_json)), answer=answer, layered=False)
