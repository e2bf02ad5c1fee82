"""LoRAs: diffusers' load_lora_weights and fuse_lora (with PEFT) are the oracle for what is added to which tensor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from hubpub.checkpoints import open_checkpoint
from hubpub.checkpoints.ldm import unet_modules
from hubpub.checkpoints.lora import assign, read_lora
from hubpub.checkpoints.tensors import TensorInfo
from hubpub.checkpoints.weights import open_weights
from hubpub.errors import BadWeights
from tests.support.sources import make_source

Arrays = dict[str, npt.NDArray[Any]]
Modules = Mapping[str, tuple[int, ...]]  # module → shape of its weight

RANK, ALPHA = 4, 2.5
_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in", "q_proj", "v_proj", "fc1")
_CONVOLUTIONS = ("conv1", "conv2", "downsamplers.0.conv")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lora")
    return {family: make_source(root / family, family) for family in ("sd15", "sdxl")}


def _modules(source: Path, folder: str, ends: tuple[str, ...]) -> Modules:
    with open_weights(list((source / folder).glob("*.safetensors"))) as weights:
        shapes = {name.removesuffix(".weight"): info.shape for name, info in weights.tensors().items()}
    return {name: shape for name, shape in shapes.items() if name.endswith(ends)}


def _pairs(modules: Modules, seed: int) -> Iterator[tuple[str, Arrays]]:
    """For each module its down and up matrices, as layers of its kind have them."""
    random = np.random.default_rng(seed)
    for module, shape in modules.items():
        kernel = shape[2:]
        down = random.standard_normal((RANK, shape[1], *kernel)).astype(np.float32) * 0.1
        up = random.standard_normal((shape[0], RANK, *[1] * len(kernel))).astype(np.float32) * 0.1
        yield module, {"down": down, "up": up}


def _folders(source: Path) -> list[str]:
    return [folder for folder in ("unet", "text_encoder", "text_encoder_2") if (source / folder).is_dir()]


def _peft(source: Path, seed: int) -> Arrays:
    arrays: Arrays = {}
    for folder in _folders(source):
        for module, its in _pairs(_modules(source, folder, _TARGETS), seed):
            arrays[f"{folder}.{module}.lora_A.weight"] = its["down"]
            arrays[f"{folder}.{module}.lora_B.weight"] = its["up"]
    return arrays


def _trainer(source: Path, seed: int) -> Arrays:
    """As diffusers wrote them in 2023: lora.down, and lora_linear_layer in text encoders."""
    arrays: Arrays = {}
    for folder in _folders(source):
        middle = "lora" if folder == "unet" else "lora_linear_layer"
        ends = ("to_q", "to_v") if folder == "unet" else ("q_proj", "v_proj")
        for module, its in _pairs(_modules(source, folder, ends), seed):
            for part, values in its.items():
                arrays[f"{folder}.{module}.{middle}.{part}.weight"] = values
    return arrays


def _processors(source: Path, seed: int) -> Arrays:
    """As diffusers wrote them before that: the attention's processor in the UNet, to_q for q_proj in text encoders."""
    arrays: Arrays = {}
    for module, its in _pairs(_modules(source, "unet", ("attn1.to_q", "attn2.to_out.0")), seed):
        attention, layer = module.removesuffix(".0").rsplit(".", 1)
        for part, values in its.items():
            arrays[f"unet.{attention}.processor.{layer}_lora.{part}.weight"] = values
    for module, its in _pairs(_modules(source, "text_encoder", ("q_proj", "out_proj")), seed):
        attention, layer = module.removesuffix("_proj").rsplit(".", 1)
        for part, values in its.items():
            arrays[f"text_encoder.{attention}.to_{layer}_lora.{part}.weight"] = values
    return arrays


