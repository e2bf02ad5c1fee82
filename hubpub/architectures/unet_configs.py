"""config.json of UNet2DConditionModel and ControlNetModel → UNetConfig, ControlNetConfig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubpub.architectures.component import Config, Configs
from hubpub.architectures.values import (
    blocks,
    boolean,
    count,
    integer,
    integers,
    number,
    per_block,
    refuse_foreign,
    refused,
)
from hubpub.networks import ControlNetConfig, UNetConfig

# What LCM's authors draw with; it is built into the program where a UNet was distilled for a guidance scale.
GUIDANCE = 8.0

_CROSS, _PLAIN = "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"
_XL_IDS = 6  # numbers that SDXL is told of a picture: size, crop and target size

_COMMON_FIXED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "addition_embed_type": (None, "text_time"),
    "class_embed_type": (None,),
    "downsample_padding": (1,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_scale_factor": (1, 1.0),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_time_scale_shift": ("default",),
}
_UNET_FIXED: Mapping[str, tuple[Any, ...]] = {
    **_COMMON_FIXED,
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_type": (_CROSS, _PLAIN, None),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
_CONTROLNET_FIXED: Mapping[str, tuple[Any, ...]] = {
    **_COMMON_FIXED,
    "controlnet_conditioning_channel_order": ("rgb",),
    "global_pool_conditions": (False,),
    "mid_block_type": (_CROSS,),
}
_COMMON_USED = frozenset(
    {
        "addition_time_embed_dim",
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
        "projection_class_embeddings_input_dim",
        "transformer_layers_per_block",
    }
)
_UNET_USED = _COMMON_USED | {
    "out_channels",
    "reverse_transformer_layers_per_block",
    "sample_size",
    "time_cond_proj_dim",
    "time_embedding_dim",
    "up_block_types",
}
_CONTROLNET_USED = _COMMON_USED | {"conditioning_channels", "conditioning_embedding_out_channels"}
# use_linear_projection changes the shape of two weights from (o, i, 1, 1) to (o, i): the same bytes, the same program.
_UNUSED = frozenset({"addition_embed_type_num_heads", "dropout", "upcast_attention", "use_linear_projection"})
UNET_KEYS = frozenset(_UNET_FIXED) | _UNET_USED | _UNUSED
CONTROLNET_KEYS = (frozenset(_CONTROLNET_FIXED) | _CONTROLNET_USED | _UNUSED) - {"dropout"}

_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
_DEPTH = "transformer_layers_per_block"
_UP = ("CrossAttnUpBlock2D", "UpBlock2D")


def unet(configs: Configs) -> UNetConfig:
    """UNet2DConditionModel; the text encoders decide the number of tokens and the width of XL's pooled text."""
    config, name = configs["unet"], "UNet"
    refuse_foreign(name, config, fixed=_UNET_FIXED)
    common = _common(name, config, configs)
    levels = len(common["block_out_channels"])
    up = blocks(name, config, "up_block_types", (_UP[1],) + (_UP[0],) * 3, _UP)
    if len(up) != levels:
        raise refused(name, "up_block_types and block_out_channels", "lists of different lengths")
    reverse = config.get(f"reverse_{_DEPTH}")
    if reverse is None:
        if any(len(set(layers)) > 1 for layers in common["transformer_layers"]):
            raise refused(name, _DEPTH, config[_DEPTH])
        reverse = [layers[0] for layers in reversed(common["transformer_layers"])]
    layers = [many + 1 for many in reversed(common["layers_per_block"])]
    guidance = config.get("time_cond_proj_dim")
    middle = config.get("mid_block_type", _CROSS)
    if config.get("time_embedding_dim") not in (None, 4 * common["block_out_channels"][0]):
        raise refused(name, "time_embedding_dim", config["time_embedding_dim"])
    return UNetConfig(
        **common,
        out_channels=integer(name, config, "out_channels", 4),
        up_attention=tuple(kind.startswith("CrossAttn") for kind in up),
        up_transformer_layers=_transformers(name, f"reverse_{_DEPTH}", reverse, layers),
        middle={_CROSS: common["transformer_layers"][-1][0], _PLAIN: 0, None: None}[middle],
        guidance_embedding=None if guidance is None else GUIDANCE,
        guidance_dim=0 if guidance is None else integer(name, config, "time_cond_proj_dim", 0),
    )


