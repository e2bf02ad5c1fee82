"""config.json of each network → a frozen config of only what its program depends on, defaults filled in.

So every fine-tune of one model gives the same config, and with it the same program. A value
that the networks do not implement is refused by name, never ignored. Defaults are those
of diffusers 0.42 and transformers 5 (the keys' meaning is documented there).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from hubpub.architectures.component import Config, Configs
from hubpub.errors import UnknownArchitecture
from hubpub.networks import SafetyCheckerConfig, TextEncoderConfig, UNetConfig, VAEConfig

_HINT = "hubpub refuses what it would convert wrongly; please report the model if you think that it should work."

# Written into a config by training scripts (diffusers' EMAModel); they say nothing about the network.
_TRAINING = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)

_UNET_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "addition_embed_type": (None,),
    "addition_time_embed_dim": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "projection_class_embeddings_input_dim": (None,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
_UNET_USED = frozenset(
    {
        "attention_head_dim",
        "block_out_channels",
        "cross_attention_dim",
        "down_block_types",
        "flip_sin_to_cos",
        "freq_shift",
        "in_channels",
        "layers_per_block",
        "norm_eps",
        "norm_num_groups",
        "out_channels",
        "sample_size",
        "transformer_layers_per_block",
        "up_block_types",
    }
)
# use_linear_projection changes the shape of two weights from (o, i, 1, 1) to (o, i): the same bytes, the same program.
_UNET_UNUSED = frozenset(
    {"addition_embed_type_num_heads", "dropout", "upcast_attention", "use_linear_projection"} | _TRAINING
)

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
_VAE_UNUSED = frozenset({"force_upcast", "sample_size", "scaling_factor"} | _TRAINING)

_ACTIVATIONS = ("quick_gelu", "gelu")

# More than any known network has, so that a damaged config does not ask for a program without end.
_MOST = 1 << 20
_MOST_LEVELS = 16
_MOST_OF: Mapping[str, int] = {
    "layers_per_block": 32,
    "num_hidden_layers": 256,
    "transformer_layers_per_block": 64,
}


def unet(configs: Configs) -> UNetConfig:
    """UNet2DConditionModel, and the number of text tokens (the text encoder decides it)."""
    config = configs["unet"]
    _refuse_foreign("UNet", config, fixed=_UNET_FIXED, known=_UNET_USED | _UNET_UNUSED)
    default_down = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    default_up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    down = _blocks("UNet", config, "down_block_types", default_down, ("CrossAttnDownBlock2D", "DownBlock2D"))
    up = _blocks("UNet", config, "up_block_types", default_up, ("CrossAttnUpBlock2D", "UpBlock2D"))
    channels = _integers("UNet", config, "block_out_channels", (320, 640, 1280, 1280))
    if not len(down) == len(up) == len(channels):
        raise _refused("UNet", "down_block_types, up_block_types and block_out_channels", "lists of different lengths")
    groups = _integer("UNet", config, "norm_num_groups", 32)
    heads = _per_block("UNet", config, "attention_head_dim", 8, len(channels))
    if any(width % groups or width % count for width, count in zip(channels, heads, strict=True)):
        raise _refused(
            "UNet", "block_out_channels", f"{channels}, which {groups} groups or {heads} heads do not divide"
        )
    return UNetConfig(
        in_channels=_integer("UNet", config, "in_channels", 4),
        out_channels=_integer("UNet", config, "out_channels", 4),
        block_out_channels=tuple(channels),
        down_attention=tuple(name.startswith("CrossAttn") for name in down),
        up_attention=tuple(name.startswith("CrossAttn") for name in up),
        layers_per_block=_integer("UNet", config, "layers_per_block", 2),
        transformer_layers=tuple(_per_block("UNet", config, "transformer_layers_per_block", 1, len(channels))),
        heads=tuple(heads),  # diffusers' attention_head_dim is, for these models, the number of heads
        cross_attention_dim=_integer("UNet", config, "cross_attention_dim", 1280),
        norm_num_groups=groups,
        norm_eps=_number("UNet", config, "norm_eps", 1e-5),
        flip_sin_to_cos=_boolean("UNet", config, "flip_sin_to_cos", default=True),
        freq_shift=_number("UNet", config, "freq_shift", 0),
        text_tokens=_integer("text encoder", configs["text_encoder"], "max_position_embeddings", 77),
    )


def vae_decoder(configs: Configs) -> VAEConfig:
    """The decoder half of AutoencoderKL, with its post_quant_conv."""
    return _vae(configs["vae"], "use_post_quant_conv")


def vae_encoder(configs: Configs) -> VAEConfig:
    """The encoder half of AutoencoderKL, with its quant_conv."""
    return _vae(configs["vae"], "use_quant_conv")


def text_encoder(configs: Configs) -> TextEncoderConfig:
    """CLIPTextModel; `eos_token_id` None means: pooled where the token's number is the largest."""
    config = configs["text_encoder"]
    _refuse_clip("text encoder", config, model_type="clip_text_model", architecture="CLIPTextModel")
    # An id of 2 is what old configs say by mistake; transformers then takes the largest id's place, which is the same
    # place where the end token is the last of the vocabulary.
    eos = _integer("text encoder", config, "eos_token_id", 49407)
    vocabulary = _integer("text encoder", config, "vocab_size", 49408)
    return TextEncoderConfig(
        **_tower("text encoder", config, hidden=512, intermediate=2048, heads=8),
        vocab_size=vocabulary,
        max_position_embeddings=_integer("text encoder", config, "max_position_embeddings", 77),
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
        raise _refused(name, "vision_config", vision)
    channels = _integer(name, vision, "num_channels", 3)
    if channels != 3:
        raise _refused(name, "num_channels", channels)
    side, patch = _integer(name, vision, "image_size", 224), _integer(name, vision, "patch_size", 32)
    if side % patch:
        raise _refused(name, "image_size", f"{side}, no multiple of patch_size {patch}")
    return SafetyCheckerConfig(
        **_tower(name, vision, hidden=768, intermediate=3072, heads=12),
        image_size=side,
        patch_size=patch,
        projection_dim=_integer(name, config, "projection_dim", 512),
        image_scale=image_scale(configs),
    )


def image_scale(configs: Configs) -> int:
    """How many pixels of the image one latent pixel stands for, along each side."""
    widths = _integers("VAE", configs["vae"], "block_out_channels", (64,))
    return int(2 ** (len(widths) - 1))


def default_latent(configs: Configs) -> tuple[int, int] | None:
    """The latent size that the UNet was trained for (height, width), if its config says so."""
    size = configs["unet"].get("sample_size")
    if _is_integer(size):
        return (size, size)
    if isinstance(size, list | tuple) and len(size) == 2 and all(_is_integer(side) for side in size):
        return (size[0], size[1])
    return None


def _vae(config: Config, quantizes: str) -> VAEConfig:
    _refuse_foreign("VAE", config, fixed=_VAE_FIXED, known=_VAE_USED | _VAE_UNUSED)
    channels = _integers("VAE", config, "block_out_channels", (64,))
    down = _blocks("VAE", config, "down_block_types", ("DownEncoderBlock2D",), ("DownEncoderBlock2D",))
    up = _blocks("VAE", config, "up_block_types", ("UpDecoderBlock2D",), ("UpDecoderBlock2D",))
    if not len(down) == len(up) == len(channels):
        raise _refused("VAE", "down_block_types, up_block_types and block_out_channels", "lists of different lengths")
    groups = _integer("VAE", config, "norm_num_groups", 32)
    if any(width % groups for width in channels):
        raise _refused("VAE", "block_out_channels", f"{channels}, which {groups} groups do not divide")
    return VAEConfig(
        block_out_channels=tuple(channels),
        latent_channels=_integer("VAE", config, "latent_channels", 4),
        layers_per_block=_integer("VAE", config, "layers_per_block", 1),
        norm_num_groups=groups,
        quantizes=_boolean("VAE", config, quantizes, default=True),
    )


def _tower(name: str, config: Config, *, hidden: int, intermediate: int, heads: int) -> dict[str, Any]:
    """What both CLIP towers depend on; the defaults are CLIPTextConfig's and CLIPVisionConfig's."""
    width, count = (
        _integer(name, config, "hidden_size", hidden),
        _integer(name, config, "num_attention_heads", heads),
    )
    activation = config.get("hidden_act", "quick_gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise _refused(name, "hidden_act", activation)
    if width % count:
        raise _refused(name, "num_attention_heads", count)
    return {
        "hidden_size": width,
        "intermediate_size": _integer(name, config, "intermediate_size", intermediate),
        "num_hidden_layers": _integer(name, config, "num_hidden_layers", 12),
        "num_attention_heads": count,
        "hidden_act": activation,
        "layer_norm_eps": _number(name, config, "layer_norm_eps", 1e-5),
    }


def _refuse_clip(name: str, config: Config, *, model_type: str, architecture: str) -> None:
    """transformers writes dozens of keys that change nothing; these are the ones that tell another network."""
    if config.get("model_type", model_type) != model_type:
        raise _refused(name, "model_type", config["model_type"])
    architectures = config.get("architectures") or [architecture]
    if not isinstance(architectures, list) or architecture not in architectures:
        raise _refused(name, "architectures", architectures)
    if config.get("quantization_config") is not None:
        raise _refused(name, "quantization_config", config["quantization_config"])


def _refuse_foreign(name: str, config: Config, *, fixed: Mapping[str, tuple[Any, ...]], known: Collection[str]) -> None:
    """Raise UnknownArchitecture for a value that the network does not implement, or a key that we do not know."""
    for key in sorted(config):
        value = config[key]
        if key in fixed:
            if not any(value == allowed and type(value) is type(allowed) for allowed in fixed[key]):
                raise _refused(name, key, value)
        elif key not in known and not key.startswith("_") and value not in (None, False):
            raise _refused(name, key, value)


def _refused(name: str, key: str, value: object) -> UnknownArchitecture:
    return UnknownArchitecture(
        f"The {name}'s config sets {key} to {value!r}, which hubpub does not support yet.", hint=_HINT
    )


def _is_integer(value: object, most: int = _MOST) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _integer(name: str, config: Config, key: str, default: int) -> int:
    value = config.get(key, default)
    if not _is_integer(value, _MOST_OF.get(key, _MOST)):
        raise _refused(name, key, value)
    return int(value)


def _number(name: str, config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise _refused(name, key, value)
    return float(value)


def _boolean(name: str, config: Config, key: str, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise _refused(name, key, value)
    return value


def _integers(name: str, config: Config, key: str, default: tuple[int, ...]) -> list[int]:
    value = config.get(key, default)
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST_LEVELS:
        raise _refused(name, key, value)
    if not all(_is_integer(item, _MOST_OF.get(key, _MOST)) for item in value):
        raise _refused(name, key, value)
    return list(value)


def _per_block(name: str, config: Config, key: str, default: int, count: int) -> list[int]:
    """One number for all blocks, or a list with one for each."""
    value = config.get(key, default)
    if _is_integer(value, _MOST_OF.get(key, _MOST)):
        return [value] * count
    numbers = _integers(name, config, key, (default,) * count)
    if len(numbers) != count:
        raise _refused(name, key, value)
    return numbers


def _blocks(name: str, config: Config, key: str, default: tuple[str, ...], allowed: tuple[str, ...]) -> list[str]:
    value = config.get(key, default)
    if not isinstance(value, list | tuple) or not value:
        raise _refused(name, key, value)
    for block in value:
        if block not in allowed:
            raise _refused(name, key, block)
    return list(value)