def _kohya(source: Path, seed: int, *, ldm: bool = False, convolutions: bool = False) -> Arrays:
    xl = (source / "text_encoder_2").is_dir()
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if xl else "lora_te_", "text_encoder_2": "lora_te2_"}
    arrays: Arrays = {}
    for folder in _folders(source):
        ends = _TARGETS + (_CONVOLUTIONS if convolutions else ())
        modules = _modules(source, folder, ends)
        names = unet_modules(_modules(source, folder, ("",))) if ldm and folder == "unet" else {}
        for module, its in _pairs(modules, seed):
            flat = f"{prefixes[folder]}{names.get(module, module).replace('.', '_')}"
            for part, values in its.items():
                arrays[f"{flat}.lora_{part}.weight"] = values
            arrays[f"{flat}.alpha"] = np.array(ALPHA, np.float32)
    return arrays


def _alike(source: Path, seed: int, *, convolutions: bool = False) -> Arrays:
    """What `_kohya` writes, in the form of PEFT: alpha is in the up matrices."""
    arrays: Arrays = {}
    for folder in _folders(source):
        modules = _modules(source, folder, _TARGETS + (_CONVOLUTIONS if convolutions else ()))
        for module, its in _pairs(modules, seed):
            arrays[f"{folder}.{module}.lora_A.weight"] = its["down"]
            arrays[f"{folder}.{module}.lora_B.weight"] = its["up"] * np.float32(ALPHA / RANK)
    return arrays


def _merged(source: Path, loras: list[tuple[Path, float]]) -> dict[str, dict[str, Any]]:
    """By folder, every tensor that some LoRA changes, merged by hubpub; the pieces are the whole, bit for bit."""
    found: dict[str, dict[str, Any]] = {}
    for folder in _folders(source):
        inputs = {"source": source / folder}
        description: dict[str, Any] = {"files": [next((source / folder).glob("*.safetensors")).name], "loras": []}
        for number, (path, scale) in enumerate(loras):
            inputs[f"lora/{number}"] = path.parent
            one = {"input": f"lora/{number}", "file": path.name, "component": folder, "scale": scale}
            with open_weights([path]) as file:
                if folder in read_lora(file.tensors(), name=path.name, metadata=file.metadata()):
                    description["loras"].append(one)
        with (
            open_checkpoint(description, inputs) as checkpoint,
            open_checkpoint({"files": description["files"]}, inputs) as plain,
        ):
            found[folder] = {}
            for name in checkpoint.tensors():
                values = checkpoint.float16(name)
                pieces = [piece.copy() for piece in checkpoint.pieces(name, 1000)]
                assert np.array_equal(np.concatenate(pieces), values.reshape(-1))
                assert all(piece.size == 1000 for piece in pieces[:-1])
                if not np.array_equal(values, plain.float16(name)):
                    found[folder][name] = values.copy()
    return found


