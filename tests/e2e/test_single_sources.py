"""Single files, LoRAs and VAEs as sources: from disk, the embedded Hub and git, into a release."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import git
import numpy as np
import pytest
from huggingface_hub import HfApi
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from hubpub.checkpoints.tokenizer import clip_tokenizer
from hubpub.cli.app import app
from hubpub.localhub import LocalHub, running
from hubpub.remote.hub import Hub
from tests.support.single_files import single_arrays, write_single
from tests.support.sources import Layout, make_source

TOKENS = 49_408
HEADER = {
    "modelspec.title": "My Model",
    "modelspec.author": "Ada",
    "modelspec.license": "CreativeML Open RAIL-M",
}
FAMILIES = ("sd15", "sdxl", "sdxl-refiner")
FAST = ["--attention", "original", "--format", "packages", "--format", "compiled", "--verify", "weights"]
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as running_hub:
        yield running_hub


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and a single file of each family, with CLIP's own tokenizer; a LoRA and VAEs."""
    root = tmp_path_factory.mktemp("sources")
    clip = clip_tokenizer()
    for family in FAMILIES:
        folder = make_source(root / family, family, vocabulary=TOKENS)
        shutil.rmtree(folder / "safety_checker", ignore_errors=True)
        index = json.loads((folder / "model_index.json").read_bytes())
        if "safety_checker" in index:
            (folder / "model_index.json").write_text(json.dumps({**index, "safety_checker": [None, None]}))
        for tokenizer in folder.glob("tokenizer*"):
            (tokenizer / "vocab.json").write_bytes(clip.vocab)
            (tokenizer / "merges.txt").write_bytes(clip.merges)
        write_single(folder, root / f"{family}.safetensors", metadata=HEADER)
    write_single(root / "sd15", root / "sd15-old.ckpt")
    random = np.random.default_rng(0)
    arrays = {
        f"{LORA}.lora_up.weight": random.standard_normal((32, 4)).astype(np.float16),
        f"{LORA}.lora_down.weight": random.standard_normal((4, 32)).astype(np.float16),
        f"{LORA}.alpha": np.array(4, np.float16),
    }
    save_file(arrays, root / "style.safetensors", metadata={"modelspec.license": "mit"})
    other = make_source(root / "other-vae", "sd15", seed=5, vocabulary=TOKENS)
    prefix = "first_stage_model."
    ldm = {name: array for name, array in single_arrays(other).items() if name.startswith(prefix)}
    save_file(ldm, root / "vae-ldm.safetensors", metadata={"modelspec.license": "mit"})
    vae = load_file(next((other / "vae").glob("*.safetensors")))
    save_file(vae, root / "vae-diffusers.safetensors", metadata={"modelspec.license": "mit"})
    return root


def _hubpub(hub: LocalHub | None, *arguments: str, status: int = 0) -> str:
    connection = ["--endpoint", hub.endpoint, "--token", hub.token] if hub else []
    result = CliRunner().invoke(app, [*arguments, *connection])
    assert result.exit_code == status, result.output
    return result.output


