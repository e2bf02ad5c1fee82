"""Rules of the apps that read published models."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hubpub
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.values import string_value, tensor_type
from hubpub.release.findings import Finding
from hubpub.release.lint import lint_folder, lint_names, lint_swift_loader, lint_zip, lint_zip_names, lint_zip_url
from hubpub.release.mochi import MochiView, mochi_view
from hubpub.steps import Archive
from tests.support.mil_models import ARRAY, block, const, feature, function, model, operation, save_package

FP16 = schema.FLOAT16


def component(inputs: dict[str, tuple[int, ...]], *, einsum: bool = False) -> schema.Model:
    """A program with the inputs of a component; its output is its first input, through one operation."""
    first = next(iter(inputs))
    kinds = {name: tensor_type(FP16, shape) for name, shape in inputs.items()}
    out = kinds[first]
    if einsum:
        equation = const("equation", string_value("bchq,bkhc->bkhq"))
        last = operation("einsum", {"out": out}, {"values": [first, first], "equation": "equation"})
        operations = [equation, last]
    else:
        operations = [operation("relu", {"out": out}, {"x": first})]
    return model(
        {"main": function(block(operations, ["out"]), opset="CoreML6", **kinds)},
        spec=7,
        inputs=[feature(name, shape, dtype=ARRAY.FLOAT16) for name, shape in inputs.items()],
        outputs=[feature("out", inputs[first], dtype=ARRAY.FLOAT16)],
    )


UNET = {"sample": (2, 4, 64, 96), "timestep": (2,), "encoder_hidden_states": (2, 768, 1, 77)}
COMPONENTS = {
    "TextEncoder": {"input_ids": (1, 77)},
    "Unet": UNET,
    "VAEDecoder": {"z": (1, 4, 64, 96)},
    "VAEEncoder": {"x": (1, 3, 512, 768)},
    "SafetyChecker": {"clip_input": (1, 3, 224, 224)},
}


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    """A folder as apps want it, of tiny models, with split attention."""
    folder = tmp_path / "coreml-toy_split_einsum_v2_compiled"
    folder.mkdir()
    for name, inputs in COMPONENTS.items():
        source = save_package(tmp_path / f"{name}.mlpackage", component(inputs, einsum=name == "Unet"))
        hubpub.compile_package(source, folder)
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def reader(folder: Path) -> tuple[list[str], Callable[[str, int], bytes]]:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return names, lambda name, limit: (folder / name).read_bytes()[:limit]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document[0])
    path.write_text(json.dumps(document))


# What each reader makes of our bundles -----------------------------------------------------------------------------


def test_nothing_to_say_of_our_own_bundles(resources: Path) -> None:
    assert lint_folder(resources, attention="split_einsum_v2") == ()


def test_mochi_diffusion_reads_our_bundles(resources: Path) -> None:
    """`[[String: String]]` schemas, `Ios16.einsum` for split attention, the size from the VAE's encoder."""
    assert mochi_view(*reader(resources)) == MochiView(attention="split_einsum", xl=False, width=768, height=512)
    document = json.loads((resources / "Unet.mlmodelc/metadata.json").read_text())
    assert all(isinstance(value, str) for entry in document[0]["inputSchema"] for value in entry.values())
    assert document[0]["mlProgramOperationTypeHistogram"] == {"Ios16.einsum": 1}


def test_mochi_diffusion_tells_original_attention_and_xl(resources: Path, tmp_path: Path) -> None:
    inputs = UNET | {"time_ids": (12,), "text_embeds": (2, 1280)}
    source = save_package(tmp_path / "plain" / "Unet.mlpackage", component(inputs))
    hubpub.compile_package(source, resources)
    assert mochi_view(*reader(resources)) == MochiView(attention="original", xl=True, width=768, height=512)
    assert [finding.sentence for finding in lint_folder(resources, attention="split_einsum")] == [
        "Mochi Diffusion treats this split_einsum model as original: it lacks Ios16.einsum."
    ]
    assert lint_folder(resources, attention="original") == ()


def test_apples_python_pipeline_reads_our_bundles(resources: Path) -> None:
    """Its shapes are Python literals in a string, its types numpy's in capitals."""
    config = json.loads((resources / "Unet.mlmodelc/metadata.json").read_text())[0]
    expected = {
        entry["name"]: (tuple(ast.literal_eval(entry["shape"])), np.dtype(entry["dataType"].lower()))
        for entry in config["inputSchema"]
    }
    assert expected == {name: (shape, np.dtype(np.float16)) for name, shape in UNET.items()}
    assert {path.suffix for path in resources.iterdir() if path.is_dir()} == {".mlmodelc"}