@cache
def _pipeline(source: Path) -> Any:
    """diffusers' pipeline in fp32; loading it takes longer than a LoRA, so all tests have the same."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    pytest.importorskip("peft")
    diffusers.utils.logging.set_verbosity(50)
    kind = json.loads((source / "model_index.json").read_bytes())["_class_name"]
    more = {} if "XL" in kind else {"safety_checker": None}
    return getattr(diffusers, kind).from_pretrained(source, local_files_only=True, **more).to(torch.float32)


def _fused(source: Path, loras: list[tuple[Path, float]]) -> dict[str, dict[str, Any]]:
    """The same by diffusers, in fp32."""
    pipeline = _pipeline(source)
    before = {
        folder: {name: value.clone() for name, value in getattr(pipeline, folder).state_dict().items()}
        for folder in _folders(source)
    }
    try:
        for path, scale in loras:
            pipeline.load_lora_weights(path.parent, weight_name=path.name)
            pipeline.fuse_lora(lora_scale=scale)
            pipeline.unload_lora_weights()
        after = {folder: getattr(pipeline, folder).state_dict() for folder in before}
        return {
            folder: {
                name: values.numpy().copy()
                for name, values in after[folder].items()
                if not values.equal(before[folder][name])
            }
            for folder in before
        }
    finally:
        pipeline.unload_lora_weights()
        for folder, values in before.items():
            getattr(pipeline, folder).load_state_dict(values)


def _same(merged: dict[str, dict[str, Any]], fused: dict[str, dict[str, Any]]) -> None:
    for folder, expected in fused.items():
        wanted = {name.removeprefix("text_model."): values for name, values in expected.items()}
        found = {name.removeprefix("text_model."): values for name, values in merged[folder].items()}
        assert found.keys() == wanted.keys(), folder
        for name, values in wanted.items():
            # fp16 rounding: half a step of 2^-10, or of the smallest numbers
            step = np.maximum(np.abs(values) * 2.0**-10, 2.0**-24)
            assert (np.abs(found[name].astype(np.float32).reshape(values.shape) - values) <= step).all(), name


_FORMS: dict[str, tuple[str, Callable[[Path, int], Arrays]]] = {
    "peft": ("sd15", _peft),
    "peft of XL": ("sdxl", _peft),
    "diffusers of 2023": ("sd15", _trainer),
    "attention processors": ("sd15", _processors),
}


@pytest.mark.parametrize("form", _FORMS)
def test_every_form_is_merged_as_diffusers_does(form: str, sources: dict[str, Path], tmp_path: Path) -> None:
    family, write = _FORMS[form]
    source, path = sources[family], tmp_path / "lora.safetensors"
    save_file(write(source, 1), path)
    loras = [(path, 0.7)]
    merged = _merged(source, loras)
    assert any(merged.values())
    _same(merged, _fused(source, loras))


@pytest.mark.parametrize(
    ("family", "ldm", "convolutions", "whole"),
    [
        ("sd15", False, False, True),
        ("sd15", False, True, True),
        ("sdxl", False, False, True),
        ("sdxl", True, False, True),
        ("sd15", True, True, False),  # diffusers maps LDM's names of XL alone
    ],
)
def test_kohyas_form_is_merged_as_diffusers_does(
    family: str, ldm: bool, convolutions: bool, whole: bool, sources: dict[str, Path], tmp_path: Path
) -> None:
    """diffusers 0.42 with transformers 5 drops kohya's q and v of text encoders with a warning, so these are compared
    with the same matrices in PEFT's form; the UNet's with the file itself."""
    source, path, alike = sources[family], tmp_path / "lora.safetensors", tmp_path / "alike.safetensors"
    save_file(_kohya(source, 1, ldm=ldm, convolutions=convolutions), path)
    save_file(_alike(source, 1, convolutions=convolutions), alike)
    merged = _merged(source, [(path, 0.7)])
    assert all(merged.values())
    _same(merged, _fused(source, [(alike, 0.7)]))
    if whole:
        _same(merged, {"unet": _fused(source, [(path, 0.7)])["unet"]})


def test_several_add_up(sources: dict[str, Path], tmp_path: Path) -> None:
    source = sources["sd15"]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file(_peft(source, 1), one)
    save_file(_alike(source, 2), two)
    loras = [(one, 0.7), (two, -0.3)]
    _same(_merged(source, loras), _fused(source, loras))


def test_the_alphas_in_a_header_of_diffusers_count(sources: dict[str, Path], tmp_path: Path) -> None:
    """What save_lora_adapter of today's diffusers writes beside the tensors."""
    source, path = sources["sd15"], tmp_path / "lora.safetensors"
    arrays = {name: values for name, values in _peft(source, 1).items() if name.startswith("unet.")}
    said = {"unet.r": RANK, "unet.lora_alpha": 3 * RANK, "unet.target_modules": ["to_q"]}
    save_file(arrays, path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(said)})
    with_header = _merged(source, [(path, 1.0)])
    save_file(arrays, path)
    _same(with_header, _fused(source, [(path, 3.0)]))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 3 * RANK},
        {"lora_alpha": RANK, "use_rslora": True},
        {"lora_alpha": RANK, "alpha_pattern": {"attn1.to_q": 16}},
        {"lora_alpha": RANK, "alpha_pattern": {"^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": 1}},
    ],
    ids=["alpha", "rsLoRA", "pattern", "whole name"],
)
def test_the_headers_that_diffusers_writes_mean_what_it_reads(
    settings: dict[str, Any], alone: bool, sources: dict[str, Path], tmp_path: Path
) -> None:
    """Files of save_lora_weights, and of save_lora_adapter (a UNet alone, its names without a prefix)."""
    peft, diffusers = pytest.importorskip("peft"), pytest.importorskip("diffusers")
    source, path = sources["sd15"], tmp_path / "lora.safetensors"
    unet = _pipeline(source).unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    unet.add_adapter(peft.LoraConfig(r=RANK, target_modules=["to_q", "to_v"], init_lora_weights=False, **settings))
    if alone:
        unet.save_lora_adapter(tmp_path, weight_name=path.name)
    else:
        diffusers.StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            unet_lora_layers=peft.get_peft_model_state_dict(unet),
            unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
            weight_name=path.name,
        )
    unet.unload_lora()
    try:
        # With weight_name, or diffusers does not read the header.
        unet.load_lora_adapter(tmp_path, weight_name=path.name, prefix=None if alone else "unet")
        unet.fuse_lora(lora_scale=0.7)
        unet.unload_lora()
        fused = {n: value.numpy().copy() for n, value in unet.state_dict().items() if not value.equal(before[n])}
    finally:
        unet.load_state_dict(before)
    assert len(fused) == len(_modules(source, "unet", ("to_q", "to_v")))
    _same(_merged(source, [(path, 0.7)]), {"unet": fused})