def _convert(out: Path, *arguments: str) -> tuple[dict[str, str], dict[str, Any]]:
    """sha256 of every file but the programs, which name their author; and the manifest."""
    _hubpub(None, "convert", *arguments, "-o", str(out), "--to", "me/x", "--name", "me/x", *FAST)
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    kept = ("weight.bin", "vocab.json", "merges.txt", "model.mil")
    digests = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name.endswith(kept)
    }
    return digests, json.loads((out / "hubpub.json").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_its_folder(family: str, sources: Path, tmp_path: Path) -> None:
    """The same weight files, byte for byte, and the same tokenizer."""
    folder, _ = _convert(tmp_path / "folder", str(sources / family))
    file, manifest = _convert(tmp_path / "file", str(sources / f"{family}.safetensors"))
    programs = {name for name in folder if name.endswith("model.mil")}  # the tiny folder has other numbers of heads
    assert file.keys() == folder.keys()
    assert {name: file[name] for name in file.keys() - programs} == {
        name: folder[name] for name in folder.keys() - programs
    }
    assert manifest["card"]["license"] == "creativeml-openrail-m"
    assert manifest["source"]["file"] == f"{family}.safetensors"
    assert len(manifest["source"]["files"]) == 1


@pytest.mark.slow
def test_a_ckpt_is_read_and_never_run(sources: Path, tmp_path: Path) -> None:
    safe, _ = _convert(tmp_path / "safe", str(sources / "sd15.safetensors"))
    old, manifest = _convert(tmp_path / "old", str(sources / "sd15-old.ckpt"), "--license", "mit")
    assert old == safe
    assert manifest["card"]["license"] == "mit"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_other_types_round_as_in_a_folder(dtype: str, sources: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save

    source = make_source(tmp_path / "source", "sd15", vocabulary=TOKENS, layout=Layout(dtype="F32"))
    shutil.copytree(sources / "sd15" / "tokenizer", source / "tokenizer", dirs_exist_ok=True)
    kind = {"BF16": torch.bfloat16, "F32": torch.float32}[dtype]
    state = {name: torch.from_numpy(np.ascontiguousarray(a)).to(kind) for name, a in single_arrays(source).items()}
    save(state, tmp_path / "model.safetensors")
    for path in source.rglob("*.safetensors"):
        held = {name: torch.from_numpy(a).to(kind) for name, a in load_file(path).items()}
        save(held, path, metadata={"format": "pt"})
    folder, _ = _convert(tmp_path / "folder", str(source), "--no-safety-checker")
    file, _ = _convert(tmp_path / "file", str(tmp_path / "model.safetensors"), "--license", "mit")
    weights = {name for name in folder if name.endswith("weight.bin")}
    assert {name: file[name] for name in weights} == {name: folder[name] for name in weights}


@pytest.mark.slow
def test_a_repo_of_the_hub_with_one_file_and_with_several(hub: LocalHub, sources: Path, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    for repo, files in (("me/one", ["sd15"]), ("me/several", ["sd15", "sdxl"])):
        api.create_repo(repo)
        for name in files:
            path = "model.safetensors" if len(files) == 1 else f"{name}.safetensors"
            api.upload_file(path_or_fileobj=sources / f"{name}.safetensors", path_in_repo=path, repo_id=repo)
        api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id=repo)
    _hubpub(hub, "publish", "me/one", "--to", "me/out", *FAST)
    state = Hub(hub.endpoint, hub.token).state("me/out")
    assert state is not None
    assert state.manifest is not None
    assert state.manifest["card"]["license"] == "mit"
    assert state.manifest["card"]["base_model"] == "me/one"
    said = _hubpub(hub, "publish", "me/several", "--to", "me/out2", *FAST, status=2)
    assert "holds 2 weight files: sd15.safetensors, sdxl.safetensors" in " ".join(said.split())
    assert "hf:me/several/sd15.safetensors" in said
    _hubpub(hub, "publish", "hf:me/several/sdxl.safetensors", "--to", "me/out2", *FAST)
    manifest = Hub(hub.endpoint, hub.token).state("me/out2").manifest  # type: ignore[union-attr]
    assert manifest is not None
    assert manifest["architecture"] == "sdxl"
    assert "hf:me/several/sdxl.safetensors" in manifest["command"]


def test_only_the_header_comes_from_the_hub_to_plan(
    hub: LocalHub, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("me/planned", exist_ok=True)
    api.upload_file(path_or_fileobj=sources / "sd15.safetensors", path_in_repo="a/b.safetensors", repo_id="me/planned")

    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("a weight file was downloaded")

    monkeypatch.setattr(Hub, "download_source", download)
    said = _hubpub(hub, "plan", "hf:me/planned/a/b.safetensors", *FAST)
    assert "Stable Diffusion 1.x" in said


def test_a_file_in_a_git_repo(sources: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    shutil.copy(sources / "sd15.safetensors", repo / "model.safetensors")
    with git.Repo.init(repo, initial_branch="main") as made:
        made.git.add(all=True)
        author = git.Actor("A", "a@example.org")
        made.index.commit("first", author=author, committer=author)
    for address in (f"git+file://{repo}", f"git+file://{repo}#model.safetensors", f"git+file://{repo}@main"):
        assert "Stable Diffusion 1.x" in _hubpub(None, "plan", address, *FAST)
    said = _hubpub(None, "plan", f"git+file://{repo}#other.safetensors", *FAST, status=3)
    assert "other.safetensors" in said


@pytest.mark.slow
def test_a_lora_changes_what_it_names_and_nothing_else(sources: Path, tmp_path: Path) -> None:
    plain, _ = _convert(tmp_path / "plain", str(sources / "sd15"))
    merged, manifest = _convert(
        tmp_path / "merged", str(sources / "sd15"), "--lora", f"{sources / 'style.safetensors'}@0.5"
    )
    changed = {name for name in plain if plain[name] != merged[name]}
    assert changed
    assert all("unet" in name.lower() for name in changed)
    assert manifest["other_sources"]["lora"]["what"] == "LoRA"
    assert manifest["other_sources"]["lora"]["license"] == "mit"
    assert manifest["card"]["license"] == "creativeml-openrail-m", "the strictest"
    assert "--lora ./style.safetensors@0.5" in manifest["command"]
    again, _ = _convert(tmp_path / "none", str(sources / "sd15"), "--lora", f"{sources / 'style.safetensors'}@0")
    assert {name for name in plain if plain[name] != again[name]} == set()


@pytest.mark.slow
def test_the_numeric_gate_sees_the_lora(sources: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out"
    _hubpub(
        None,
        *("convert", str(sources / "sd15.safetensors"), "--lora", str(sources / "style.safetensors")),
        *("--vae", str(sources / "vae-ldm.safetensors"), "-o", str(out), "--to", "me/x", "--format", "packages"),
        *("--attention", "original", "--verify", "numeric"),
    )
    components = json.loads((out / "hubpub.json").read_bytes())["components"]
    assert components["unet/original"]["verification"]["kind"] == "numeric"
    assert components["unet/original"]["verification"]["psnr_program"] > 60


@pytest.mark.slow
def test_a_vae_in_place_of_the_models(sources: Path, tmp_path: Path) -> None:
    plain, _ = _convert(tmp_path / "plain", str(sources / "sd15"))
    made = [
        _convert(tmp_path / str(number), str(sources / "sd15"), "--vae", str(sources / name))
        for number, name in enumerate(
            ("other-vae", "other-vae/vae", "vae-ldm.safetensors", "vae-diffusers.safetensors")
        )
        if name != "other-vae/vae" or not _licence(sources / name)
    ]
    for digests, manifest in made:
        changed = {name for name in plain if plain[name] != digests[name]}
        assert changed
        assert all("vae" in name.lower() for name in changed)
        assert manifest["other_sources"]["vae"]["what"] == "VAE"
    first = made[0][0]
    assert all(digests == first for digests, _ in made)


def _licence(folder: Path) -> None:
    """A VAE's folder by itself, with a card as its repo would have."""
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["{}/style.safetensors"], 3, "is a LoRA"),
        (["{}/vae-ldm.safetensors"], 3, "is a VAE"),
        (["{}/sd15", "--lora", "{}/sd15.safetensors"], 3, "is no LoRA that hubpub knows"),
        (["{}/sdxl", "--lora", "{}/style.safetensors"], 3, "does not fit the model's unet"),
        (["{}/sd15", "--lora", "{}/style.safetensors@1e9"], 2, "is no scale for a LoRA"),
        (["{}/sd15", "--lora", "{}/no.safetensors"], 2, "neither an existing file nor a repo id"),
        (["{}/sd15", "--vae", "{}/style.safetensors"], 3, "holds no VAE"),
        (["{}/sd15", "--weights-variant", "fp16"], 2, "No component has weight files of the variant fp16"),
        (["{}/none.ckpt"], 2, "neither an existing file nor a repo id"),
        (["{}/cut.safetensors"], 3, "truncated"),
        (["{}/empty.safetensors"], 3, "is empty"),
        (["{}/page.safetensors"], 3, "is a web page"),
        (["{}/pickle.ckpt"], 3, "would run"),
        (["{}/notes.txt"], 2, "is no weight file that hubpub reads"),
    ],
)
def test_bad_input_is_said_before_any_work(
    arguments: list[str], status: int, sentence: str, sources: Path, tmp_path: Path
) -> None:
    import pickle
    import zipfile

    whole = (sources / "sd15.safetensors").read_bytes()
    (sources / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (sources / "empty.safetensors").write_bytes(b"")
    (sources / "page.safetensors").write_bytes(b"<!DOCTYPE html><html></html>")
    (sources / "notes.txt").write_text("hello")
    with zipfile.ZipFile(sources / "pickle.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(print, protocol=2))
    words = [word.format(sources) for word in arguments]
    said = _hubpub(None, "convert", *words, "-o", str(tmp_path / "out"), "--license", "mit", *FAST, status=status)
    assert sentence in " ".join(said.split())
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_pictures_of_a_single_file_with_a_lora_are_those_of_diffusers(
    family: str, sources: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out"
    lora = ["--lora", str(sources / "style.safetensors")] if family == "sd15" else []
    _hubpub(
        None,
        *("convert", str(sources / f"{family}.safetensors"), "-o", str(out), "--to", "me/x", "--format", "packages"),
        *("--attention", "original", "--verify", "off", "--bits", "16", "--prompt", "a cat", "--prompt-steps", "4"),
        *("--latent-height", "16", "--latent-width", "16", *lora),
    )
    [picture] = json.loads((out / "hubpub.json").read_bytes())["pictures"]
    assert picture["psnr"] > 35


@pytest.mark.slow
def test_a_release_with_a_lora_is_measured_against_its_sources(sources: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "out"
    more = ["--lora", f"{sources / 'style.safetensors'}@0.5", "--vae", str(sources / "vae-diffusers.safetensors")]
    _convert(out, str(sources / "sd15"), *more)
    packages = out / "original" / "packages"
    for path in packages.glob("*text_encoder*"):  # it is not changed, and need not be run
        shutil.rmtree(path)
    (tmp_path / "only").mkdir()
    shutil.copytree(packages, tmp_path / "only" / "packages")
    said = _hubpub(None, "verify", str(tmp_path / "only"), "--source", str(sources / "sd15"), *more, "--json")
    numbers = {
        one["component"]: one["psnr"] for one in json.JSONDecoder().raw_decode(said[said.index("{") :])[0]["measured"]
    }
    assert numbers["unet"] > 25
    assert numbers["vae_decoder"] > 35
    said = _hubpub(None, "verify", str(tmp_path / "only"), "--source", str(sources / "sd15"), "--json", status=5)
    assert "vae" in said or "unet" in said


def test_a_lora_brings_its_scheduler_and_licence(sources: Path, tmp_path: Path) -> None:
    repo = tmp_path / "lcm-lora-sdv1-5"
    repo.mkdir()
    shutil.copy(sources / "style.safetensors", repo / "pytorch_lora_weights.safetensors")
    (repo / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    out = tmp_path / "out"
    _convert(out, str(sources / "sd15"), "--lora", str(repo))
    manifest = json.loads((out / "hubpub.json").read_bytes())
    assert manifest["scheduler"] == "LCM"
    assert manifest["scheduler_config"]["beta_schedule"] == "scaled_linear", "the rest is the model's"
    assert manifest["drawing"] == {"steps": 4, "guidance": 1.0}
    assert manifest["card"]["license"] == "cc-by-nc-4.0", "the strictest"
    (repo / "README.md").write_text("---\nlicense: cc-by-nc-nd-4.0\n---\n")
    said = _hubpub(
        None, "convert", str(sources / "sd15"), "--lora", str(repo), "-o", str(tmp_path / "no"), *FAST, status=3
    )
    assert "does not allow to publish changed forms" in " ".join(said.split())
    assert not (tmp_path / "no").exists()


def test_settings_of_peft_beside_the_file_are_not_passed_over(sources: Path, tmp_path: Path) -> None:
    repo = tmp_path / "peft-lora"
    repo.mkdir()
    shutil.copy(sources / "style.safetensors", repo / "adapter_model.safetensors")
    (repo / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4, "use_dora": false}')
    words = ["plan", str(sources / "sd15"), "--lora", str(repo), *FAST]
    _hubpub(None, *words)
    (repo / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    assert "a scale of its own" in " ".join(_hubpub(None, *words, status=3).split())


def test_the_text_of_a_licence_travels(sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources / "sd15", source)
    (source / "README.md").write_text("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE.md\n---\n")
    (source / "LICENSE.md").write_text("You may.")
    out = tmp_path / "out"
    _, manifest = _convert(out, str(source))
    assert (out / "LICENSE.md").read_text() == "You may."
    assert manifest["card"]["license_name"] == "mine"
    assert manifest["card"]["license_link"] == "LICENSE.md"
    assert "LICENSE.md" in {file["path"] for file in manifest["files"]}


def test_a_plan_names_all_sources(sources: Path) -> None:
    more = ["--lora", f"{sources / 'style.safetensors'}@0.5", "--vae", str(sources / "vae-ldm.safetensors")]
    said = _hubpub(None, "plan", str(sources / "sd15"), *more, *FAST)
    assert "  vae: local/vae-ldm\n" in said
    assert "  lora: local/style at scale 0.5\n" in said


def test_a_plan_says_what_is_passed_over(sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(sources / "sd15", source)
    weights = source / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    config = json.loads((source / "unet" / "config.json").read_bytes())
    (source / "unet" / "config.json").write_text(json.dumps({**config, "decay": 0.9999, "use_ema": True}))
    said = _hubpub(None, "plan", str(source), *FAST, "--json")
    [plan], _ = json.JSONDecoder().raw_decode(said[said.index("[\n") :])
    assert any("diffusion_pytorch_model.fp16.safetensors" in notice for notice in plan["notices"])
    assert any("decay, use_ema" in notice for notice in plan["notices"])
