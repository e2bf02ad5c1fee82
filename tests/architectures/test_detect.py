"""Architectures: which family a source is, and what each component's program depends on."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from hubpub import architectures
from hubpub.architectures import ATTENTIONS, TARGETS, check_knobs, components_of, detect, gate_size, published_size
from hubpub.errors import ConfigError, UnknownArchitecture, UnknownVariant

INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
SD1_CONFIGS: dict[str, Any] = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "cross_attention_dim": 768,
        "sample_size": 64,
        "attention_head_dim": 8,
    },
    "text_encoder": {"model_type": "clip_text_model", "hidden_size": 768, "num_attention_heads": 12, "eos_token_id": 2},
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    },
    "safety_checker": {
        "projection_dim": 768,
        "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14},
    },
}
SD2_MARKS = [
    ("unet", "cross_attention_dim", 1024),
    ("unet", "attention_head_dim", [5, 10, 20, 20]),
    ("unet", "use_linear_projection", True),
    ("text_encoder", "hidden_act", "gelu"),
    ("text_encoder", "hidden_size", 1024),
]


def changed(folder: str, key: str, value: Any) -> dict[str, Any]:
    configs = copy.deepcopy(SD1_CONFIGS)
    configs[folder][key] = value
    return configs


def params(
    name: str,
    configs: dict[str, Any] = SD1_CONFIGS,
    *,
    attention: str = "original",
    latent: tuple[int, int] | None = None,
    batch: int = 2,
    target: str = "macOS13",
) -> dict[str, Any]:
    component = detect(INDEX, configs).component(name)
    check_knobs(attention=attention, batch=batch, target=target)
    size = published_size(configs, latent, batch)
    parameters = component.parameters(size=size, attention=attention, target=target)
    return {"config": component.meaning(component.config(configs)), **parameters}


def test_a_plain_source_is_sd1() -> None:
    assert detect(INDEX, SD1_CONFIGS).name == "sd1"


@pytest.mark.parametrize("mark", SD2_MARKS)
def test_any_mark_of_the_second_generation_makes_it_sd2(mark: tuple[str, str, Any]) -> None:
    assert detect(INDEX, changed(*mark)).name == "sd2"


@pytest.mark.parametrize(
    ("pipeline", "named"),
    [
        ("StableDiffusionXLPipeline", "Stable Diffusion XL"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("StableDiffusionInpaintPipeline", "inpainting"),
        ("StableDiffusionControlNetPipeline", "ControlNet"),
        ("StableDiffusionXLControlNetPipeline", "ControlNet"),
        ("LatentConsistencyModelPipeline", "latent consistency"),
        ("SanaPipeline", "a SanaPipeline"),
        ("", "names no pipeline"),
    ],
)
def test_other_pipelines_are_named_and_the_supported_ones_listed(pipeline: str, named: str) -> None:
    with pytest.raises(UnknownArchitecture) as caught:
        detect({"_class_name": pipeline}, SD1_CONFIGS)
    assert named in caught.value.message
    assert "Stable Diffusion 1.x, Stable Diffusion 2.x" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("in_channels", 9, "inpainting"),
        ("in_channels", 8, "InstructPix2Pix"),
        ("in_channels", 5, "depth-to-image"),
        ("in_channels", 11, "11 input channels"),
        ("time_cond_proj_dim", 256, "latent consistency"),
        ("addition_embed_type", "text_time", "XL"),
        ("_class_name", "SD3Transformer2DModel", "SD3Transformer2DModel"),
    ],
)
def test_a_foreign_unet_is_named(key: str, value: Any, named: str) -> None:
    with pytest.raises(UnknownArchitecture, match=named):
        detect(INDEX, changed("unet", key, value))


def test_a_new_family_is_asked_before_anything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in ARCHITECTURES is enough: no list of refused pipelines, folders or inputs stands before it."""
    new = replace(
        architectures.ARCHITECTURES[0],
        name="new",
        recognises=lambda index, configs: index["_class_name"] == "StableDiffusionXLPipeline",
    )
    monkeypatch.setattr(architectures, "ARCHITECTURES", (*architectures.ARCHITECTURES, new))
    assert detect({"_class_name": "StableDiffusionXLPipeline"}, {"unet": {"in_channels": 9}}) is new


@pytest.mark.parametrize("folder", ["unet", "text_encoder", "vae"])
def test_a_missing_config_is_named(folder: str) -> None:
    configs = {name: config for name, config in SD1_CONFIGS.items() if name != folder}
    with pytest.raises(UnknownArchitecture, match=f"without {folder}/config.json"):
        detect(INDEX, configs)


def test_the_safety_checker_is_there_only_where_listed_and_wanted() -> None:
    family = detect(INDEX, SD1_CONFIGS)

    def names(index: dict[str, Any], *, wanted: bool) -> list[str]:
        return [component.name for component in components_of(family, index, safety_checker=wanted)]

    four = ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    assert names(INDEX, wanted=True) == [*four, "safety_checker"]
    assert names(INDEX, wanted=False) == four
    assert names(INDEX | {"safety_checker": [None, None]}, wanted=True) == four
    assert names({"_class_name": "StableDiffusionPipeline"}, wanted=True) == four


@pytest.mark.parametrize("name", ["text_encoder", "unet", "vae_decoder", "vae_encoder", "safety_checker"])
def test_a_component_depends_on_its_knobs_and_nothing_else(name: str) -> None:
    knobs = detect(INDEX, SD1_CONFIGS).component(name).knobs
    base = params(name)
    assert (params(name, attention="split_einsum") != base) == ("attention" in knobs)
    assert (params(name, latent=(96, 64)) != base) == ("latent" in knobs)
    assert (params(name, batch=1) != base) == ("batch" in knobs)
    assert (params(name, target="macOS14") != base) == ("target" in knobs)