@pytest.mark.parametrize("before", ["", "base_model.model.", "base_model.model.unet.", "unet.base_model.model."])
@pytest.mark.parametrize("after", ["", ".default", ".default_0"])
def test_what_peft_puts_around_names_is_left_out(before: str, after: str) -> None:
    infos = {
        f"{before}mid.to_q.lora_{part}{after}.weight": TensorInfo(shape=shape, dtype="F16")
        for part, shape in {"A": (2, 6), "B": (8, 2)}.items()
    }
    deltas = read_lora(infos, name="x.safetensors")
    assert list(deltas) == ["unet"]
    found = assign(deltas["unet"], {"mid.to_q.weight": (8, 6)}, component="unet", name="x", infos=infos)
    assert list(found) == ["mid.to_q.weight"]
    assert {found["mid.to_q.weight"].up, found["mid.to_q.weight"].down} == set(infos)


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("spelling", ["lora_te_text_model_encoder_q_proj", "text_encoder.text_model.encoder.q_proj"])
def test_text_encoders_fit_with_and_without_text_model(prefix: str, spelling: str) -> None:
    """transformers 5 dropped text_model. from the names."""
    infos = {
        f"{spelling}.{part}.weight": TensorInfo(shape=shape, dtype="F16")
        for part, shape in {"lora_down": (2, 6), "lora_up": (8, 2)}.items()
    }
    deltas = read_lora(infos, name="x.safetensors")["text_encoder"]
    weights = {f"{prefix}encoder.q_proj.weight": (8, 6)}
    assert list(assign(deltas, weights, component="text_encoder", name="x", infos=infos)) == list(weights)


def test_a_middle_matrix_of_locon(sources: dict[str, Path], tmp_path: Path) -> None:
    """LyCORIS' formula in double precision; diffusers does not read this form."""
    source, path = sources["sd15"], tmp_path / "lora.safetensors"
    name = "down_blocks.0.resnets.0.conv1"
    random = np.random.default_rng(0)
    with open_weights(list((source / "unet").glob("*.safetensors"))) as weights:
        base = np.array(weights[f"{name}.weight"], np.float64)
    out, into = base.shape[:2]
    up = random.standard_normal((out, RANK, 1, 1)).astype(np.float32)
    middle = random.standard_normal((RANK, RANK, 3, 3)).astype(np.float32)
    down = random.standard_normal((RANK, into, 1, 1)).astype(np.float32)
    flat = f"lora_unet_{name.replace('.', '_')}"
    arrays = {"lora_up.weight": up, "lora_mid.weight": middle, "lora_down.weight": down, "alpha": np.float32(2)}
    save_file({f"{flat}.{part}": np.asarray(values) for part, values in arrays.items()}, path)
    expected = base + 0.5 * 2 / RANK * np.einsum(
        "or,rskl,si->oikl", *(one.astype(np.float64) for one in (up[:, :, 0, 0], middle, down[:, :, 0, 0]))
    )
    merged = _merged(source, [(path, 0.5)])
    assert list(merged["unet"]) == [f"{name}.weight"]
    assert np.abs(merged["unet"][f"{name}.weight"] - expected).max() <= np.abs(expected).max() * 2.0**-10


