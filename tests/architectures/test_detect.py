"""Architectures: which family a source is, and what each component's program depends on."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any

import pytest

from hubpub import architectures
from hubpub.architectures import (
    ATTENTIONS,
    TARGETS,
    Component,
    check_controlnet,
    check_knobs,
    components_of,
    detect,
    find,
    gate_size,
    published_size,
)
from hubpub.errors import ConfigError, UnknownArchitecture, UnknownVariant
from tests.support import sources

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
# Family of tests/support/sources.py → the class that its model_index.json names, and what it is to hubpub.
FAMILIES = {
    "sd15": ("StableDiffusionPipeline", "sd1"),
    "sd15-inpaint": ("StableDiffusionInpaintPipeline", "sd1"),
    "sd15-pix2pix": ("StableDiffusionInstructPix2PixPipeline", "sd1"),
    "sd15-lcm": ("LatentConsistencyModelPipeline", "sd1"),
    "sd15-small": ("StableDiffusionPipeline", "sd1"),
    "sd21": ("StableDiffusionPipeline", "sd2"),
    "sdxl": ("StableDiffusionXLPipeline", "sdxl"),
    "sdxl-small": ("StableDiffusionXLPipeline", "sdxl"),
    "sdxl-refiner": ("StableDiffusionXLImg2ImgPipeline", "sdxl_refiner"),
    "controlnet-sd15": ("ControlNetModel", "controlnet"),
    "controlnet-sd21": ("ControlNetModel", "controlnet"),
    "controlnet-sdxl": ("ControlNetModel", "controlnet"),
}


def source(family: str, *, tiny: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """model_index.json and config.json files of a family."""
    configs = {part.folder: copy.deepcopy(dict(part.config)) for part in sources.components(family, tiny=tiny)}
    index: dict[str, Any] = {"_class_name": FAMILIES[family][0]}
    if family == "sdxl-refiner":
        index["requires_aesthetics_score"] = True
    return index, configs


def beside(family: str, controlnet: str) -> dict[str, Any]:
    """The config.json files of a ControlNet that is made for a model."""
    return {**source(family)[1], **source(controlnet)[1]}


def changed(folder: str, key: str, value: Any, *, family: str | None = None) -> dict[str, Any]:
    configs = source(family)[1] if family else copy.deepcopy(SD1_CONFIGS)
    configs[folder][key] = value
    return configs


def params(
    name: str,
    configs: dict[str, Any] = SD1_CONFIGS,
    *,
    index: dict[str, Any] = INDEX,
    attention: str = "original",
    latent: tuple[int, int] | None = None,
    batch: int = 2,
    target: str = "macOS13",
) -> dict[str, Any]:
    architecture = detect(index, configs)
    component = architecture.component(name)
    check_knobs(attention=attention, batch=batch, target=target)
    size = published_size(architecture, configs, latent, batch)
    parameters = component.parameters(size=size, attention=attention, target=target)
    return {"config": component.meaning(component.config(configs)), **parameters}


def test_a_plain_source_is_sd1() -> None:
    assert detect(INDEX, SD1_CONFIGS).name == "sd1"


@pytest.mark.parametrize("mark", SD2_MARKS)
def test_any_mark_of_the_second_generation_makes_it_sd2(mark: tuple[str, str, Any]) -> None:
    assert detect(INDEX, changed(*mark)).name == "sd2"


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_recognised_and_its_configs_can_be_honoured(family: str, tiny: bool) -> None:
    index, configs = source(family, tiny=tiny)
    architecture = detect(index, configs)
    assert architecture.name == FAMILIES[family][1]
    for component in components_of(architecture, index, switches={}, sources=("model",)):
        config = component.config(configs)
        assert component.read_config(component.meaning(config)) == config


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("StableDiffusionImg2ImgPipeline", "sd15"),
        ("StableDiffusionImg2ImgPipeline", "sd21"),
        ("StableDiffusionInpaintPipeline", "sd21"),
        ("LatentConsistencyModelImg2ImgPipeline", "sd15-lcm"),
        ("StableDiffusionPipeline", "sd15-lcm"),
        ("StableDiffusionXLImg2ImgPipeline", "sdxl"),
        ("StableDiffusionXLInpaintPipeline", "sdxl"),
    ],
)
def test_a_family_has_several_pipelines(pipeline: str, family: str) -> None:
    index, configs = source(family)
    assert detect(index | {"_class_name": pipeline}, configs).name == FAMILIES[family][1]


def test_xl_inpainting_has_9_channels() -> None:
    configs = changed("unet", "in_channels", 9, family="sdxl")
    assert detect({"_class_name": "StableDiffusionXLInpaintPipeline"}, configs).name == "sdxl"
    assert params("unet", configs, index=source("sdxl")[0])["config"]["in_channels"] == 9


@pytest.mark.parametrize(
    ("pipeline", "named", "lacking"),
    [
        ("StableDiffusion3Pipeline", "Stable Diffusion 3", "third text encoder (T5)"),
        ("FluxPipeline", "Flux (FluxPipeline)", "transformer"),
        ("StableDiffusionControlNetPipeline", "a ControlNet in it", "--controlnet"),
        ("StableDiffusionXLControlNetPipeline", "a ControlNet in it", "--controlnet"),
        ("StableDiffusionXLInstructPix2PixPipeline", "InstructPix2Pix XL", "text guidance"),
        ("StableDiffusionXLAdapterPipeline", "Stable Diffusion XL of another kind", "its pipeline"),
        ("StableDiffusionUpscalePipeline", "the Stable Diffusion upscaler", "class embeddings"),
        ("StableVideoDiffusionPipeline", "Stable Video Diffusion", "over time"),
        ("SanaPipeline", "Sana (SanaPipeline)", "transformer"),
    ],
)
def test_other_pipelines_are_named_with_what_they_lack(pipeline: str, named: str, lacking: str) -> None:
    with pytest.raises(UnknownArchitecture) as caught:
        detect({"_class_name": pipeline}, SD1_CONFIGS)
    assert named in caught.value.message
    assert caught.value.hint.startswith("What is missing: ")
    assert lacking in caught.value.hint


@pytest.mark.parametrize(
    ("pipeline", "named"), [("SomethingNewPipeline", "a SomethingNewPipeline"), ("", "names no pipeline")]
)
def test_for_unknown_pipelines_the_supported_families_are_listed(pipeline: str, named: str) -> None:
    with pytest.raises(UnknownArchitecture) as caught:
        detect({"_class_name": pipeline}, SD1_CONFIGS)
    assert named in caught.value.message
    assert "Stable Diffusion 1.x, Stable Diffusion 2.x, Stable Diffusion XL, " in caught.value.hint


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("in_channels", 7, "upscaler"),
        ("in_channels", 5, "depth-to-image"),
        ("in_channels", 11, "11 input channels"),
        ("in_channels", [4], r"\[4\] input channels"),
        ("addition_embed_type", "text_time", "another family .*text_time"),
        ("addition_embed_type", "image", "another family .*image"),
        ("encoder_hid_dim_type", "ip_image_proj", "image embeddings or an IP-Adapter .*ip_image_proj"),
        ("class_embed_type", "projection", "class embeddings .*projection"),
        ("num_class_embeds", 1000, "class embeddings .*1000"),
        ("_class_name", "SD3Transformer2DModel", "SD3Transformer2DModel"),
    ],
)
def test_a_foreign_unet_is_named(key: str, value: Any, named: str) -> None:
    with pytest.raises(UnknownArchitecture, match=named):
        detect(INDEX, changed("unet", key, value))


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("in_channels", 11, "11 input channels"),
        ("addition_embed_type", None, "another family .*None"),
        ("addition_embed_type", "text_image", "another family .*text_image"),
        ("encoder_hid_dim_type", "ip_image_proj", "image embeddings or an IP-Adapter .*ip_image_proj"),
        ("class_embed_type", "projection", "class embeddings .*projection"),
        ("_class_name", "SD3Transformer2DModel", "SD3Transformer2DModel"),
    ],
)
@pytest.mark.parametrize("family", ["sdxl", "sdxl-refiner"])
def test_a_foreign_unet_of_xl_is_refused(family: str, key: str, value: Any, named: str) -> None:
    index, _ = source(family)
    configs = changed("unet", key, value, family=family)
    with pytest.raises(UnknownArchitecture) as caught:
        detect(index, configs)
    if family == "sdxl":
        assert caught.match(named)


def test_a_refiner_says_that_it_is_one() -> None:
    index, configs = source("sdxl-refiner")
    for score in (None, False, 1):
        with pytest.raises(UnknownArchitecture, match=r"without text_encoder/config\.json"):
            detect(index | {"requires_aesthetics_score": score}, configs)
    base = source("sdxl")[1]
    assert detect(index, base).name == "sdxl", "whatever the score, it has both text encoders"


def test_a_new_family_is_asked_before_anything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in ARCHITECTURES is enough: no list of refused pipelines, folders or inputs stands before it."""
    new = replace(
        architectures.ARCHITECTURES[0],
        name="new",
        pipelines=frozenset({"FluxPipeline", "StableDiffusionPipeline"}),
        difference=lambda index, configs: None if configs["unet"].get("in_channels") == 11 else "another",
    )
    monkeypatch.setattr(architectures, "ARCHITECTURES", (*architectures.ARCHITECTURES, new))
    assert detect({"_class_name": "FluxPipeline"}, {"unet": {"in_channels": 11}}) is new
    assert detect(INDEX, changed("unet", "in_channels", 11)) is new
    with pytest.raises(UnknownArchitecture, match="The source is another, "):
        detect({"_class_name": "FluxPipeline"}, SD1_CONFIGS)


