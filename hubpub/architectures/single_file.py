"""A single file's tensors → what a diffusers folder says of itself: model_index.json, configs, scheduler.

Most follows from names and shapes. What does not (numbers of heads, the scheduler, the factor of the latents) follows
from the family, as its authors published it: runwayml/stable-diffusion-v1-5, stabilityai/stable-diffusion-2-1,
stable-diffusion-xl-base-1.0 and -refiner-1.0, whose config.json files from_single_file of diffusers uses, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hubpub.checkpoints import ldm
from hubpub.checkpoints.tensors import Tensor
from hubpub.errors import BadWeights, ConfigError, UnknownArchitecture

PredictionType = Literal["epsilon", "v_prediction"]
Shapes = Mapping[str, tuple[int, ...]]
Config = dict[str, Any]

_SUPPORTED = "Single files of Stable Diffusion 1, 2, XL and the XL refiner are read, inpainting among them."
# Beginnings of names in files of other kinds → what they are.
_OTHERS = {
    "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
    "joint_blocks.": "Stable Diffusion 3",
    "model.diffusion_model.double_blocks.": "Flux",
    "double_blocks.": "Flux",
    "lora_": "a LoRA",
    "control_model.": "a ControlNet in a single file",
    "controlnet_cond_embedding.": "a ControlNet without its config.json",
    "ip_adapter.": "an IP-Adapter",
    "model.diffusion_model.img_in.": "a transformer",
}
# Names that the authors of Stable Diffusion 2 gave to their files; their weights do not say what they predict.
_V_FILES = re.compile(r"(v2-1_|v2_|sd2-?1?[-_])?768[-_]?v?[-_].*|.*768-v.*", re.IGNORECASE)
_EPSILON_FILES = re.compile(r"(v2-1_|v2_)?512[-_].*|.*512-base.*", re.IGNORECASE)

_VAES = (ldm.VAE, "", "vae.")  # prefixes of a VAE's tensors
_BASE_IDS, _REFINER_IDS = 6, 5  # numbers that XL is told of a picture, and its refiner

_BETAS: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "steps_offset": 1,
}


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a single file is: the JSON files of a diffusers folder, and the prefix of each component's tensors."""

    model_index: Config
    configs: Mapping[str, Config]
    prefixes: Mapping[str, str]  # component folder → prefix in the file
    scheduler: Config = field(default_factory=dict)
    pads: Mapping[str, str] = field(default_factory=dict)  # the authors' padding, by text encoder


def describe(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, name: str, prediction_type: str | None = None
) -> Described:
    """What the single file `name` is, from its tensors and the metadata of its header.

    Raises UnknownArchitecture, naming what the file is where that is known, BadWeights where a network is
    incomplete, and ConfigError where nothing says what a Stable Diffusion 2 predicts.
    """
    if not any(key.startswith(ldm.UNET) for key in tensors) or _kind(tensors):
        raise _unknown(tensors, name)
    prefixes = {"unet": ldm.UNET, "vae": ldm.VAE}
    encoders = {
        "text_encoder": (*ldm.CLIP, ldm.OPEN_CLIP[0]),
        "text_encoder_2": ldm.OPEN_CLIP[1:],
    }
    for folder, known in encoders.items():
        held = next((prefix for prefix in known if any(key.startswith(prefix) for key in tensors)), None)
        if held:
            prefixes[folder] = held
    shapes = {
        folder: {key: one.shape for key, one in ldm.component_tensors(tensors, folder, prefix).items()}
        for folder, prefix in prefixes.items()
    }
    for folder, its in shapes.items():
        if not its:
            raise BadWeights(
                f"{name} holds no {folder} (no tensor's name begins with {prefixes[folder]}).",
                hint="Use a file that holds the whole model; a pruned one may lack it.",
            )
    if len(prefixes) < 3:
        raise _unknown(tensors, name)
    refiner = "text_encoder" not in prefixes
    xl = "text_encoder_2" in prefixes
    try:
        texts = {folder: _text_config(shapes[folder], prefixes[folder]) for folder in encoders if folder in prefixes}
        configs = {
            "unet": unet_config(
                shapes["unet"],
                first=prefixes.get("text_encoder") == ldm.CLIP[0],
                text_embeds=texts["text_encoder_2"]["projection_dim"] if xl else 0,
                time_ids=_REFINER_IDS if refiner else _BASE_IDS,
            ),
            "vae": vae_config(shapes["vae"], xl=xl),
            **texts,
        }
    except (LookupError, ValueError, StopIteration, TypeError) as error:
        raise BadWeights(
            f"{name} lacks the tensor {error.args[0]!r}, which every such model has.",
            hint="The file is incomplete, or of a kind that hubpub does not know.",
        ) from error
    second = not xl and configs["text_encoder"]["hidden_act"] == "gelu"
    predicts = _prediction_type(tensors, metadata, name=name, asked=prediction_type, second=second, configs=configs)
    if xl:
        configs["unet"]["sample_size"] = 128
    elif second and predicts == "v_prediction":
        configs["unet"]["sample_size"] = 96
    distilled = "time_cond_proj_dim" in configs["unet"]
    scheduler = _scheduler(xl=xl, distilled=distilled, second=second, predicts=predicts, zero_snr="ztsnr" in tensors)
    index = _model_index(configs, scheduler["_class_name"], xl=xl, refiner=refiner)
    return Described(
        model_index=index, configs=configs, prefixes=prefixes, scheduler=scheduler, pads=_pads(xl=xl, second=second)
    )


