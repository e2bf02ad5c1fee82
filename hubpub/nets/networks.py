"""Network: a component's torch module with the interface that Core ML apps know it by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from hubpub.errors import BadWeights
from hubpub.graph import TRANSFORMS
from hubpub.nets.clip import TextEncoder
from hubpub.nets.safety_checker import TRANSFORMED, SafetyChecker
from hubpub.nets.unet import UNet
from hubpub.nets.vae import VaeDecoder, VaeEncoder

Params = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input or output of a model; outputs and input_ids are fp32, all other inputs fp16."""

    name: str
    description: str
    shape: tuple[int, ...] = ()  # of inputs; the shapes of outputs follow
    dtype: str = "fp16"


@dataclass(frozen=True, kw_only=True)
class Network:
    """A module on the meta device, and what apps know about it."""

    module: nn.Module
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    description: str
    transforms: Mapping[str, str] = field(default_factory=dict)  # parameter → transform of its source tensor
    ignored: tuple[str, ...] = ()  # tensors of the weight files that it does not use (regular expressions)


_DESCRIPTION = (
    "Stable Diffusion generates images conditioned on text and/or other images as input through the diffusion "
    "process. Please refer to https://arxiv.org/abs/2112.10752 for details."
)


def build(params: Params) -> Network:
    """The network of a component for the parameters of the step `export`; no weights, no memory."""
    with torch.device("meta"):
        return _BUILDERS[params["component"]](params)


def load(network: Network, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network's module in fp32 with weights: `tensors` by their names in the source, ready to run.

    Linears of the source may be (out, in) where the network has (out, in, 1, 1). Raises BadWeights
    for a missing tensor or another shape.
    """
    state = {}
    for name, parameter in network.module.state_dict().items():
        if name not in tensors:
            raise BadWeights(f"The source has no tensor {name}.")
        tensor = tensors[name].detach().to(torch.float32)
        if [side for side in tensor.shape if side != 1] != [side for side in parameter.shape if side != 1]:
            raise BadWeights(f"The source's {name} is {tuple(tensor.shape)}, the network's {tuple(parameter.shape)}.")
        if name in network.transforms:
            tensor = torch.from_numpy(TRANSFORMS[network.transforms[name]](np.asarray(tensor)))
        state[name] = tensor.reshape(parameter.shape)
    network.module.load_state_dict(state, assign=True)
    return network.module.eval().requires_grad_(False)


def _unet(params: Params) -> Network:
    config, batch = params["config"], params["batch"]
    height, width = params["latent"]
    return Network(
        module=UNet(config, params["attention"]),
        inputs=(
            Feature(
                name="sample",
                shape=(batch, config["in_channels"], height, width),
                description="The low resolution latent feature maps being denoised through reverse diffusion",
            ),
            Feature(
                name="timestep",
                shape=(batch,),
                description="A value emitted by the associated scheduler object to condition the model on a given "
                "noise schedule",
            ),
            Feature(
                name="encoder_hidden_states",
                shape=(batch, config["cross_attention_dim"], 1, config["text_tokens"]),
                description="Output embeddings from the associated text_encoder model to condition to generated image "
                "on text. A maximum of 77 tokens (~40 words) are allowed. Longer text is truncated. Shorter text does "
                "not reduce computation.",
            ),
        ),
        outputs=(
            Feature(
                name="noise_pred",
                description="Same shape and dtype as the `sample` input. The predicted noise to facilitate the reverse "
                "diffusion (denoising) process",
            ),
        ),
        description=_DESCRIPTION.replace("and/or", "or"),
    )


def _vae_decoder(params: Params) -> Network:
    config = params["config"]
    height, width = params["latent"]
    return Network(
        module=VaeDecoder(config),
        inputs=(
            Feature(
                name="z",
                shape=(1, config["latent_channels"], height, width),
                description="The denoised latent embeddings from the unet model after the last step of reverse "
                "diffusion",
            ),
        ),
        outputs=(Feature(name="image", description="Generated image normalized to range [-1, 1]"),),
        description=_DESCRIPTION,
        ignored=(r"encoder\..*", r"quant_conv\..*"),
    )


def _vae_encoder(params: Params) -> Network:
    config = params["config"]
    height, width = params["latent"]
    scale = 2 ** (len(config["block_out_channels"]) - 1)
    return Network(
        module=VaeEncoder(config),
        inputs=(
            Feature(
                name="x",
                shape=(1, 3, height * scale, width * scale),
                description="The input image to base the initial latents on normalized to range [-1, 1]",
            ),
        ),
        outputs=(
            Feature(name="latent", description="The latent embeddings from the unet model from the input image."),
        ),
        description=_DESCRIPTION,
        ignored=(r"decoder\..*", r"post_quant_conv\..*"),
    )


def _text_encoder(params: Params) -> Network:
    config = params["config"]
    return Network(
        module=TextEncoder(config),
        inputs=(
            Feature(
                name="input_ids",
                shape=(1, config["max_position_embeddings"]),
                dtype="fp32",
                description="The token ids that represent the input text",
            ),
        ),
        outputs=(
            Feature(
                name="last_hidden_state",
                description="The token embeddings as encoded by the Transformer model",
            ),
            Feature(
                name="pooled_outputs",
                description="The version of the `last_hidden_state` output after pooling",
            ),
        ),
        description=_DESCRIPTION,
        ignored=(r"(.*\.)?position_ids", r"text_projection\..*", r"logit_scale"),
    )


def _safety_checker(params: Params) -> Network:
    config = params["config"]
    height, width = params["image"]
    side = config["image_size"]
    return Network(
        module=SafetyChecker(config),
        inputs=(
            Feature(
                name="clip_input",
                shape=(1, 3, side, side),
                description=f"The normalized image input tensor resized to ({side}x{side}) in channels-first (BCHW) "
                "format",
            ),
            Feature(
                name="images",
                shape=(1, height, width, 3),
                description=f"Output of the vae_decoder ({height}x{width}) in channels-last (BHWC) format",
            ),
            Feature(
                name="adjustment",
                shape=(1,),
                description="Bias added to the concept scores to trade off increased recall for reduce precision in "
                "the safety checker classifier",
            ),
        ),
        outputs=(
            Feature(
                name="filtered_images",
                description="Identical to the input `images`. If safety checker detected any sensitive content, the "
                "corresponding image is replaced with a blank image (zeros)",
            ),
            Feature(
                name="has_nsfw_concepts",
                description="Indicates whether the safety checker model found any sensitive content in the given image",
            ),
            Feature(
                name="concept_scores",
                description="Concept scores are the scores before thresholding at zero yields the `has_nsfw_concepts` "
                "output. These scores can be used to tune the `adjustment` input",
            ),
        ),
        description=_DESCRIPTION,
        transforms=TRANSFORMED,
        ignored=(r"(.*\.)?position_ids", r"logit_scale"),
    )


_BUILDERS: Mapping[str, Callable[[Params], Network]] = {
    "unet": _unet,
    "vae_decoder": _vae_decoder,
    "vae_encoder": _vae_encoder,
    "text_encoder": _text_encoder,
    "safety_checker": _safety_checker,
}