def controlnet(configs: Configs) -> ControlNetConfig:
    """ControlNetModel, whose config.json lies in the source's top folder."""
    config, name = configs[""], "ControlNet"
    refuse_foreign(name, config, fixed=_CONTROLNET_FIXED)
    common = _common(name, config, configs)
    return ControlNetConfig(
        **common,
        out_channels=0,
        up_attention=(),
        up_transformer_layers=(),
        middle=common["transformer_layers"][-1][0],
        conditioning_channels=integer(name, config, "conditioning_channels", 3),
        conditioning_widths=tuple(integers(name, config, "conditioning_embedding_out_channels", (16, 32, 96, 256))),
    )


def _common(name: str, config: Config, configs: Configs) -> dict[str, Any]:
    """What a UNet and a ControlNet depend on alike."""
    default = (_DOWN[0],) * 3 + (_DOWN[1],)
    down = blocks(name, config, "down_block_types", default, _DOWN)
    channels = integers(name, config, "block_out_channels", (320, 640, 1280, 1280))
    if len(down) != len(channels):
        raise refused(name, "down_block_types and block_out_channels", "lists of different lengths")
    groups = integer(name, config, "norm_num_groups", 32)
    heads = per_block(name, config, "attention_head_dim", 8, len(channels))
    if any(width % groups or width % many for width, many in zip(channels, heads, strict=True)):
        raise refused(name, "block_out_channels", f"{channels}, which {groups} groups or {heads} heads do not divide")
    layers = per_block(name, config, "layers_per_block", 2, len(channels))
    text = configs.get("text_encoder") or configs.get("text_encoder_2") or {}
    return {
        "in_channels": integer(name, config, "in_channels", 4),
        "block_out_channels": tuple(channels),
        "down_attention": tuple(kind.startswith("CrossAttn") for kind in down),
        "layers_per_block": tuple(layers),
        "transformer_layers": _transformers(name, _DEPTH, config.get(_DEPTH, 1), layers),
        "heads": tuple(heads),  # diffusers' attention_head_dim is, for these models, the number of heads
        "cross_attention_dim": integer(name, config, "cross_attention_dim", 1280),
        "norm_num_groups": groups,
        "norm_eps": number(name, config, "norm_eps", 1e-5),
        "flip_sin_to_cos": boolean(name, config, "flip_sin_to_cos", default=True),
        "freq_shift": number(name, config, "freq_shift", 0),
        "text_tokens": integer("text encoder", text, "max_position_embeddings", 77),
        **_added(name, config, configs),
    }


def _added(name: str, config: Config, configs: Configs) -> dict[str, int]:
    """XL's pooled text and numbers: how many, and how wide."""
    if config.get("addition_embed_type") is None:
        return {}
    width = integer(name, config, "addition_time_embed_dim", 0)
    features = integer(name, config, "projection_class_embeddings_input_dim", 0)
    if second := configs.get("text_encoder_2"):
        embeds = integer("second text encoder", second, "projection_dim", 512)
    else:  # a ControlNet by itself
        embeds = features - _XL_IDS * width
    if embeds <= 0 or (features - embeds) % width or features <= embeds:
        raise refused(name, "projection_class_embeddings_input_dim", features)
    return {"text_embeds": embeds, "time_ids": (features - embeds) // width, "time_ids_dim": width}


def _transformers(name: str, key: str, value: Any, layers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Transformer blocks of each layer of each level: one number for all, one for each level, or a list for a level.

    Of a list that is longer than the level, diffusers takes the first ones.
    """
    numbers = value if isinstance(value, list | tuple) else [value] * len(layers)
    if len(numbers) != len(layers):
        raise refused(name, key, value)
    depths = []
    for given, many in zip(numbers, layers, strict=True):
        listed = given if isinstance(given, list | tuple) else [given] * many
        if len(listed) < many:
            raise refused(name, key, value)
        depths.append(tuple(count(name, key, one) for one in listed[:many]))
    return tuple(depths)
