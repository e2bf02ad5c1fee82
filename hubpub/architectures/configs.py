"""config.json of each network → a frozen config of only what its program depends on, defaults filled in.

So every fine-tune of one model gives the same config, and with it the same program. A value
that the networks do not implement is refused by name, never ignored. Defaults are those
of diffusers 0.42 and transformers 5 (the keys' meaning is documented there).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hubpub.architectures.component import Config, Configs
from hubpub.architectures.values import (
    blocks,
    boolean,
    integer,
    integers,
    is_integer,
    number,
    refuse_foreign,
    refused,
)
from hubpub.errors import UnknownArchitecture
from hubpub.networks import SafetyCheckerConfig, TextEncoderConfig, VAEConfig

_VAE_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "in_channels": (3,),
    "mid_block_add_attention": (True,),
    "out_channels": (3,),
    "shift_factor": (None,),
    "latents_mean": (None,),
    "latents_std": (None,),
}
_VAE_USED = frozenset(
    {
        "block_out_channels",
        "down_block_types",
        "latent_channels",
        "layers_per_block",
        "norm_num_groups",
        "up_block_types",
        "use_post_quant_conv",
        "use_quant_conv",
    }
)
_VAE_UNUSED = frozenset({"force_upcast", "sample_size", "scaling_factor"})
VAE_KEYS = frozenset(_VAE_FIXED) | _VAE_USED | _VAE_UNUSED

# What every Stable Diffusion has: a ControlNet by itself is for pictures of such a VAE.
_VAE_WITHOUT_CONFIG: Config = {"block_out_channels": (128, 256, 512, 512)}

_ACTIVATIONS = ("quick_gelu", "gelu")


def vae_decoder(configs: Configs) -> VAEConfig:
    """The decoder half of AutoencoderKL, with its post_quant_conv."""
    return _vae(configs["vae"], "use_post_quant_conv")


def vae_encoder(configs: Configs) -> VAEConfig:
    """The encoder half of AutoencoderKL, with its quant_conv."""
    return _vae(configs["vae"], "use_quant_conv")


def xl_vae_decoder(configs: Configs) -> VAEConfig:
    """XL's decoder, which overflows fp16 unless its config says that it does not."""
    return replace(vae_decoder(configs), upcast=_upcasts(configs["vae"]))


def xl_vae_encoder(configs: Configs) -> VAEConfig:
    """XL's encoder, in fp32 where its decoder is."""
    return replace(vae_encoder(configs), upcast=_upcasts(configs["vae"]))


def _upcasts(config: Config) -> bool:
    """diffusers' force_upcast, which is true where nothing is said, and 1.0 in some configs."""
    value = config.get("force_upcast", True)
    if value not in (True, False):
        raise refused("VAE", "force_upcast", value)
    return bool(value)


def text_encoder(configs: Configs) -> TextEncoderConfig:
    """CLIPTextModel; `eos_token_id` None means: pooled where the token's number is the largest."""
    return _text_encoder("text encoder", configs["text_encoder"], architecture="CLIPTextModel")


def xl_text_encoder(configs: Configs) -> TextEncoderConfig:
    """XL's first one: the same CLIPTextModel, of which what its last layer takes is used."""
    return replace(text_encoder(configs), penultimate=True)


def xl_text_encoder_2(configs: Configs) -> TextEncoderConfig:
    """XL's second one: CLIPTextModelWithProjection."""
    name, config = "second text encoder", configs["text_encoder_2"]
    encoder = _text_encoder(name, config, architecture="CLIPTextModelWithProjection")
    return replace(encoder, penultimate=True, projection_dim=integer(name, config, "projection_dim", 512))


def _text_encoder(name: str, config: Config, *, architecture: str) -> TextEncoderConfig:
    _refuse_clip(name, config, model_type="clip_text_model", architecture=architecture)
    # An id of 2 is what old configs say by mistake; transformers then takes the largest id's place, which is the same
    # place where the end token is the last of the vocabulary.
    eos = integer(name, config, "eos_token_id", 49407)
    vocabulary = integer(name, config, "vocab_size", 49408)
    return TextEncoderConfig(
        **_tower(name, config, hidden=512, intermediate=2048, heads=8),
        vocab_size=vocabulary,
        max_position_embeddings=integer(name, config, "max_position_embeddings", 77),
        eos_token_id=None if eos in (2, vocabulary - 1) else eos,
    )