def test_swift_coreml_diffusers_finds_our_archive(resources: Path, tmp_path: Path) -> None:
    """It asks for <repo>_<variant>.zip, unzips it into its models folder, and opens the folder of the zip's stem."""
    inputs = {path.name: path for path in resources.iterdir()}
    Archive(stem=resources.name).run(inputs, tmp_path)
    path = (tmp_path / "archive.zip").rename(tmp_path / f"{resources.name}.zip")
    assert list(lint_zip_url(path.name, repo_id="me/coreml-toy")) == []
    assert lint_zip(path, attention="split_einsum_v2") == ()
    models = tmp_path / "models"
    with zipfile.ZipFile(path) as opened:
        opened.extractall(models)
    assert [one.name for one in models.iterdir()] == [path.stem]
    assert lint_folder(models / path.stem) == ()


# The rules of each app ---------------------------------------------------------------------------------------------


def errors(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {finding.path: finding.sentence for finding in findings if finding.severity == "error"}


@pytest.mark.parametrize(
    "name", ["TextEncoder.mlmodelc", "Unet.mlmodelc", "VAEDecoder.mlmodelc", "vocab.json", "merges.txt"]
)
def test_what_the_swift_package_needs(resources: Path, name: str) -> None:
    (resources / name).rename(resources.parent / "elsewhere")
    assert "missing" in errors(lint_folder(resources))[name]


def test_what_the_swift_package_does_without(resources: Path) -> None:
    names = [name for name in reader(resources)[0] if not name.startswith(("VAEEncoder", "SafetyChecker"))]
    assert [(finding.severity, finding.path) for finding in lint_swift_loader(names)] == [
        ("warning", "VAEEncoder.mlmodelc"),
        ("note", "SafetyChecker.mlmodelc"),
    ]


def test_chunks_come_in_pairs(resources: Path) -> None:
    (resources / "Unet.mlmodelc").rename(resources / "UnetChunk1.mlmodelc")
    assert "both" in errors(lint_folder(resources))["UnetChunk1.mlmodelc"]
    names = ["UnetChunk1.mlmodelc/model.mil", "UnetChunk2.mlmodelc/model.mil", "Unet.mlmodelc/model.mil"]
    assert any("never loaded" in finding.sentence for finding in lint_swift_loader(names))


def test_the_second_text_encoder_is_enough(resources: Path) -> None:
    names = [name.replace("TextEncoder.", "TextEncoder2.") for name in reader(resources)[0]]
    assert list(lint_swift_loader(names)) == []


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["original/compiled/Unet.mlmodelc/model.mil"], "must hold one folder, a"),
        (["a/Unet.mlmodelc/model.mil", "__MACOSX/a"], "but holds __MACOSX, a"),
        (["a/Resources/Unet.mlmodelc/model.mil"], "directly in a"),
        (["a/Unet.mlmodelc/model.mil", "a/Unet.mlmodelc/model.mil"], "twice"),
        ([], "holds nothing"),
    ],
)
def test_archives_that_the_app_cannot_open(names: list[str], says: str) -> None:
    assert any(says in finding.sentence for finding in lint_zip_names(names, zip_name="a.zip"))


def test_archives_must_be_where_the_app_looks() -> None:
    for name in ("original/x.zip", "coreml-toy_original.zip", "coreml-other_original_compiled.zip"):
        assert len(list(lint_zip_url(name, repo_id="me/coreml-toy"))) == 1


def test_a_file_that_is_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>404</html>")
    assert "cannot be read" in errors(lint_zip(tmp_path / "a.zip"))["a.zip"]


@pytest.mark.parametrize(
    "name", [".DS_Store", "a/.DS_Store", "__MACOSX/._a", "a/._b", "Thumbs.db", "../a", "/etc/x", "a/../../b", "a\\b"]
)
def test_junk_and_unsafe_names(name: str) -> None:
    assert len(list(lint_names([name, "fine/model.mil", "a..b/c"]))) == 1


def test_pointers_in_place_of_files(resources: Path) -> None:
    (resources / "Unet.mlmodelc/coremldata.bin").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    findings = errors(lint_folder(resources))
    assert findings == {"Unet.mlmodelc/coremldata.bin": "This is a git-LFS pointer, not the file itself."}