def vae_prefix(tensors: Mapping[str, Tensor], *, name: str) -> str:
    """The prefix of a VAE's tensors in a file that holds one, alone or in a whole model. Raises UnknownArchitecture."""
    for prefix in _VAES:
        if f"{prefix}encoder.conv_in.weight" in tensors and f"{prefix}decoder.conv_in.weight" in tensors:
            return prefix
    raise UnknownArchitecture(
        f"{name} holds no VAE (no encoder.conv_in.weight and decoder.conv_in.weight).",
        hint="--vae takes a folder, a repo or a file with an AutoencoderKL.",
    )


def describe_vae(tensors: Mapping[str, Tensor], *, name: str, xl: bool) -> tuple[Config, str]:
    """The config.json of the VAE that a file holds, and the prefix of its tensors."""
    prefix = vae_prefix(tensors, name=name)
    shapes = {key: one.shape for key, one in ldm.component_tensors(tensors, "vae", prefix).items()}
    try:
        return vae_config(shapes, xl=xl), prefix
    except (LookupError, ValueError) as error:
        raise BadWeights(f"The VAE in {name} lacks the tensor {error.args[0]!r}.", hint="Use a whole file.") from error


def unet_config(shapes: Shapes, *, first: bool, text_embeds: int, time_ids: int) -> Config:
    """config.json of a UNet2DConditionModel with tensors of these shapes (by diffusers' names).

    `first`: of Stable Diffusion 1. `text_embeds` and `time_ids`: how much XL's is told beside the text.
    """
    down, up = _levels(shapes, "down_blocks"), _levels(shapes, "up_blocks")
    widths = [shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(len(down))]
    cross = next(shape[1] for key, shape in shapes.items() if key.endswith(".attn2.to_k.weight"))
    middle = _depth(shapes, "mid_block.attentions.0")
    resnets = any(key.startswith("mid_block.resnets.") for key in shapes)
    depths = [[_depth(shapes, f"down_blocks.{level}.attentions.{block}") for block in range(count)]
              for level, count in enumerate(down)]  # fmt: skip
    rising = [[_depth(shapes, f"up_blocks.{level}.attentions.{block}") for block in range(count)]
              for level, count in enumerate(up)]  # fmt: skip
    projection = next(shape for key, shape in shapes.items() if key.endswith("attentions.0.proj_in.weight"))
    config: Config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": down[0] if len(set(down)) == 1 else down,
        "down_block_types": ["CrossAttnDownBlock2D" if any(one) else "DownBlock2D" for one in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if any(one) else "UpBlock2D" for one in rising],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D" if resnets else None,
        "cross_attention_dim": cross,
        "transformer_layers_per_block": _depths(depths, middle),
        # Stable Diffusion 1 has eight heads everywhere; all later ones have heads of 64 channels.
        "attention_head_dim": 8 if first else [max(1, width // 64) for width in widths],
        "use_linear_projection": len(projection) == 2,
        "sample_size": 64,
    }
    if any(one not in ([depth] * len(one), [0] * len(one)) for one, depth in _mirrored(config, rising)):
        config["reverse_transformer_layers_per_block"] = rising
    if "add_embedding.linear_1.weight" in shapes:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (shapes["add_embedding.linear_1.weight"][1] - text_embeds) // time_ids,
            "projection_class_embeddings_input_dim": shapes["add_embedding.linear_1.weight"][1],
        }
    if "time_embedding.cond_proj.weight" in shapes:
        config["time_cond_proj_dim"] = shapes["time_embedding.cond_proj.weight"][1]
    return config


