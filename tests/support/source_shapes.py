"""State-dict names and shapes of diffusers and CLIP components, as functions of their configs.

A test compares them with diffusers' and transformers' own modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def _affine(shapes: Shapes, name: str, *weight: int, bias: bool = True) -> None:
    """A layer with a weight, and a bias as long as the weight's first axis."""
    shapes[f"{name}.weight"] = weight
    if bias:
        shapes[f"{name}.bias"] = weight[:1]


def _resnet(shapes: Shapes, name: str, into: int, out: int, *, time: int = 0) -> None:
    _affine(shapes, f"{name}.norm1", into)
    _affine(shapes, f"{name}.conv1", out, into, 3, 3)
    if time:
        _affine(shapes, f"{name}.time_emb_proj", out, time)
    _affine(shapes, f"{name}.norm2", out)
    _affine(shapes, f"{name}.conv2", out, out, 3, 3)
    if into != out:
        _affine(shapes, f"{name}.conv_shortcut", out, into, 1, 1)


def _transformer(shapes: Shapes, name: str, width: int, config: Mapping[str, Any], layers: int) -> None:
    kernel = () if config.get("use_linear_projection") else (1, 1)
    _affine(shapes, f"{name}.norm", width)
    _affine(shapes, f"{name}.proj_in", width, width, *kernel)
    for layer in range(layers):
        block = f"{name}.transformer_blocks.{layer}"
        for attention, source in (("attn1", width), ("attn2", config["cross_attention_dim"])):
            _affine(shapes, f"{block}.{attention}.to_q", width, width, bias=False)
            _affine(shapes, f"{block}.{attention}.to_k", width, source, bias=False)
            _affine(shapes, f"{block}.{attention}.to_v", width, source, bias=False)
            _affine(shapes, f"{block}.{attention}.to_out.0", width, width)
        for norm in ("norm1", "norm2", "norm3"):
            _affine(shapes, f"{block}.{norm}", width)
        _affine(shapes, f"{block}.ff.net.0.proj", 8 * width, width)
        _affine(shapes, f"{block}.ff.net.2", width, 4 * width)
    _affine(shapes, f"{name}.proj_out", width, width, *kernel)


def unet_shapes(config: Mapping[str, Any]) -> Shapes:
    """State-dict names and shapes of a UNet2DConditionModel (SD 1, SD 2 and SDXL)."""
    shapes: Shapes = {}
    widths, per_block, depth = config["block_out_channels"], _per_level(config), _depths(config)
    time, last = 4 * widths[0], len(widths) - 1
    width, skips = _way_down(shapes, config)
    up_depth = config.get("reverse_transformer_layers_per_block") or depth[::-1]
    for block, kind in enumerate(config["up_block_types"]):
        out = widths[last - block]
        for layer in range(per_block[last - block] + 1):
            _resnet(shapes, f"up_blocks.{block}.resnets.{layer}", width + skips.pop(), out, time=time)
            width = out
            if kind.startswith("CrossAttn"):
                name = f"up_blocks.{block}.attentions.{layer}"
                _transformer(shapes, name, width, config, _depth(up_depth[block], layer))
        if block != last:
            _affine(shapes, f"up_blocks.{block}.upsamplers.0.conv", width, width, 3, 3)
    _affine(shapes, "conv_norm_out", widths[0])
    _affine(shapes, "conv_out", config["out_channels"], widths[0], 3, 3)
    return shapes


def controlnet_shapes(config: Mapping[str, Any]) -> Shapes:
    """State-dict names and shapes of a ControlNetModel."""
    shapes: Shapes = {}
    width, skips = _way_down(shapes, config)
    own, seen = config["block_out_channels"][0], config["conditioning_embedding_out_channels"]
    place = "controlnet_cond_embedding"
    _affine(shapes, f"{place}.conv_in", seen[0], config["conditioning_channels"], 3, 3)
    for number, (before, after) in enumerate(pairwise(seen)):
        _affine(shapes, f"{place}.blocks.{2 * number}", before, before, 3, 3)
        _affine(shapes, f"{place}.blocks.{2 * number + 1}", after, before, 3, 3)
    _affine(shapes, f"{place}.conv_out", own, seen[-1], 3, 3)
    for number, skip in enumerate(skips):
        _affine(shapes, f"controlnet_down_blocks.{number}", skip, skip, 1, 1)
    _affine(shapes, "controlnet_mid_block", width, width, 1, 1)
    return shapes