def test_defaults_written_out_or_left_out_give_the_same_params() -> None:
    spelled = copy.deepcopy(SD1_CONFIGS)
    spelled["unet"] |= {
        "_diffusers_version": "0.6.0",
        "_name_or_path": "somewhere",
        "act_fn": "silu",
        "block_out_channels": [320, 640, 1280, 1280],
        "dropout": 0.1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "mid_block_scale_factor": 1,
        "power": 0.75,
        "upcast_attention": True,
        "class_embed_type": None,
    }
    spelled["text_encoder"] |= {"hidden_act": "quick_gelu", "torch_dtype": "float16", "use_cache": True}
    spelled["vae"] |= {
        "scaling_factor": 0.18215,
        "sample_size": 512,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
    for name in ("unet", "text_encoder", "vae_decoder", "vae_encoder", "safety_checker"):
        assert params(name, spelled) == params(name)


def _sides(name: str, *arguments: Any, **options: Any) -> tuple[int, int]:
    found = params(name, *arguments, **options)
    return found["height"], found["width"]


def test_sizes() -> None:
    assert _sides("unet") == (64, 64)
    assert _sides("unet", changed("unet", "sample_size", [96, 64])) == (96, 64)
    assert _sides("vae_encoder", latent=(40, 24)) == (40, 24)
    assert params("safety_checker")["config"]["image_scale"] == 8
    with pytest.raises(ConfigError, match="halves it 3 times, so both sides must be multiples of 8") as caught:
        params("unet", latent=(36, 64))
    assert "multiples of 64" in caught.value.hint
    with pytest.raises(ConfigError, match="sample_size"):
        params("unet", changed("unet", "sample_size", None))


@pytest.mark.parametrize(
    ("published", "measured"),
    [((64, 64), (32, 32)), ((96, 64), (32, 32)), ((40, 24), (40, 24)), ((32, 32), (32, 32)), ((128, 8), (128, 8))],
)
def test_the_gate_runs_at_a_small_size_that_splits_queries(
    published: tuple[int, int], measured: tuple[int, int]
) -> None:
    size = gate_size(SD1_CONFIGS, published_size(SD1_CONFIGS, published, 2))
    assert (size.height, size.width) == measured


def test_targets_of_one_year_share_a_program() -> None:
    for mac, phone in (("macOS13", "iOS16"), ("macOS14", "iOS17"), ("macOS15", "iOS18")):
        assert params("unet", target=mac) == params("unet", target=phone)
    assert len({params("unet", target=target)["target"] for target in TARGETS}) == 3


def test_knobs_with_unknown_values_are_refused() -> None:
    for knob, value in (("attention", "flash"), ("target", "tvOS17"), ("batch", 3)):
        with pytest.raises(UnknownVariant) as caught:
            params("unet", **{knob: value})
        assert caught.value.hint
    assert {params("unet", attention=attention)["attention"] for attention in ATTENTIONS} == set(ATTENTIONS)


@pytest.mark.parametrize(
    ("folder", "key", "value"),
    [
        ("unet", "act_fn", "gelu"),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "dual_cross_attention", True),
        ("unet", "only_cross_attention", [True, True, True, False]),
        ("unet", "resnet_time_scale_shift", "scale_shift"),
        ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("unet", "down_block_types", ["ResnetDownsampleBlock2D"] + ["DownBlock2D"] * 3),
        ("unet", "block_out_channels", [320, 640]),
        ("unet", "block_out_channels", [320, 640, 1280, 1281]),
        ("unet", "attention_head_dim", [8, 8]),
        ("unet", "a_key_of_tomorrow", 3),
        ("vae", "mid_block_add_attention", False),
        ("vae", "shift_factor", 0.1),
        ("vae", "down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        ("text_encoder", "hidden_act", "relu"),
        ("text_encoder", "model_type", "xlm-roberta"),
        ("text_encoder", "architectures", ["CLIPTextModelWithProjection"]),
        ("text_encoder", "quantization_config", {"quant_method": "bitsandbytes"}),
        ("text_encoder", "num_attention_heads", 7),
        ("safety_checker", "model_type", "siglip"),
        ("safety_checker", "vision_config", {"patch_size": 13}),
        ("safety_checker", "vision_config", {"num_channels": 4}),
    ],
)
def test_what_the_networks_do_not_implement_is_refused_by_name(folder: str, key: str, value: Any) -> None:
    names = {"unet": "unet", "vae": "vae_decoder", "text_encoder": "text_encoder", "safety_checker": "safety_checker"}
    component = detect(INDEX, SD1_CONFIGS).component(names[folder])
    with pytest.raises(UnknownArchitecture, match="does not support yet"):
        component.config(changed(folder, key, value))


def test_pooling_follows_the_end_token() -> None:
    assert params("text_encoder")["config"]["eos_token_id"] is None
    last = params("text_encoder", changed("text_encoder", "eos_token_id", 49407))
    assert last == params("text_encoder"), "the last of the vocabulary is the largest"
    longer = changed("text_encoder", "eos_token_id", 49407)
    longer["text_encoder"]["vocab_size"] = 49410  # two tokens were added after it
    assert params("text_encoder", longer)["config"]["eos_token_id"] == 49407
