"""The networks of Stable Diffusion, written as functions of a Scope. No torch, no tracing, no protobuf.

In: a Scope (where operations are appended), a config (a frozen dataclass), a Size, an
attention. Out: the program that the scope's dialect keeps, with the network's own inputs and outputs.
"""

from __future__ import annotations

from hubpub.networks.clip import TextEncoderConfig, text_encoder
from hubpub.networks.safety_checker import SafetyCheckerConfig, safety_checker
from hubpub.networks.scope import Dtype, Scope, Size, Value
from hubpub.networks.unet import UNetConfig, unet
from hubpub.networks.vae import VAEConfig, vae_decoder, vae_encoder

__all__ = [
    "Dtype",
    "SafetyCheckerConfig",
    "Scope",
    "Size",
    "TextEncoderConfig",
    "UNetConfig",
    "VAEConfig",
    "Value",
    "safety_checker",
    "text_encoder",
    "unet",
    "vae_decoder",
    "vae_encoder",
]
