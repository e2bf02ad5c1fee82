"""reference: what the source's own modules answer, in fp32, to the inputs that packages are tried with.

The modules are those of diffusers and transformers, built from the source's config and
given its weights rounded to fp16, as every package has them. None of hubpub's networks
is in it, so a package that agrees with this agrees with the source. The weights of
diffusers' modules stay as they lie in the file, and each layer is widened to fp32 while
it runs; transformers' modules look at their weights' dtype, so theirs are widened at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hubpub.checkpoints.weights import Weights, match_names, open_weights
from hubpub.errors import BadWeights
from hubpub.runtime.model import Model, load
from hubpub.runtime.samples import realistic

KIND = "reference"
VERSION = 1

FILE = "reference.npz"

Array = npt.NDArray[Any]
Given = Mapping[str, torch.Tensor]


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write `out/reference.npz`: `input/<name>` as packages take them, `output/<name>` as the source answers (fp32).

    params: `component`, `config` (the source's config.json), `weights` (file names in the
    source folder), `scheduler` (its config), `scaling_factor` (of the VAE). inputs: `source`
    (the component's folder), `package` (any package of the component, for its interface).
    """
    with load(inputs["package"], precision="fp32") as model:
        arrays = realistic(model.inputs, params=_samples(model, params))
    given = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    build, answer = _COMPONENTS[params["component"]]
    module = build(dict(params["config"])).eval().requires_grad_(False)
    with open_weights([inputs["source"] / name for name in params["weights"]]) as weights, torch.inference_mode():
        _dress(module, weights, layered=type(module).__module__.startswith("diffusers.models."))
        outputs = {name: np.asarray(tensor, np.float32) for name, tensor in answer(module, given).items()}
    stored = {f"input/{name}": array for name, array in arrays.items()}
    stored |= {f"output/{name}": array for name, array in outputs.items()}
    np.savez(out / FILE, allow_pickle=False, **stored)
    return {"outputs": {name: list(array.shape) for name, array in outputs.items()}}


def _samples(model: Model, params: Mapping[str, Any]) -> dict[str, Any]:
    """What realistic inputs depend on: the scheduler, the VAE's scale, the vocabulary, the picture's size."""
    chosen: dict[str, Any] = {
        "timesteps": params["scheduler"].get("num_train_timesteps") or 1000,
        "scaling_factor": params["scaling_factor"],
    }
    vocabulary = model.table_sizes("input_ids")
    if vocabulary:
        chosen["vocabulary"] = min(vocabulary)
    return chosen


def _dress(module: nn.Module, weights: Weights, *, layered: bool) -> None:
    """Give a module its weights, rounded to fp16: in fp32, or (`layered`) widened while each layer runs."""
    names = match_names(weights.names(), module.state_dict())
    missing = [name for name in module.state_dict() if name not in names]
    if missing:
        raise BadWeights(f"The source has no {missing[0]}.", hint="Its config.json and its weights do not match.")
    held = {name: parameter for name, parameter in [*module.named_parameters(), *module.named_buffers()]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes
        state = {
            name: torch.from_numpy(weights.float16(source)).reshape(held[name].shape) for name, source in names.items()
        }
    if not layered:
        state = {name: tensor.float() for name, tensor in state.items()}
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False)
    for layer in module.modules():
        if layered and layer._parameters:
            layer.register_forward_pre_hook(_widen)
            layer.register_forward_hook(_narrow)


def _widen(layer: nn.Module, _: Any) -> None:
    layer.__dict__["_held"] = dict(layer._parameters)
    for name, parameter in layer._parameters.items():
        if parameter is not None:
            layer._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)


def _narrow(layer: nn.Module, _: Any, __: Any) -> None:
    layer._parameters.update(layer.__dict__.pop("_held"))


# -- the modules -------------------------------------------------------------------------------------------------


def _unet(config: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def _vae(config: dict[str, Any]) -> nn.Module:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return AutoencoderKL.from_config(config)


def _text_encoder(config: dict[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**config))


def _safety_checker(config: dict[str, Any]) -> nn.Module:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    return StableDiffusionSafetyChecker(CLIPConfig(**config))


def _predict_noise(module: nn.Module, given: Given) -> dict[str, torch.Tensor]:
    states = given["encoder_hidden_states"].squeeze(2).transpose(1, 2)
    answer = module(given["sample"], given["timestep"], states, return_dict=False)
    return {"noise_pred": answer[0]}


def _encode_text(module: nn.Module, given: Given) -> dict[str, torch.Tensor]:
    answer = module(given["input_ids"].long())
    return {"last_hidden_state": answer.last_hidden_state, "pooled_outputs": answer.pooler_output}


def _decode(module: Any, given: Given) -> dict[str, torch.Tensor]:
    return {"image": module.decode(given["z"], return_dict=False)[0]}


def _encode(module: Any, given: Given) -> dict[str, torch.Tensor]:
    return {"latent": module.encode(given["x"]).latent_dist.parameters}


def _score(module: Any, given: Given) -> dict[str, torch.Tensor]:
    """Concept scores as the safety checker's forward_onnx computes them on its way (it does not return them)."""
    embeds = module.visual_projection(module.vision_model(given["clip_input"])[1])
    normal = nn.functional.normalize
    special = normal(embeds) @ normal(module.special_care_embeds.float()).T
    special = special - module.special_care_embeds_weights.float() + given["adjustment"]
    care = 0.01 * (special > 0).any(dim=1, keepdim=True)
    scores = normal(embeds) @ normal(module.concept_embeds.float()).T - module.concept_embeds_weights.float()
    return {"concept_scores": scores + care}


_COMPONENTS: Mapping[str, tuple[Callable[[dict[str, Any]], nn.Module], Callable[[Any, Given], dict[str, torch.Tensor]]]]
_COMPONENTS = {
    "unet": (_unet, _predict_noise),
    "text_encoder": (_text_encoder, _encode_text),
    "vae_decoder": (_vae, _decode),
    "vae_encoder": (_vae, _encode),
    "safety_checker": (_safety_checker, _score),
}