def safety_checker(configs: Configs) -> SafetyCheckerConfig:
    """StableDiffusionSafetyChecker: a CLIP vision tower and the concepts that it is compared with."""
    if "safety_checker" not in configs:
        raise UnknownArchitecture(
            "The source lists a safety checker and has no safety_checker/config.json.",
            hint="Leave it out with --no-safety-checker.",
        )
    config = configs["safety_checker"]
    name = "safety checker"
    _refuse_clip(name, config, model_type="clip", architecture="StableDiffusionSafetyChecker")
    # Old configs hold both; transformers lets vision_config_dict win.
    vision = config.get("vision_config_dict") or config.get("vision_config") or {}
    if not isinstance(vision, Mapping):
        raise refused(name, "vision_config", vision)
    channels = integer(name, vision, "num_channels", 3)
    if channels != 3:
        raise refused(name, "num_channels", channels)
    side, patch = integer(name, vision, "image_size", 224), integer(name, vision, "patch_size", 32)
    if side % patch:
        raise refused(name, "image_size", f"{side}, no multiple of patch_size {patch}")
    return SafetyCheckerConfig(
        **_tower(name, vision, hidden=768, intermediate=3072, heads=12),
        image_size=side,
        patch_size=patch,
        projection_dim=integer(name, config, "projection_dim", 512),
        image_scale=image_scale(configs),
    )


def image_scale(configs: Configs) -> int:
    """How many pixels of the image one latent pixel stands for, along each side."""
    widths = integers("VAE", configs.get("vae", _VAE_WITHOUT_CONFIG), "block_out_channels", (64,))
    return int(2 ** (len(widths) - 1))


def default_latent(configs: Configs) -> tuple[int, int] | None:
    """The latent size that the UNet was trained for (height, width), if its config says so."""
    size = configs["unet"].get("sample_size")
    if is_integer(size):
        return (size, size)
    if isinstance(size, list | tuple) and len(size) == 2 and all(is_integer(side) for side in size):
        return (size[0], size[1])
    return None


def _vae(config: Config, quantizes: str) -> VAEConfig:
    refuse_foreign("VAE", config, fixed=_VAE_FIXED)
    channels = integers("VAE", config, "block_out_channels", (64,))
    down = blocks("VAE", config, "down_block_types", ("DownEncoderBlock2D",), ("DownEncoderBlock2D",))
    up = blocks("VAE", config, "up_block_types", ("UpDecoderBlock2D",), ("UpDecoderBlock2D",))
    if not len(down) == len(up) == len(channels):
        raise refused("VAE", "down_block_types, up_block_types and block_out_channels", "lists of different lengths")
    groups = integer("VAE", config, "norm_num_groups", 32)
    if any(width % groups for width in channels):
        raise refused("VAE", "block_out_channels", f"{channels}, which {groups} groups do not divide")
    return VAEConfig(
        block_out_channels=tuple(channels),
        latent_channels=integer("VAE", config, "latent_channels", 4),
        layers_per_block=integer("VAE", config, "layers_per_block", 1),
        norm_num_groups=groups,
        quantizes=boolean("VAE", config, quantizes, default=True),
    )


def _tower(name: str, config: Config, *, hidden: int, intermediate: int, heads: int) -> dict[str, Any]:
    """What both CLIP towers depend on; the defaults are CLIPTextConfig's and CLIPVisionConfig's."""
    width, count = (
        integer(name, config, "hidden_size", hidden),
        integer(name, config, "num_attention_heads", heads),
    )
    activation = config.get("hidden_act", "quick_gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise refused(name, "hidden_act", activation)
    if width % count:
        raise refused(name, "num_attention_heads", count)
    return {
        "hidden_size": width,
        "intermediate_size": integer(name, config, "intermediate_size", intermediate),
        "num_hidden_layers": integer(name, config, "num_hidden_layers", 12),
        "num_attention_heads": count,
        "hidden_act": activation,
        "layer_norm_eps": number(name, config, "layer_norm_eps", 1e-5),
    }


def _refuse_clip(name: str, config: Config, *, model_type: str, architecture: str) -> None:
    """transformers writes dozens of keys that change nothing; these are the ones that tell another network."""
    if config.get("model_type", model_type) != model_type:
        raise refused(name, "model_type", config["model_type"])
    architectures = config.get("architectures") or [architecture]
    if not isinstance(architectures, list) or architecture not in architectures:
        raise refused(name, "architectures", architectures)
    if config.get("quantization_config") is not None:
        raise refused(name, "quantization_config", config["quantization_config"])