@pytest.mark.parametrize("folder", ["unet", "text_encoder", "vae"])
def test_a_missing_config_is_named(folder: str) -> None:
    configs = {name: config for name, config in SD1_CONFIGS.items() if name != folder}
    with pytest.raises(UnknownArchitecture, match=f"without {folder}/config.json"):
        detect(INDEX, configs)


@pytest.mark.parametrize("folder", ["unet", "text_encoder", "text_encoder_2", "vae"])
def test_a_missing_config_of_xl_is_named(folder: str) -> None:
    index, configs = source("sdxl")
    del configs[folder]
    with pytest.raises(UnknownArchitecture, match=f"without {folder}/config.json"):
        detect(index, configs)


@pytest.mark.parametrize("folder", ["unet", "text_encoder_2", "vae"])
def test_a_refiner_without_one_of_its_configs_is_refused(folder: str) -> None:
    index, configs = source("sdxl-refiner")
    del configs[folder]
    with pytest.raises(UnknownArchitecture):
        detect(index, configs)


def test_the_safety_checker_is_there_only_where_listed_and_wanted() -> None:
    family = detect(INDEX, SD1_CONFIGS)

    def names(index: dict[str, Any], *, wanted: bool) -> list[str]:
        chosen = components_of(family, index, switches={"safety_checker": wanted}, sources=("model",))
        return [component.name for component in chosen]

    four = ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    assert names(INDEX, wanted=True) == [*four, "safety_checker"]
    assert names(INDEX, wanted=False) == four
    assert names(INDEX | {"safety_checker": [None, None]}, wanted=True) == four
    assert names({"_class_name": "StableDiffusionPipeline"}, wanted=True) == four