def vae_config(shapes: Shapes, *, xl: bool) -> Config:
    """config.json of an AutoencoderKL with tensors of these shapes (by diffusers' names)."""
    down = _levels(shapes, "encoder.down_blocks")
    widths = [shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(len(down))]
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": widths,
        "layers_per_block": down[0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "down_block_types": ["DownEncoderBlock2D"] * len(down),
        "up_block_types": ["UpDecoderBlock2D"] * len(down),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
        "scaling_factor": 0.13025 if xl else 0.18215,
        "force_upcast": True,
        "sample_size": 1024 if xl else 512,
    }


def _text_config(shapes: Shapes, prefix: str) -> Config:
    """config.json of a CLIPTextModel: of CLIP with its quick GELU, or of OpenCLIP with the exact one."""
    held = {re.sub(r"^text_model\.", "", key): shape for key, shape in shapes.items()}
    rows, width = held["embeddings.token_embedding.weight"]
    layers = 1 + max(int(match[1]) for key in held if (match := re.match(r"encoder\.layers\.(\d{1,4})\.", key)))
    opened = prefix in ldm.OPEN_CLIP
    projected = opened and prefix != ldm.OPEN_CLIP[0]
    config: Config = {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "gelu" if opened else "quick_gelu",
        "hidden_size": width,
        "intermediate_size": held["encoder.layers.0.mlp.fc1.weight"][0],
        "max_position_embeddings": held["embeddings.position_embedding.weight"][0],
        "num_attention_heads": max(1, width // 64),
        # Stable Diffusion 2 was trained on what the last layer but one gives.
        "num_hidden_layers": layers - 1 if prefix == ldm.OPEN_CLIP[0] else layers,
        "projection_dim": held["text_projection.weight"][0] if projected else width,
        "vocab_size": rows,
    }
    return config


def _levels(shapes: Shapes, way: str) -> list[int]:
    """Number of ResNet blocks of each level."""
    found: dict[int, int] = {}
    for key in shapes:
        if match := re.match(re.escape(way) + r"\.(\d{1,4})\.resnets\.(\d{1,4})\.", key):
            level, block = int(match[1]), int(match[2])
            found[level] = max(found.get(level, 0), block + 1)
    if not found or len(found) != max(found) + 1:
        raise KeyError(f"{way}.{len(found)}.resnets.0.conv1.weight")
    return [found[level] for level in range(len(found))]


def _depth(shapes: Shapes, attention: str) -> int:
    """Number of transformer blocks."""
    beginning = f"{attention}.transformer_blocks."
    numbers = [int(key[len(beginning) :].partition(".")[0]) for key in shapes if key.startswith(beginning)]
    return max(numbers, default=-1) + 1


def _depths(depths: list[list[int]], middle: int) -> Any:
    """transformer_layers_per_block, as one number where one will do.

    Levels without attention have 1, but for the last, which has the middle's.
    """
    used = {depth for blocks in depths for depth in blocks if depth} | ({middle} if middle else set())
    if len(used) == 1:
        return used.pop()
    last = len(depths) - 1
    listed: list[Any] = []
    for level, blocks in enumerate(depths):
        if not any(blocks):
            listed.append(middle or 1 if level == last else 1)
        else:
            listed.append(blocks[0] if len(set(blocks)) == 1 else blocks)
    return listed


def _mirrored(config: Config, rising: list[list[int]]) -> list[tuple[list[int], Any]]:
    """The depths of each level on the way up, beside those that diffusers gives it where nothing else is said."""
    listed = config["transformer_layers_per_block"]
    falling = listed if isinstance(listed, list) else [listed] * len(rising)
    return list(zip(rising, reversed(falling), strict=True))


def _model_index(configs: Mapping[str, Config], scheduler: str, *, xl: bool, refiner: bool) -> Config:
    channels = configs["unet"]["in_channels"]
    kind = {9: "Inpaint", 8: "InstructPix2Pix"}.get(channels, "")
    index: Config = {
        "_class_name": f"StableDiffusion{'XL' if xl else ''}{kind or ('Img2Img' if refiner else '')}Pipeline",
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for folder, second in (("text_encoder", ""), ("text_encoder_2", "_2")):
        if folder in configs:
            index[folder] = ["transformers", configs[folder]["architectures"][0]]
            index[f"tokenizer{second}"] = ["transformers", "CLIPTokenizer"]
    if refiner:
        index["requires_aesthetics_score"] = True
    return index


def _prediction_type(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    name: str,
    asked: str | None,
    second: bool,
    configs: Mapping[str, Config],
) -> PredictionType:
    """What the UNet predicts: as asked for, as the file says, as its name says; epsilon but for Stable Diffusion 2."""
    if asked is not None:
        return "v_prediction" if asked == "v_prediction" else "epsilon"
    said = metadata.get("modelspec.prediction_type", "").lower()
    if said in ("v", "v_prediction", "v-prediction", "epsilon", "eps"):
        return "v_prediction" if said.startswith("v") else "epsilon"
    architecture = metadata.get("modelspec.architecture", "").lower()
    if "v_pred" in tensors or architecture.endswith("768-v"):
        return "v_prediction"
    if not second or configs["unet"]["in_channels"] != 4 or architecture.startswith("stable-diffusion-v2-512"):
        return "epsilon"
    stem = name.rpartition("/")[2]
    if _V_FILES.fullmatch(stem):
        return "v_prediction"
    if _EPSILON_FILES.fullmatch(stem):
        return "epsilon"
    raise ConfigError(
        f"{name} is a Stable Diffusion 2, and neither its weights nor its header say what it predicts.",
        hint="Give --prediction-type v_prediction (trained at 768×768) or --prediction-type epsilon (at 512×512).",
    )


def _pads(*, xl: bool, second: bool) -> Mapping[str, str]:
    """OpenCLIP's encoders were trained on texts that are padded with zeros, which is the token "!"."""
    return {"text_encoder_2": "!"} if xl else {"text_encoder": "!"} if second else {}


def _scheduler(*, xl: bool, distilled: bool, second: bool, predicts: str, zero_snr: bool) -> Config:
    """The scheduler of the family's own repo; `distilled` for a guidance scale, it is a latent consistency model."""
    more: Config = {"prediction_type": predicts}
    if zero_snr:
        more |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if distilled:
        return {"_class_name": "LCMScheduler", **_BETAS, "steps_offset": 0, "set_alpha_to_one": True, **more}
    if xl:
        spacing: Config = {"timestep_spacing": "leading", "interpolation_type": "linear", "use_karras_sigmas": False}
        return {"_class_name": "EulerDiscreteScheduler", **_BETAS, **spacing, **more}
    if second and predicts == "v_prediction":
        return {"_class_name": "DDIMScheduler", **_BETAS, "clip_sample": False, "set_alpha_to_one": False, **more}
    return {"_class_name": "PNDMScheduler", **_BETAS, "set_alpha_to_one": False, "skip_prk_steps": True, **more}


def _unknown(tensors: Mapping[str, Tensor], name: str) -> UnknownArchitecture:
    if kind := _kind(tensors):
        hint = "Name it with --lora, beside its base model." if kind == "a LoRA" else _SUPPORTED
        return UnknownArchitecture(f"{name} is {kind}, which is not a model that hubpub reads.", hint=hint)
    what = "a UNet without text encoder" if any(key.startswith(ldm.UNET) for key in tensors) else "no whole model"
    if any(f"{prefix}encoder.conv_in.weight" in tensors for prefix in _VAES) and what == "no whole model":
        return UnknownArchitecture(f"{name} is a VAE, not a whole model.", hint="Name it with --vae, beside a model.")
    return UnknownArchitecture(f"{name} is {what} that hubpub knows.", hint=_SUPPORTED)


def _kind(tensors: Mapping[str, Tensor]) -> str | None:
    """What a file of another kind is, by the beginnings of its names."""
    for key in tensors:
        for beginning, what in _OTHERS.items():
            if key.startswith(beginning):
                return what
        if re.search(r"\.lora_(A|B|down|up)\.|_lora\.(down|up)\.", key):
            return "a LoRA"
    return None
