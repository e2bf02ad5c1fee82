"""The networks of Stable Diffusion, written as functions of a Scope. No torch, no tracing, no protobuf.

In: a Scope (where operations are appended), a config (a frozen dataclass), a Size, an
attention. Out: the program that the scope's dialect keeps, with the network's own inputs and outputs.
"""

from __future__ import annotations

from hubpub.networks.chunks import control_unet_chunk1, control_unet_chunk2, unet_chunk1, unet_chunk2
from hubpub.networks.clip import TextEncoderConfig, text_encoder
from hubpub.networks.controlnet import ControlNetConfig, controlnet
from hubpub.networks.safety_checker import SafetyCheckerConfig, safety_checker
from hubpub.networks.scope import Dtype, NetworkConfig, Scope, Size, Value
from hubpub.networks.unet import UNetConfig, control_unet, residual_shapes, unet
from hubpub.networks.vae import VAEConfig, vae_decoder, vae_encoder

__all__ = [
    "ControlNetConfig",
    "Dtype",
    "NetworkConfig",
    "SafetyCheckerConfig",
    "Scope",
    "Size",
    "TextEncoderConfig",
    "UNetConfig",
    "VAEConfig",
    "Value",
    "control_unet",
    "control_unet_chunk1",
    "control_unet_chunk2",
    "controlnet",
    "residual_shapes",
    "safety_checker",
    "text_encoder",
    "unet",
    "unet_chunk1",
    "unet_chunk2",
    "vae_decoder",
    "vae_encoder",
]