def names_of(family: str, *more: str, **switches: bool) -> list[tuple[str, str]]:
    """(component, source) of a release of this model and more sources."""
    index, configs = source(family)
    chosen = components_of(detect(index, configs), index, switches=switches, sources=("model", *more))
    return [(component.name, component.origin.source) for component in chosen]


def test_other_sources_bring_their_components() -> None:
    plain = [(name, "model") for name in ("text_encoder", "unet", "vae_decoder", "vae_encoder")]
    assert names_of("sd15") == names_of("sd21") == plain
    assert sorted(names_of("sd15", "controlnet")) == sorted(
        [*plain, ("control-unet", "model"), ("controlnet", "controlnet")]
    )
    two = names_of("sd15", "controlnet", "controlnet/2")
    assert [part for part in two if part[0] == "controlnet"] == [
        ("controlnet", "controlnet"),
        ("controlnet", "controlnet/2"),
    ]
    assert two.count(("control-unet", "model")) == 1
    xl = sorted([*plain, ("text_encoder_2", "model")])
    assert sorted(names_of("sdxl")) == xl
    assert sorted(names_of("sdxl", "refiner")) == sorted([*xl, ("refiner", "refiner")])
    assert sorted(names_of("sdxl", "refiner", "controlnet")) == sorted(
        [*xl, ("refiner", "refiner"), ("control-unet", "model"), ("controlnet", "controlnet")]
    )
    refiner = ["text_encoder_2", "unet", "vae_decoder", "vae_encoder"]
    assert sorted(names_of("sdxl-refiner")) == [(name, "model") for name in refiner]
    assert names_of("controlnet-sd15") == [("controlnet", "model")]