def test_metadata_of_another_model(resources: Path) -> None:
    path = resources / "VAEDecoder.mlmodelc/metadata.json"
    path.write_bytes((resources / "Unet.mlmodelc/metadata.json").read_bytes())
    assert "another model" in errors(lint_folder(resources))["VAEDecoder.mlmodelc/metadata.json"]
    edit(path, lambda one: one["inputSchema"].clear())
    assert "another model" in errors(lint_folder(resources))["VAEDecoder.mlmodelc/metadata.json"]


def test_metadata_that_counts_other_operations(resources: Path) -> None:
    edit(resources / "VAEDecoder.mlmodelc/metadata.json", lambda one: one["mlProgramOperationTypeHistogram"].clear())
    findings = lint_folder(resources)
    assert [(finding.severity, finding.path) for finding in findings] == [("note", "VAEDecoder.mlmodelc/metadata.json")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: one["inputSchema"][0].update(isOptional=0), "isOptional of the input sample is not a string"),
        (lambda one: one.update(mlProgramOperationTypeHistogram={"Ios16.conv": "3"}), "not a table of numbers"),
        (lambda one: one.update(mlProgramOperationTypeHistogram={"Ios16.conv": True}), "not a table of numbers"),
        (lambda one: one.pop("inputSchema"), "not a list of objects"),
    ],
    ids=["number", "text", "truth", "missing"],
)
def test_metadata_that_mochi_diffusion_cannot_decode(
    resources: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = "Unet.mlmodelc/metadata.json"
    edit(resources / path, change)
    assert any(says in finding.sentence and finding.path == path for finding in lint_folder(resources))
    assert mochi_view(*reader(resources)) is None


def test_image_sizes_that_mochi_diffusion_cannot_read(resources: Path) -> None:
    path = "VAEEncoder.mlmodelc/metadata.json"
    edit(resources / path, lambda one: one["inputSchema"][0].update(shape="[]"))
    assert any("reads the image size" in finding.sentence for finding in lint_folder(resources) if finding.path == path)
    view = mochi_view(*reader(resources))
    assert view is not None
    assert view.width is None


@pytest.mark.parametrize("change", [{"shape": "[2, ?]"}, {"shape": 3}, {"dataType": "BFloat16"}])
def test_inputs_that_apples_python_pipeline_cannot_read(resources: Path, change: dict[str, object]) -> None:
    path = "TextEncoder.mlmodelc/metadata.json"
    edit(resources / path, lambda one: one["inputSchema"][0].update(change))
    assert any(
        "Apple's Python pipeline cannot read" in finding.sentence
        for finding in lint_folder(resources)
        if finding.path == path
    )


def test_packages_beside_bundles(resources: Path) -> None:
    (resources / "Unet.mlpackage").mkdir()
    (resources / "Unet.mlpackage/Manifest.json").write_text("{}")
    assert any("packages and bundles" in finding.sentence for finding in lint_folder(resources))


def test_bundles_that_are_not_whole(resources: Path) -> None:
    (resources / "Unet.mlmodelc/model.mil").write_text("program(1.0)\n")
    (resources / "TextEncoder.mlmodelc/coremldata.bin").unlink()
    (resources / "VAEDecoder.mlmodelc/metadata.json").unlink()
    (resources / "VAEEncoder.mlmodelc/analytics/coremldata.bin").unlink()
    findings = {finding.path: finding.sentence for finding in lint_folder(resources)}
    assert "line 2" in findings["Unet.mlmodelc"]
    assert "no coremldata.bin" in findings["TextEncoder.mlmodelc"]
    assert "missing" in findings["VAEDecoder.mlmodelc/metadata.json"]
    assert "source package" in findings["VAEEncoder.mlmodelc/analytics/coremldata.bin"]


def test_weights_that_are_not_there(resources: Path, shared: Path) -> None:
    apples = next((shared / "fixtures/mlmodelc/unified_int8").glob("*.mlmodelc"))
    target = resources / "controlnet" / "Any.mlmodelc"
    for name in ("model.mil", "coremldata.bin", "metadata.json", "analytics/coremldata.bin"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((apples / name).read_bytes())
    findings = errors(lint_folder(resources))
    assert findings == {"controlnet/Any.mlmodelc/weights/weight.bin": "It is missing. The model's text refers to it."}