def _way_down(shapes: Shapes, config: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Everything up to the middle: the width there, and those of the skip connections."""
    widths, per_block, depth = config["block_out_channels"], _per_level(config), _depths(config)
    time, last = 4 * widths[0], len(widths) - 1
    _affine(shapes, "conv_in", widths[0], config["in_channels"], 3, 3)
    _affine(shapes, "time_embedding.linear_1", time, widths[0])
    _affine(shapes, "time_embedding.linear_2", time, time)
    if guidance := config.get("time_cond_proj_dim"):
        _affine(shapes, "time_embedding.cond_proj", widths[0], guidance, bias=False)
    if config.get("addition_embed_type"):
        _affine(shapes, "add_embedding.linear_1", time, config["projection_class_embeddings_input_dim"])
        _affine(shapes, "add_embedding.linear_2", time, time)
    skips = [widths[0]]
    width = widths[0]
    for block, kind in enumerate(config["down_block_types"]):
        for layer in range(per_block[block]):
            _resnet(shapes, f"down_blocks.{block}.resnets.{layer}", width, widths[block], time=time)
            width = widths[block]
            if kind.startswith("CrossAttn"):
                name = f"down_blocks.{block}.attentions.{layer}"
                _transformer(shapes, name, width, config, _depth(depth[block], layer))
            skips.append(width)
        if block != last:
            _affine(shapes, f"down_blocks.{block}.downsamplers.0.conv", width, width, 3, 3)
            skips.append(width)
    middle = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if middle is not None:
        _resnet(shapes, "mid_block.resnets.0", width, width, time=time)
    if middle == "UNetMidBlock2DCrossAttn":
        _transformer(shapes, "mid_block.attentions.0", width, config, _depth(depth[-1], 0))
        _resnet(shapes, "mid_block.resnets.1", width, width, time=time)
    return width, skips


def _per_level(config: Mapping[str, Any]) -> Sequence[int]:
    layers: int | Sequence[int] = config["layers_per_block"]
    return [layers] * len(config["block_out_channels"]) if isinstance(layers, int) else layers


def _depths(config: Mapping[str, Any]) -> Sequence[Any]:
    depth: Sequence[Any] = config.get("transformer_layers_per_block", [1] * len(config["block_out_channels"]))
    return depth


def _depth(level: int | Sequence[int], layer: int) -> int:
    return level if isinstance(level, int) else level[layer]


def _vae_middle(shapes: Shapes, name: str, width: int) -> None:
    for layer in (0, 1):
        _resnet(shapes, f"{name}.mid_block.resnets.{layer}", width, width)
    attention = f"{name}.mid_block.attentions.0"
    _affine(shapes, f"{attention}.group_norm", width)
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        _affine(shapes, f"{attention}.{part}", width, width)


def vae_shapes(config: Mapping[str, Any]) -> Shapes:
    """State-dict names and shapes of an AutoencoderKL."""
    shapes: Shapes = {}
    widths = config["block_out_channels"]
    latent = config["latent_channels"]
    last = len(widths) - 1
    _affine(shapes, "encoder.conv_in", widths[0], config["in_channels"], 3, 3)
    width = widths[0]
    for block, out in enumerate(widths):
        for layer in range(config["layers_per_block"]):
            _resnet(shapes, f"encoder.down_blocks.{block}.resnets.{layer}", width, out)
            width = out
        if block != last:
            _affine(shapes, f"encoder.down_blocks.{block}.downsamplers.0.conv", width, width, 3, 3)
    _vae_middle(shapes, "encoder", width)
    _affine(shapes, "encoder.conv_norm_out", width)
    _affine(shapes, "encoder.conv_out", 2 * latent, width, 3, 3)
    _affine(shapes, "decoder.conv_in", width, latent, 3, 3)
    _vae_middle(shapes, "decoder", width)
    for block, out in enumerate(reversed(widths)):
        for layer in range(config["layers_per_block"] + 1):
            _resnet(shapes, f"decoder.up_blocks.{block}.resnets.{layer}", width, out)
            width = out
        if block != last:
            _affine(shapes, f"decoder.up_blocks.{block}.upsamplers.0.conv", width, width, 3, 3)
    _affine(shapes, "decoder.conv_norm_out", width)
    _affine(shapes, "decoder.conv_out", config["out_channels"], width, 3, 3)
    _affine(shapes, "quant_conv", 2 * latent, 2 * latent, 1, 1)
    _affine(shapes, "post_quant_conv", latent, latent, 1, 1)
    return shapes


def _clip_layers(shapes: Shapes, name: str, config: Mapping[str, Any]) -> None:
    width = config["hidden_size"]
    for layer in range(config["num_hidden_layers"]):
        block = f"{name}.encoder.layers.{layer}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            _affine(shapes, f"{block}.self_attn.{part}", width, width)
        _affine(shapes, f"{block}.layer_norm1", width)
        _affine(shapes, f"{block}.mlp.fc1", config["intermediate_size"], width)
        _affine(shapes, f"{block}.mlp.fc2", width, config["intermediate_size"])
        _affine(shapes, f"{block}.layer_norm2", width)


def text_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of a CLIP text encoder, as the files on the Hub have them."""
    width = config["hidden_size"]
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (config["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
    }
    _clip_layers(shapes, "text_model", config)
    _affine(shapes, "text_model.final_layer_norm", width)
    if config["architectures"] == ["CLIPTextModelWithProjection"]:
        _affine(shapes, "text_projection", config["projection_dim"], width, bias=False)
    return shapes


def safety_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of the safety checker, as the files on the Hub have them."""
    vision = config["vision_config"]
    width, projection = vision["hidden_size"], config["projection_dim"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    inner = "vision_model.vision_model"
    shapes: Shapes = {
        "concept_embeds": (17, projection),
        "concept_embeds_weights": (17,),
        "special_care_embeds": (3, projection),
        "special_care_embeds_weights": (3,),
        f"{inner}.embeddings.class_embedding": (width,),
        f"{inner}.embeddings.patch_embedding.weight": (width, 3, vision["patch_size"], vision["patch_size"]),
        f"{inner}.embeddings.position_embedding.weight": (patches + 1, width),
    }
    _affine(shapes, f"{inner}.pre_layrnorm", width)
    _clip_layers(shapes, inner, vision)
    _affine(shapes, f"{inner}.post_layernorm", width)
    _affine(shapes, "visual_projection", projection, width, bias=False)
    return shapes