CASES = [
    ("sd15", "controlnet-sd15"),
    ("sd21", "controlnet-sd21"),
    ("sdxl", "controlnet-sdxl"),
    ("sdxl-refiner", "controlnet-sdxl"),
    ("controlnet-sd15", "controlnet-sd15"),
]


@pytest.mark.parametrize(
    ("family", "controlnet", "name"),
    [
        (family, controlnet, component.name)
        for family, controlnet in CASES
        for component in detect(*source(family)).all_components
        if component.name != "safety_checker" or family == "sd15"
    ],
)
def test_a_component_depends_on_its_knobs_and_nothing_else(family: str, controlnet: str, name: str) -> None:
    index = source(family)[0]
    configs = beside(family, controlnet)
    knobs = detect(index, configs).component(name).knobs

    def those(**options: Any) -> dict[str, Any]:
        return params(name, configs, index=index, **options)

    base = those()
    assert (those(attention="split_einsum") != base) == ("attention" in knobs)
    assert (those(latent=(96, 64)) != base) == ("latent" in knobs)
    assert (those(batch=1) != base) == ("batch" in knobs)
    assert (those(target="macOS14") != base) == ("target" in knobs)


def test_knobs_are_those_of_the_networks() -> None:
    """So that the test above does not compare nothing with nothing."""
    of_unets = frozenset({"attention", "latent", "batch", "target"})
    expected = {
        "text_encoder": frozenset({"target"}),
        "text_encoder_2": frozenset({"target"}),
        "unet": of_unets,
        "refiner": of_unets,
        "control-unet": of_unets,
        "controlnet": of_unets,
        "vae_decoder": frozenset({"latent", "target"}),
        "vae_encoder": frozenset({"latent", "target"}),
        "safety_checker": frozenset({"latent", "target"}),
    }
    for architecture in architectures.ARCHITECTURES:
        for component in architecture.components:
            for part in (component, *component.chunks):
                assert part.knobs == expected[component.name]


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
        "encoder_hid_dim_type": None,
        "addition_embed_type": None,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "time_cond_proj_dim": None,
        "transformer_layers_per_block": [1, 1, 1, 1],
        "reverse_transformer_layers_per_block": None,
    }
    spelled["text_encoder"] |= {"hidden_act": "quick_gelu", "torch_dtype": "float16", "use_cache": True}
    spelled["vae"] |= {
        "scaling_factor": 0.18215,
        "sample_size": 512,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "force_upcast": True,
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


def test_sizes_of_xl_and_of_a_controlnet_by_itself() -> None:
    xl, configs = source("sdxl")
    assert _sides("unet", configs, index=xl) == (128, 128)
    assert _sides("unet", configs, index=xl, latent=(36, 64)) == (36, 64), "its three levels halve twice"
    with pytest.raises(ConfigError, match="halves it 2 times, so both sides must be multiples of 4") as caught:
        params("unet", configs, index=xl, latent=(34, 64))
    assert "multiples of 32" in caught.value.hint
    for family, side in (("controlnet-sd15", 64), ("controlnet-sd21", 64), ("controlnet-sdxl", 128)):
        index, configs = source(family)
        assert _sides("controlnet", configs, index=index) == (side, side)
    with pytest.raises(ConfigError, match="multiples of 8") as caught:
        params("controlnet", source("controlnet-sd15")[1], index={"_class_name": "ControlNetModel"}, latent=(36, 64))
    assert "multiples of 64" in caught.value.hint


@pytest.mark.parametrize(
    ("published", "measured"),
    [((64, 64), (32, 32)), ((96, 64), (32, 32)), ((40, 24), (40, 24)), ((32, 32), (32, 32)), ((128, 8), (128, 8))],
)
def test_the_gate_runs_at_a_small_size_that_splits_queries(
    published: tuple[int, int], measured: tuple[int, int]
) -> None:
    for family in (None, "sdxl", "controlnet-sd15"):
        index, configs = source(family) if family else (INDEX, SD1_CONFIGS)
        architecture = detect(index, configs)
        size = published_size(architecture, configs, published, 2)
        small = gate_size(architecture, configs, size)
        assert (small.height, small.width) == measured
        assert small.batch == (2 if small == size else 1)


def test_targets_of_one_year_share_a_program() -> None:
    for mac, phone in (("macOS13", "iOS16"), ("macOS14", "iOS17"), ("macOS15", "iOS18")):
        assert params("unet", target=mac) == params("unet", target=phone)
    assert len({params("unet", target=target)["target"] for target in TARGETS}) == 3


def test_knobs_with_unknown_values_are_refused() -> None:
    unknown: list[dict[str, Any]] = [{"attention": "flash"}, {"target": "tvOS17"}, {"batch": 3}]
    for knob in unknown:
        with pytest.raises(UnknownVariant) as caught:
            params("unet", **knob)
        assert caught.value.hint
    assert {params("unet", attention=attention)["attention"] for attention in ATTENTIONS} == set(ATTENTIONS)


@pytest.mark.parametrize(
    ("folder", "key", "value"),
    [
        ("unet", "act_fn", "gelu"),
        ("unet", "class_embed_type", "timestep"),
        ("unet", "class_embed_type", "projection"),
        ("unet", "encoder_hid_dim_type", "ip_image_proj"),
        ("unet", "encoder_hid_dim", 1024),
        ("unet", "addition_embed_type", "image"),
        ("unet", "transformer_layers_per_block", [1, [1, 2], 1, 1]),
        ("unet", "transformer_layers_per_block", [1, 1]),
        ("unet", "transformer_layers_per_block", 65),
        ("unet", "reverse_transformer_layers_per_block", [1, 1]),
        ("unet", "time_cond_proj_dim", 0),
        ("unet", "dual_cross_attention", True),
        ("unet", "only_cross_attention", [True, True, True, False]),
        ("unet", "resnet_time_scale_shift", "scale_shift"),
        ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("unet", "down_block_types", ["ResnetDownsampleBlock2D"] + ["DownBlock2D"] * 3),
        ("unet", "block_out_channels", [320, 640]),
        ("unet", "block_out_channels", [320, 640, 1280, 1281]),
        ("unet", "attention_head_dim", [8, 8]),
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


@pytest.mark.parametrize(
    ("name", "folder", "key", "value"),
    [
        ("unet", "unet", "projection_class_embeddings_input_dim", 2815),
        ("unet", "unet", "projection_class_embeddings_input_dim", 1280),
        ("unet", "unet", "addition_time_embed_dim", None),
        ("unet", "unet", "transformer_layers_per_block", [1, [1, 2], 10]),
        ("unet", "text_encoder_2", "projection_dim", 2816),
        ("text_encoder", "text_encoder", "architectures", ["CLIPTextModelWithProjection"]),
        ("text_encoder_2", "text_encoder_2", "architectures", ["CLIPTextModel"]),
        ("text_encoder_2", "text_encoder_2", "hidden_act", "relu"),
        ("text_encoder_2", "text_encoder_2", "projection_dim", -1),
        ("vae_decoder", "vae", "force_upcast", "yes"),
        ("vae_encoder", "vae", "force_upcast", None),
        ("vae_decoder", "vae", "latents_mean", [0.0]),
        ("controlnet", "", "class_embed_type", "projection"),
        ("controlnet", "", "global_pool_conditions", True),
        ("controlnet", "", "controlnet_conditioning_channel_order", "bgr"),
        ("controlnet", "", "addition_embed_type", "text_image"),
        ("controlnet", "", "mid_block_type", "UNetMidBlock2D"),
    ],
)
def test_what_the_networks_of_xl_do_not_implement_is_refused_by_name(
    name: str, folder: str, key: str, value: Any
) -> None:
    configs = beside("sdxl", "controlnet-sdxl")
    component = find("sdxl", name)
    component.config(configs)
    configs[folder][key] = value
    with pytest.raises(UnknownArchitecture, match="does not support yet"):
        component.config(configs)


def test_layers_of_distilled_unets() -> None:
    config = find("sdxl", "unet").config(source("sdxl-small")[1])
    assert config.transformer_layers == ((0, 0), (1, 2), (2, 1))
    assert config.up_transformer_layers == ((2, 1, 1), (1, 1, 2), (0, 0, 0))
    assert config.middle == 0
    assert find("sd1", "unet").config(source("sd15-small")[1]).middle is None
    plain = find("sdxl", "unet").config(source("sdxl")[1])
    assert plain.transformer_layers == ((1, 1), (2, 2), (10, 10))
    assert plain.up_transformer_layers == ((10,) * 3, (2,) * 3, (1,) * 3)
    assert plain.middle == 10


def test_what_xl_is_told_of_the_picture() -> None:
    config = find("sdxl", "unet").config(source("sdxl")[1])
    assert (config.text_embeds, config.time_ids, config.time_ids_dim) == (1280, 6, 256)
    refiner = find("sdxl_refiner", "unet").config(source("sdxl-refiner")[1])
    assert (refiner.text_embeds, refiner.time_ids, refiner.time_ids_dim) == (1280, 5, 256)
    assert find("sd1", "unet").config(SD1_CONFIGS).time_ids == 0


def test_the_text_encoders_of_xl() -> None:
    configs = source("sdxl")[1]
    first, second = (find("sdxl", name).config(configs) for name in ("text_encoder", "text_encoder_2"))
    assert first.penultimate
    assert second.penultimate
    assert (first.projection_dim, second.projection_dim) == (0, 1280)
    assert not find("sd1", "text_encoder").config(configs).penultimate


@pytest.mark.parametrize(
    ("said", "floats"),
    [
        ({"force_upcast": True}, "fp32"),
        ({"force_upcast": 1.0}, "fp32"),
        ({}, "fp32"),
        ({"force_upcast": False}, "fp16"),
    ],
)
@pytest.mark.parametrize("name", ["vae_decoder", "vae_encoder"])
def test_the_vae_of_xl_overflows_fp16_unless_its_config_says_no(name: str, said: dict[str, Any], floats: str) -> None:
    configs = source("sdxl")[1]
    configs["vae"] |= said
    assert find("sdxl", name).config(configs).floats == floats
    assert find("sdxl_refiner", name).config(configs).floats == floats
    for family in ("sd1", "sd2"):
        assert find(family, name).config(configs).floats == "fp16"


def test_a_guidance_that_is_built_in_can_be_chosen() -> None:
    unet, configs = find("sd1", "unet"), source("sd15-lcm")[1]
    assert unet.read(configs, {}).guidance_embedding == 8.0
    assert unet.read(configs, {"guidance_embedding": None}) == unet.read(configs, {}) == unet.config(configs)
    chosen = unet.read(configs, {"guidance_embedding": 3.5, "batch": 1})
    assert chosen == replace(unet.config(configs), guidance_embedding=3.5)
    assert chosen.guidance_dim == 256
    assert unet.read(SD1_CONFIGS, {}).guidance_embedding is None
    with pytest.raises(ConfigError, match="unet takes no guidance embedding") as caught:
        unet.read(SD1_CONFIGS, {"guidance_embedding": 3.5})
    assert "--guidance-embedding" in caught.value.hint
    for chunk in unet.chunks:
        assert chunk.read(configs, {"guidance_embedding": 3.5}) == chosen
    encoder = find("sd1", "text_encoder")
    assert encoder.read(configs, {"guidance_embedding": 3.5}) == encoder.config(configs)


MODELS = ("sd15", "sd21", "sdxl")


def _check(family: str, controlnet: str, **special: Any) -> None:
    configs = beside(family, controlnet)
    configs[""] |= special
    unet = find(FAMILIES[family][1], "unet").config(configs)
    check_controlnet(unet, find(FAMILIES[family][1], "controlnet").config(configs), name="a/b")


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("controlnet", MODELS)
def test_a_controlnet_fits_its_own_family_alone(family: str, controlnet: str) -> None:
    if family == controlnet:
        _check(family, f"controlnet-{controlnet}")
        return
    widths = {"sd15": 768, "sd21": 1024, "sdxl": 2048}
    with pytest.raises(ConfigError) as caught:
        _check(family, f"controlnet-{controlnet}")
    assert f"ControlNet a/b does not fit: it takes {widths[controlnet]} channels of text" in caught.value.message
    assert f"the UNet {widths[family]}." in caught.value.message
    assert "trained for this model's family" in caught.value.hint


@pytest.mark.parametrize(
    ("family", "special", "named"),
    [
        ("sd15-inpaint", {}, "takes 4 input channels, the UNet 9"),
        ("sd15", {"layers_per_block": 1}, "gives 9 answers, the UNet takes 13"),
        ("sd15", {"block_out_channels": [320, 640, 1280, 1344]}, "its answer 10 has another shape"),
        ("sdxl", {"addition_embed_type": None}, "takes 0 numbers of the picture's size, the UNet 6"),
    ],
)
def test_a_controlnet_of_another_form_is_refused(family: str, special: dict[str, Any], named: str) -> None:
    controlnet = "controlnet-sdxl" if family == "sdxl" else "controlnet-sd15"
    with pytest.raises(ConfigError, match=named):
        _check(family, controlnet, **special)


def test_what_a_controlnet_does_not_see_may_differ() -> None:
    _check("sd15-lcm", "controlnet-sd15")
    _check("sdxl", "controlnet-sdxl", transformer_layers_per_block=[0, 1, 1])


@pytest.mark.parametrize("family", MODELS)
def test_a_controlnet_by_itself_is_the_same_as_beside_its_model(family: str) -> None:
    alone = source(f"controlnet-{family}")[1]
    assert find("controlnet", "controlnet").config(alone) == find(FAMILIES[family][1], "controlnet").config(
        beside(family, f"controlnet-{family}")
    )


def test_names_that_apps_build_of_a_components_source() -> None:
    def stem(component: Component, source: str) -> str:
        return component.package_stem(model="prompthero/openjourney-v4", source=source)

    model, mlsd = "prompthero/openjourney-v4", "lllyasviel/sd-controlnet-mlsd"
    own = "Stable_Diffusion_version_prompthero_openjourney-v4"
    assert stem(find("sd1", "unet"), model) == f"{own}_unet"
    assert stem(find("sd1", "control-unet"), model) == f"{own}_control-unet"
    assert stem(find("sd1", "unet_chunk1"), model) == f"{own}_unet_chunk1"
    assert stem(find("sdxl", "refiner"), "stabilityai/stable-diffusion-xl-refiner-1.0") == f"{own}_refiner"
    control = find("sd1", "controlnet")
    assert stem(control, mlsd) == "ControlNet_lllyasviel_sd-controlnet-mlsd"
    assert control.bundle(mlsd) == "controlnet/LllyasvielSdControlnetMlsd"
    bundles = {
        "unet": "Unet",
        "unet_chunk2": "UnetChunk2",
        "control-unet": "ControlledUnet",
        "control-unet_chunk1": "ControlledUnetChunk1",
        "refiner": "UnetRefiner",
        "refiner_chunk1": "UnetRefinerChunk1",
        "text_encoder_2": "TextEncoder2",
    }
    for name, bundle in bundles.items():
        assert find("sdxl", name).bundle(model) == bundle
    every = [component for architecture in architectures.ARCHITECTURES for component in architecture.all_components]
    assert {component.name for component in every if component.is_controlnet} == {"controlnet"}


@pytest.mark.parametrize(
    ("family", "component", "model"),
    [
        ("sd1", "unet", "UNet2DConditionModel"),
        ("sd1", "vae_decoder", "AutoencoderKL"),
        ("sdxl", "vae_encoder", "AutoencoderKL"),
        ("controlnet", "controlnet", "ControlNetModel"),
    ],
)
def test_we_know_the_keys_that_diffusers_knows(family: str, component: str, model: str) -> None:
    """So a key that we pass over is one that diffusers passes over, too."""
    diffusers = pytest.importorskip("diffusers")
    known = set(inspect.signature(getattr(diffusers, model).__init__).parameters) - {"self"}
    assert find(family, component).keys == known


def test_keys_that_diffusers_does_not_know_are_listed() -> None:
    config = SD1_CONFIGS["unet"] | {"_note": "x", "decay": 0.9999, "use_ema": True, "a_key_of_tomorrow": 3}
    component = find("sd1", "unet")
    assert component.unread(config) == ["a_key_of_tomorrow", "decay", "use_ema"]
    assert component.config({**SD1_CONFIGS, "unet": config}) == component.config(SD1_CONFIGS)
    assert find("sd1", "text_encoder").unread({"anything": 1}) == [], "transformers writes dozens"


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("attention_head_dim", [8, 8, 8, 8], 8),
        ("attention_head_dim", 8.0, 8),
        ("layers_per_block", [2, 2, 2, 2], 2),
        ("cross_attention_dim", [768, 768, 768, 768], 768),
        ("block_out_channels", [320.0, 640.0, 1280.0, 1280.0], [320, 640, 1280, 1280]),
        ("only_cross_attention", [False, False, False, False], False),
        ("mid_block_scale_factor", 1.0, 1),
        ("flip_sin_to_cos", 1, True),
        ("time_embedding_dim", 1280, None),
        ("sample_size", [64, 64], 64),
    ],
)
def test_other_spellings_of_a_value_are_the_same_network(key: str, value: Any, same: Any) -> None:
    base = SD1_CONFIGS["unet"] | {"block_out_channels": [320, 640, 1280, 1280]}
    one, other = ({**SD1_CONFIGS, "unet": base | {key: each}} for each in (value, same))
    assert detect(INDEX, one).name == "sd1"
    unet = find("sd1", "unet")
    assert unet.config(one) == unet.config(other)
    assert published_size(detect(INDEX, one), one, None, 2) == published_size(detect(INDEX, other), other, None, 2)
