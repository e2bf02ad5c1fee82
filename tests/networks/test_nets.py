"""Networks: ours compute what diffusers' and transformers' do, in fp32, from the same weights."""

from __future__ import annotations

import copy

import pytest
import torch

from hubpub.errors import BadWeights
from hubpub.nets.networks import build, load
from tests.support.tiny_modules import configs, module, params, psnr, state

# All are above 130 dB; 90 is what fp32 rounding in another order can be blamed for.
FLOOR = 90.0
ATTENTIONS = ("original", "split_einsum", "split_einsum_v2")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)
    torch.set_num_threads(1)


# 16×16: no head has 512 queries; 32×32: two pieces of 512; 40×24: 960 queries, a piece of 512 and one of 448.
@pytest.mark.parametrize(
    ("generation", "attention", "size"),
    [(generation, attention, (16, 16)) for generation in (1, 2) for attention in ATTENTIONS]
    + [(1, "split_einsum_v2", (32, 32)), (1, "split_einsum_v2", (40, 24)), (2, "split_einsum_v2", (40, 24))],
)
def test_unet(generation: int, attention: str, size: tuple[int, int]) -> None:
    ours = load(build(params("unet", generation, attention=attention, latent=size)), state("unet", generation))
    sample, text = torch.randn(2, 4, *size), torch.randn(2, 77, 64)
    timestep = torch.tensor([981.0, 1.0])
    expected = module("unet", generation)(sample, timestep, text).sample
    assert psnr(expected, ours(sample, timestep, text.transpose(1, 2)[:, :, None])) > FLOOR


@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 1)])
def test_time_features_follow_the_config(flip: bool, shift: int) -> None:
    from diffusers.models.embeddings import Timesteps

    config = params("unet")["config"] | {"flip_sin_to_cos": flip, "freq_shift": shift}
    unet = build(params("unet") | {"config": config}).module
    timestep = torch.tensor([981.0, 0.0, 500.0])
    expected = Timesteps(32, flip, shift)(timestep)
    ours = torch.ops.hubpub.sinusoids(timestep, unet.frequencies, unet.flip)
    assert psnr(expected, ours[:, :, 0, 0]) > FLOOR


def test_vae_decoder() -> None:
    ours = load(build(params("vae_decoder")), state("vae_decoder"))
    latents = torch.randn(1, 4, 16, 8)
    assert psnr(module("vae", 1).decode(latents).sample, ours(latents)) > FLOOR


def test_vae_encoder_gives_mean_and_log_variance() -> None:
    ours = load(build(params("vae_encoder")), state("vae_encoder"))
    image = torch.rand(1, 3, 128, 64) * 2 - 1
    assert psnr(module("vae", 1).encode(image).latent_dist.parameters, ours(image)) > FLOOR


@pytest.mark.parametrize("component", ["vae_decoder", "vae_encoder"])
def test_vae_without_the_quantising_convolutions(component: str) -> None:
    without = params(component)
    for key in ("use_quant_conv", "use_post_quant_conv"):
        without["config"].pop(key, None)
    flag = "use_post_quant_conv" if component == "vae_decoder" else "use_quant_conv"
    network = build(without | {"config": without["config"] | {flag: False}})
    assert not any("quant_conv" in name for name in network.module.state_dict())


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("eos", [2, 999])
def test_text_encoder(generation: int, eos: int) -> None:
    theirs = module("text_encoder", generation)
    given = params("text_encoder", generation)
    ours = load(
        build(given | {"config": given["config"] | {"eos_token_id": None if eos == 2 else eos}}),
        state("text_encoder", generation),
    )
    ids = torch.randint(3, 998, (1, 77))
    ids[0, 20] = ids[0, 30] = 999  # the largest, twice: the first counts
    theirs.eos_token_id = eos
    try:
        expected = theirs(ids)
    finally:
        theirs.eos_token_id = 2
    hidden, pooled = ours(ids.float())
    assert psnr(expected.last_hidden_state, hidden) > FLOOR
    assert psnr(expected.pooler_output, pooled) > FLOOR


@pytest.mark.parametrize("lowered", [0.0, 0.6])
def test_safety_checker_scores_and_blackout(lowered: float) -> None:
    theirs = copy.deepcopy(module("safety_checker", 1))
    theirs.concept_embeds_weights -= lowered
    ours = load(build(params("safety_checker")), dict(theirs.state_dict()))
    clip, image = torch.randn(1, 3, 224, 224), torch.rand(1, 8, 8, 3) + 0.1
    _, flagged = theirs.forward_onnx(clip, image.clone())
    filtered, ours_flagged, scores = ours(clip, image, torch.zeros(1))
    assert bool(flagged) == (lowered > 0), "the tiny checker must see both outcomes"
    assert ours_flagged.shape == (1, 1, 1, 1)
    assert float(ours_flagged) == float(flagged)
    assert torch.equal(filtered, torch.zeros_like(image) if flagged else image)
    assert scores.shape == (1, 17)
    assert psnr(_scores(theirs, clip), scores) > FLOOR


def test_adjustment_raises_special_scores_only() -> None:
    ours = load(build(params("safety_checker")), state("safety_checker"))
    clip, image = torch.randn(1, 3, 224, 224), torch.rand(1, 8, 8, 3)
    low = ours(clip, image, torch.tensor([-10.0]))[2]
    high = ours(clip, image, torch.tensor([10.0]))[2]
    assert torch.allclose(high - low, torch.full_like(high, 0.01), atol=1e-6)


def test_names_are_those_of_the_source() -> None:
    for component, others in {
        "unet": (),
        "text_encoder": (),
        "safety_checker": (),
        "vae_decoder": ("encoder.", "quant_conv."),
        "vae_encoder": ("decoder.", "post_quant_conv."),
    }.items():
        expected = {name for name in state(component) if not name.startswith(others)}
        assert set(build(params(component)).module.state_dict()) == expected


def test_building_takes_no_memory() -> None:
    config = params("unet")["config"] | {"block_out_channels": [3200, 6400, 12800]}
    unet = build(params("unet") | {"config": config}).module
    assert all(parameter.device.type == "meta" for parameter in unet.parameters())


def test_weights_that_do_not_fit_are_named() -> None:
    tensors = state("vae_decoder")
    with pytest.raises(BadWeights, match=r"decoder\.conv_in\.weight"):
        load(build(params("vae_decoder")), {k: v for k, v in tensors.items() if k != "decoder.conv_in.weight"})
    with pytest.raises(BadWeights, match=r"decoder\.conv_in\.bias is \(3,\)"):
        load(build(params("vae_decoder")), tensors | {"decoder.conv_in.bias": torch.zeros(3)})


def test_tiny_configs_are_of_their_families() -> None:
    from hubpub.architectures import detect

    assert [detect({"_class_name": "StableDiffusionPipeline"}, configs(g)).name for g in (1, 2)] == ["sd1", "sd2"]


def _scores(theirs: torch.nn.Module, clip: torch.Tensor) -> torch.Tensor:
    """Concept scores as forward_onnx computes them on its way."""
    embeds = theirs.visual_projection(theirs.vision_model(clip)[1])
    normalise = torch.nn.functional.normalize
    special = normalise(embeds) @ normalise(theirs.special_care_embeds).T - theirs.special_care_embeds_weights
    care = 0.01 * (special > 0).any(dim=1, keepdim=True)
    return normalise(embeds) @ normalise(theirs.concept_embeds).T - theirs.concept_embeds_weights + care