@pytest.mark.parametrize(
    ("name", "arrays", "sentence"),
    [
        ("loha", {"lora_unet_x.hada_w1_a": (4, 4)}, "LoHa"),
        ("lokr", {"lora_unet_x.lokr_w1": (4, 4)}, "LoKr"),
        ("dora", {"unet.x.lora_A.weight": (4, 8), "unet.x.lora_magnitude_vector": (8,)}, "DoRA"),
        ("whole", {"lora_unet_x.diff": (4, 4)}, "whole weights"),
        ("model", {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "is no LoRA"),
        ("half", {"lora_unet_x.lora_up.weight": (8, 4)}, "lacks the down matrix"),
        ("shapes", {"lora_unet_x.lora_up.weight": (8, 4), "lora_unet_x.lora_down.weight": (5, 8)}, "do not fit"),
        ("empty", {}, "holds no tensors"),
        ("biases", {"unet.x.lora_B.bias": (8,)}, "biases"),
        ("bias", {"unet.x.lora_A.bias": (8,)}, "is no LoRA"),
        ("ia3", {"unet.x.ia3_l": (8,)}, "IA3"),
        ("alpha", {"lora_unet_x.alpha": ()}, "lacks the up matrix of x"),
        ("no lora", {"unet.x.up.weight": (8, 4), "unet.x.down.weight": (4, 8)}, "is no LoRA"),
        ("twice", {f"{prefix}x.lora_{part}.weight": (4, 4) for prefix in ("", "unet.") for part in "AB"}, "twice"),
    ],
)
def test_other_forms_are_refused_by_name(name: str, arrays: dict[str, Any], sentence: str) -> None:
    infos = {key: TensorInfo(shape=shape, dtype="F16") for key, shape in arrays.items()}
    with pytest.raises(BadWeights, match=sentence) as caught:
        read_lora(infos, name=f"{name}.safetensors")
    assert f"{name}.safetensors" in caught.value.message


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("[]", "no JSON object"),
        ("{", "no JSON object"),
        (f'{{"unet.lora_alpha": 1{"0" * 400}}}', "no number"),
        ('{"unet.lora_alpha": "8"}', "no number"),
        ('{"unet.lora_alpha": NaN}', "no number"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"x": null}}', "no number"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"(x|y)+": 4}}', "no module's name"),
        ('{"unet.lora_alpha": 8, "unet.use_dora": true}', "DoRA"),
    ],
)
def test_headers_that_say_what_cannot_be_merged_are_refused(header: str, sentence: str) -> None:
    infos = {f"unet.x.lora_{part}.weight": TensorInfo(shape=(4, 4), dtype="F16") for part in "AB"}
    with pytest.raises(BadWeights, match=sentence):
        read_lora(infos, name="x.safetensors", metadata={"lora_adapter_metadata": header})


@pytest.mark.parametrize(
    ("base", "down", "up", "fits"),
    [
        ((8, 6), (2, 6, 1, 1), (8, 2, 1, 1), True),
        ((8, 6, 1, 1), (2, 6), (8, 2), True),
        ((1, 6), (2, 1), (6, 2), False),
        ((6, 1), (2, 6), (1, 2), False),
        ((6,), (2, 6), (1, 2), False),
        ((), (2, 1), (1, 2), False),
        ((4, 5, 3, 1), (2, 5, 1, 3), (4, 2, 1, 1), False),
    ],
)
def test_only_a_1x1_kernel_may_be_missing(
    base: tuple[int, ...], down: tuple[int, ...], up: tuple[int, ...], fits: bool
) -> None:
    infos = {
        f"x.lora_{part}.weight": TensorInfo(shape=shape, dtype="F16") for part, shape in {"A": down, "B": up}.items()
    }
    deltas = read_lora(infos, name="x")["unet"]
    if fits:
        assert list(assign(deltas, {"x.weight": base}, component="unet", name="x", infos=infos)) == ["x.weight"]
    else:
        with pytest.raises(BadWeights, match="instead of"):
            assign(deltas, {"x.weight": base}, component="unet", name="x", infos=infos)


def test_a_module_under_two_names_is_refused() -> None:
    infos = {f"mid.x.lora_{part}.weight": TensorInfo(shape=(4, 4), dtype="F16") for part in "AB"}
    infos |= {f"lora_unet_mid_x.lora_{part}.weight": TensorInfo(shape=(4, 4), dtype="F16") for part in ("up", "down")}
    with pytest.raises(BadWeights, match="twice, under two names"):
        assign(read_lora(infos, name="x")["unet"], {"mid.x.weight": (4, 4)}, component="unet", name="x", infos=infos)


@pytest.mark.parametrize("down", [np.inf, np.nan, 1e30, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_too_large_for_float16_are_refused_by_name(down: float, dtype: type, tmp_path: Path) -> None:
    """Without a warning of numpy, which would be an error here."""
    save_file({"x.weight": np.zeros((4, 4), np.float16)}, tmp_path / "model.safetensors")
    arrays = {"x.lora_A.weight": np.full((2, 4), down, dtype), "x.lora_B.weight": np.full((4, 2), 1e30, dtype)}
    save_file(arrays, tmp_path / "lora.safetensors")
    lora = {"input": "source", "file": "lora.safetensors", "component": "unet", "scale": 1.0}
    description = {"files": ["model.safetensors"], "loras": [lora]}
    with (
        open_checkpoint(description, {"source": tmp_path}) as checkpoint,
        pytest.raises(BadWeights, match=r"x\.weight"),
    ):
        checkpoint.float16("x.weight")


def test_a_lora_of_another_family_is_refused(sources: dict[str, Path]) -> None:
    arrays = _peft(sources["sdxl"], 1)
    infos = {key: TensorInfo(shape=values.shape, dtype="F32") for key, values in arrays.items()}
    deltas = read_lora(infos, name="xl.safetensors")
    with open_weights(list((sources["sd15"] / "unet").glob("*.safetensors"))) as weights:
        shapes = {name: info.shape for name, info in weights.tensors().items()}
    with pytest.raises(BadWeights, match=r"LoRA xl\.safetensors does not fit the model's unet"):
        assign(deltas["unet"], shapes, component="unet", name="xl.safetensors", infos=infos)


def test_noise_is_refused_in_a_sentence(sources: dict[str, Path]) -> None:
    """Names and shapes are spoilt at random: a LoRA that fits, or BadWeights."""
    random = np.random.default_rng(0)
    arrays = _kohya(sources["sd15"], 1, convolutions=True)
    with open_weights(list((sources["sd15"] / "unet").glob("*.safetensors"))) as weights:
        shapes = {name: info.shape for name, info in weights.tensors().items()}
    for _ in range(200):
        infos = {key: TensorInfo(shape=values.shape, dtype="F32") for key, values in arrays.items()}
        for key in random.choice(list(infos), size=int(random.integers(1, 5)), replace=False):
            info = infos.pop(key)
            match random.integers(3):
                case 0:
                    place = int(random.integers(len(key)))
                    infos[f"{key[:place]}{chr(random.integers(33, 127))}{key[place + 1 :]}"] = info
                case 1:
                    shape = tuple(int(random.integers(0, 9)) for _ in range(random.integers(0, 5)))
                    infos[key] = TensorInfo(shape=shape, dtype="F32")
        with suppress(BadWeights):  # any other exception fails the test
            deltas = read_lora(infos, name="x.safetensors")
            assign(deltas.get("unet", {}), shapes, component="unet", name="x.safetensors", infos=infos)
            every = [delta for its in deltas.values() for delta in its.values()]
            assert {key for d in every for key in (d.up, d.down, d.mid, d.alpha) if key} == infos.keys()
