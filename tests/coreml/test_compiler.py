"""Compiling a package: what is refused, what is marked, and that nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hubpub
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.bundle import belongs, read_bundle, read_bundle_files
from hubpub.coreml.compiler import compile_bundle
from hubpub.coreml.package import MODEL, WEIGHT_BIN, serialize
from hubpub.coreml.values import tensor_type, tensor_value
from hubpub.errors import BadPackage, CannotWrite, ConfigError, HubpubError, ModelError, NoSpace, UnsupportedOps
from hubpub.files import copies
from hubpub.steps import Compile
from tests.support.mil_models import (
    ARRAY,
    blob_value,
    block,
    const,
    feature,
    function,
    model,
    operation,
    save_package,
    tiny,
    weighted,
    weighted_package,
)

FP16, FP32 = schema.FLOAT16, schema.FLOAT32


def refused(package: Path, dest: Path) -> HubpubError:
    """The error of compiling `package`; whatever it is, it leaves nothing behind."""
    with pytest.raises(ModelError) as caught:
        hubpub.compile_package(package, dest)
    assert not dest.exists() or list(dest.iterdir()) == []
    assert "\n" not in caught.value.message
    return caught.value


# What Core ML allows and the portable compiler does not do ---------------------------------------------------------


def _image(source: schema.Model) -> None:
    source.description.input[0].type.imageType.width = 8


def _enumerated(source: schema.Model) -> None:
    source.description.input[0].type.multiArrayType.enumeratedShapes.shapes.add(shape=[2])


def _unbounded(source: schema.Model) -> None:
    source.description.input[0].type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=1, upperBound=-1)


def _state(source: schema.Model) -> None:
    source.description.state.add(name="cache").type.stateType.arrayType.shape.append(1)


def _classifier(source: schema.Model) -> None:
    source.description.predictedFeatureName = "label"


def _network(source: schema.Model) -> None:
    source.neuralNetwork = b""


def _pipeline(source: schema.Model) -> None:
    source.pipeline = b""


def _updatable(source: schema.Model) -> None:
    source.isUpdatable = True


def _old(source: schema.Model) -> None:
    source.specificationVersion = 5


def _new(source: schema.Model) -> None:
    source.specificationVersion = 10


def _opset(source: schema.Model) -> None:
    source.mlProgram.functions["main"].opset = "CoreML9"


def _attribute(source: schema.Model) -> None:
    source.mlProgram.attributes["other"].CopyFrom(tensor_value(["x"], schema.STRING))


def _dictionary(source: schema.Model) -> None:
    source.description.output[0].type.dictionaryType.stringKeyType.SetInParent()


def _unknown_field(source: schema.Model) -> None:
    source.MergeFromString(b"\x98\x06\x01")  # field 99, a number


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_image, "an image"),
        (_enumerated, "enumerated shapes for x"),
        (_unbounded, "without an upper bound"),
        (_state, "has states"),
        (_classifier, "a classifier"),
        (_network, "neural network"),
        (_pipeline, "pipeline"),
        (_updatable, "updatable"),
        (_old, "specification version 5"),
        (_new, "specification version 10"),
        (_opset, "CoreML9"),
        (_attribute, "attribute other"),
        (_dictionary, "dictionary type"),
        (_unknown_field, "newer Core ML format"),
    ],
)
def test_what_is_not_known_is_named_and_left_to_xcode(
    change: Callable[[schema.Model], None], names: str, tmp_path: Path
) -> None:
    source = tiny()
    change(source)
    error = refused(save_package(tmp_path / "m.mlpackage", source), tmp_path / "out")
    assert isinstance(error, UnsupportedOps)
    assert names in error.message
    assert "Xcode" in error.hint


def test_all_that_is_not_known_is_named_at_once(tmp_path: Path) -> None:
    source = tiny()
    _enumerated(source)
    _classifier(source)
    error = refused(save_package(tmp_path / "m.mlpackage", source), tmp_path / "out")
    assert isinstance(error, UnsupportedOps)
    assert len(error.ops) == 2


# Packages that are not whole ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_truncated_model_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = serialize(weighted())
    size = data.draw(st.integers(0, len(whole) - 1))
    folder = tmp_path_factory.mktemp("truncated")
    package = save_package(folder / "m.mlpackage", whole[:size], [(FP16, np.zeros(8, np.float16))])
    refused(package, folder / "out")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_model_is_compiled_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(serialize(weighted()))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    package = save_package(folder / "m.mlpackage", bytes(raw), [(FP16, np.zeros(8, np.float16))])
    try:
        bundle = hubpub.compile_package(package, folder / "out")
    except ModelError:
        assert not (folder / "out").exists() or list((folder / "out").iterdir()) == []
    else:
        assert read_bundle(bundle).program.functions


def test_a_missing_weight_file_is_refused(tmp_path: Path) -> None:
    package = weighted_package(tmp_path / "m.mlpackage")
    (package / WEIGHT_BIN).unlink()
    assert "missing" in refused(package, tmp_path / "out").message


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[:64], "outside"),
        (lambda raw: raw[:130], "truncated"),
        (lambda raw: b"", "cannot be read"),
        (lambda raw: b"version https://git-lfs.github.com/spec/v1\n" + raw, "storage version"),
        (lambda raw: raw[:64] + bytes(64) + raw[128:], "no blob"),
    ],
)
def test_a_damaged_weight_file_is_refused(damage: Callable[[bytes], bytes], says: str, tmp_path: Path) -> None:
    package = weighted_package(tmp_path / "m.mlpackage")
    path = package / WEIGHT_BIN
    path.write_bytes(damage(path.read_bytes()))
    assert says in refused(package, tmp_path / "out").message


@pytest.mark.parametrize(("offset", "says"), [(1 << 40, "outside"), (65, "outside"), (128, "no blob")])
def test_blob_offsets_are_checked(offset: int, says: str, tmp_path: Path) -> None:
    blobs = [(FP16, np.zeros(8, np.float16))]
    package = save_package(tmp_path / "m.mlpackage", weighted(offset=offset), [*blobs, *blobs])
    assert says in refused(package, tmp_path / "out").message


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    package = save_package(tmp_path / "m.mlpackage", weighted(rows=8), [(FP16, np.zeros(9, np.float16))])
    assert "18 bytes of fp16; the model declares 16 bytes of fp16" in refused(package, tmp_path / "out").message
    package = save_package(tmp_path / "n.mlpackage", weighted(rows=8), [(schema.INT16, np.zeros(8, np.int16))])
    assert "of int16; the model declares" in refused(package, tmp_path / "out").message


@pytest.mark.parametrize(
    "file",
    [
        "@model_path/../secret",
        "@model_path/weights/../../secret",
        "/etc/passwd",
        "weights/weight.bin",
        "",
        "@model_path/x",
    ],
)
def test_weights_outside_the_package_are_refused(file: str, tmp_path: Path) -> None:
    source = weighted()
    body = source.mlProgram.functions["main"].block_specializations["CoreML6"]
    body.operations[0].attributes["val"].blobFileValue.fileName = file
    package = save_package(tmp_path / "m.mlpackage", source, [(FP16, np.zeros(8, np.float16))])
    (tmp_path / "m.mlpackage/Data/secret").write_bytes((package / WEIGHT_BIN).read_bytes())
    assert "not in the package's weights folder" in refused(package, tmp_path / "out").message


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a b", "1a", "", "é", "tensor", "state", "x.y", "int32"])
def test_names_that_the_text_cannot_hold_are_refused(name: str, tmp_path: Path) -> None:
    package = save_package(tmp_path / "m.mlpackage", tiny(operations=[const(name, tensor_value([1], schema.INT32))]))
    error = refused(package, tmp_path / "out")
    assert isinstance(error, BadPackage)
    assert repr(name) in error.message


def test_cyclic_programs_are_refused(tmp_path: Path) -> None:
    kind = tensor_type(FP32, (2,))
    loop = operation("relu", {"a": kind}, {"x": "a"})
    error = refused(save_package(tmp_path / "m.mlpackage", tiny(operations=[loop])), tmp_path / "out")
    assert "before anything computes it" in error.message


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (const("w", tensor_value([1], schema.INT32)), "twice"),
        (operation("const", {"c": tensor_type(schema.INT32)}), "without a value"),
        (operation("relu", {"r": tensor_type(FP32)}, {"x": []}), "is empty"),
        (operation("print", {}, {"x": "x"}), "without a result"),
        (operation("re lu", {"r": tensor_type(FP32)}, {"x": "x"}), "'re lu'"),
        (const("c", blob_value(schema.STRING, (1,), 64)), "not a numeric tensor"),
    ],
)
def test_inconsistent_programs_are_refused(extra: schema.Operation, says: str, tmp_path: Path) -> None:
    error = refused(save_package(tmp_path / "m.mlpackage", tiny(operations=[extra])), tmp_path / "out")
    assert says in error.message


def test_values_of_a_nested_block_stay_in_it(tmp_path: Path) -> None:
    kind = tensor_type(FP32, (2,))
    inner = operation(
        "cond", {"c": kind}, {"pred": "x"}, blocks=[block([const("i", tensor_value([1.0], FP32))], ["i"])]
    )
    after = operation("relu", {"r": kind}, {"x": "i"})
    error = refused(save_package(tmp_path / "m.mlpackage", tiny(operations=[inner, after])), tmp_path / "out")
    assert "'i' before anything computes it" in error.message


def test_a_description_of_another_program_is_refused(tmp_path: Path) -> None:
    for number, change in enumerate(("input", "output")):
        source = tiny()
        getattr(source.description, change)[0].name = "other"
        error = refused(save_package(tmp_path / f"{number}.mlpackage", source), tmp_path / "out")
        assert f"disagree about the {change}s" in error.message


def test_an_open_size_needs_a_range(tmp_path: Path) -> None:
    source = tiny()
    source.mlProgram.functions["main"].inputs[0].type.CopyFrom(tensor_type(FP32, (None,)))
    error = refused(save_package(tmp_path / "m.mlpackage", source), tmp_path / "out")
    assert "neither fixed nor given as a range" in error.message


def test_no_package_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.mlpackage").write_text("x")
    (tmp_path / "empty.mlpackage").mkdir()
    for name in ("missing.mlpackage", "file.mlpackage", "empty.mlpackage"):
        assert isinstance(refused(tmp_path / name, tmp_path / "out"), BadPackage)


def test_protobuf_nested_without_end_is_refused(tmp_path: Path) -> None:
    value = tensor_value([1], schema.INT32)
    for _ in range(200):
        outer = schema.Value()
        outer.immediateValue.list.values.add().CopyFrom(value)
        value = outer
    source = tiny()
    source.mlProgram.functions["main"].block_specializations["CoreML6"].operations[0].attributes["val"].CopyFrom(value)
    assert "cannot be parsed" in refused(save_package(tmp_path / "m.mlpackage", source), tmp_path / "out").message


# What is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "form"), [(6, 5), (7, 5), (8, 8), (9, 9)])
def test_every_specification_version(spec: int, form: int, tmp_path: Path) -> None:
    bundle = hubpub.compile_package(save_package(tmp_path / "m.mlpackage", tiny(spec=spec)), tmp_path)
    data = (bundle / "coremldata.bin").read_bytes()
    assert int.from_bytes(data[4:12], "little") == form
    assert int.from_bytes(data[0x2B:0x33], "little") == spec
    read = read_bundle(bundle)
    assert read.spec_version == spec
    assert (bundle / "model.mil").read_text().startswith(f"program({'1.3' if spec == 9 else '1.0'})")
    assert f"func main<ios{spec + 9}>" in (bundle / "model.mil").read_text()
    assert read.metadata is not None
    assert read.metadata["availability"]["iOS"] == f"{spec + 9}.0"
    assert (bundle / "analytics/coremldata.bin").stat().st_size == 243


def test_metadata_names_the_package(tmp_path: Path) -> None:
    source = tiny()
    source.description.metadata.author = "Ada"
    source.description.metadata.versionString = "2"
    source.description.metadata.userDefined["key/with"] = "ü\n"
    package = save_package(tmp_path / "Stable_Diffusion_version_a_b-v1.5_unet.mlpackage", source)
    document = json.loads((hubpub.compile_package(package, tmp_path) / "metadata.json").read_text(encoding="utf-8"))
    assert len(document) == 1
    assert document[0]["generatedClassName"] == "Stable_Diffusion_version_a_b_v1_5_unet"
    assert document[0]["author"] == "Ada"
    assert document[0]["version"] == "2"
    assert document[0]["userDefinedMetadata"] == {"key/with": "ü\n"}
    assert "license" not in document[0]
    assert "shortDescription" not in document[0]


def test_the_order_of_maps_in_the_source_does_not_matter(tmp_path: Path) -> None:
    bundles = []
    for name, keys in (("a", "pqr"), ("b", "rqp")):
        source = tiny()
        for key in keys:
            source.description.metadata.userDefined[key] = key
        package = save_package(tmp_path / name / "m.mlpackage", source.SerializeToString())
        bundles.append(hubpub.compile_package(package, tmp_path / name))
    assert (bundles[0] / "coremldata.bin").read_bytes() == (bundles[1] / "coremldata.bin").read_bytes()


def test_what_was_never_compared_is_marked(tmp_path: Path) -> None:
    kind = tensor_type(FP32, (2,))
    nested = operation("cond", {"c": kind}, {"pred": "x"}, blocks=[block([], ["x"]), block([], ["x"])])
    new = operation("constexpr_blockwise_shift_scale", {"d": kind}, {"data": tensor_value([1, 2], schema.INT4, (2,))})
    source = tiny(spec=9, operations=[nested, new, const("n", tensor_value([float("nan")], FP16))])
    source.description.input[0].type.multiArrayType.dataType = ARRAY.DOUBLE
    package = save_package(tmp_path / "m.mlpackage", source)
    assert compile_bundle(package, tmp_path / "m.mlmodelc", stem="m").unverified == (
        "inline values of type int4",
        "literals for infinity, not-a-number or negative zero",
        "nested blocks",
        "the compression operations of iOS 18",
        "the histogram keys Ios18.cond in metadata.json",
        "the name of Double arrays in metadata.json",
    )
    plain = save_package(tmp_path / "n.mlpackage", tiny())
    assert compile_bundle(plain, tmp_path / "n.mlmodelc", stem="n").unverified == ()


def test_storage_precision_counts_weights_only(tmp_path: Path) -> None:
    kind = tensor_type(FP16, (8,))
    palette = operation(
        "constexpr_lut_to_dense",
        {"p": kind},
        attributes={
            "indices": blob_value(schema.UINT8, (4,), 64),
            "lut": tensor_value([float(n) for n in range(16)], FP16, (16,)),
            "shape": tensor_value([8], schema.UINT32, (1,)),
        },
    )
    new_palette = operation(
        "constexpr_lut_to_dense",
        {"q": kind},
        {"indices": blob_value(schema.UINT6, (8,), 192), "lut": blob_value(FP16, (1, 64, 1), 320)},
    )
    body = block([palette, new_palette, operation("add", {"y": kind}, {"x": "x", "y": "p"})], ["y"])
    source = model(
        {"main": function(body, opset="CoreML8", x=kind)},
        inputs=[feature("x", (8,), dtype=ARRAY.FLOAT16)],
        outputs=[feature("y", (8,), dtype=ARRAY.FLOAT16)],
    )
    blobs = [
        (schema.UINT8, np.zeros(4, np.uint8)),
        (schema.UINT6, np.zeros(6, np.uint8)),
        (FP16, np.zeros(64, np.float16)),
    ]
    bundle = hubpub.compile_package(save_package(tmp_path / "m.mlpackage", source, blobs), tmp_path)
    assert read_bundle(bundle).storage_precision == "Mixed (Palettized (4 bits), Palettized (6 bits))"
    assert read_bundle(bundle).compute_precision == "Float16"


def test_optional_inputs_are_marked(tmp_path: Path) -> None:
    source = tiny()
    source.description.input[0].type.isOptional = True
    bundle = hubpub.compile_package(save_package(tmp_path / "m.mlpackage", source), tmp_path)
    assert json.loads((bundle / "metadata.json").read_text())[0]["inputSchema"][0]["isOptional"] == "1"


# On the disk -------------------------------------------------------------------------------------------------------


def test_weights_are_copies_unless_links_are_asked_for(tmp_path: Path) -> None:
    package = weighted_package(tmp_path / "m.mlpackage")
    copied = compile_bundle(package, tmp_path / "copied.mlmodelc", stem="m").bundle / "weights/weight.bin"
    assert copied.read_bytes() == (package / WEIGHT_BIN).read_bytes()
    assert not copied.samefile(package / WEIGHT_BIN)
    linked = compile_bundle(package, tmp_path / "linked.mlmodelc", stem="m", link_weights=True).bundle
    assert (linked / "weights/weight.bin").samefile(package / WEIGHT_BIN)


def test_a_link_to_the_weights_is_followed(tmp_path: Path) -> None:
    """The Hub client's cache keeps files behind links."""
    package = weighted_package(tmp_path / "m.mlpackage")
    blob = (package / WEIGHT_BIN).rename(tmp_path / "blob")
    (package / WEIGHT_BIN).symlink_to(blob)
    for link in (False, True):
        weight = compile_bundle(package, tmp_path / f"{link}.mlmodelc", stem="m", link_weights=link).bundle
        assert not (weight / "weights/weight.bin").is_symlink()
        assert (weight / "weights/weight.bin").read_bytes() == blob.read_bytes()


def test_weights_are_copied_where_the_system_cannot_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = weighted_package(tmp_path / "m.mlpackage")
    monkeypatch.setattr(copies, "_clone", lambda source, target: False)
    bundle = hubpub.compile_package(package, tmp_path)
    assert (bundle / "weights/weight.bin").read_bytes() == (package / WEIGHT_BIN).read_bytes()


def test_a_former_bundle_is_replaced_as_a_whole(tmp_path: Path) -> None:
    first = hubpub.compile_package(weighted_package(tmp_path / "a" / "m.mlpackage"), tmp_path / "out")
    second = hubpub.compile_package(save_package(tmp_path / "b" / "m.mlpackage", tiny()), tmp_path / "out")
    assert first == second
    assert not (second / "weights").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.mlmodelc"]


def test_a_former_bundle_stays_when_compiling_fails(tmp_path: Path) -> None:
    package = weighted_package(tmp_path / "m.mlpackage")
    bundle = hubpub.compile_package(package, tmp_path / "out")
    before = (bundle / "model.mil").read_bytes()
    (package / MODEL).write_bytes(b"broken")
    with pytest.raises(BadPackage):
        hubpub.compile_package(package, tmp_path / "out")
    assert (bundle / "model.mil").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.mlmodelc"]


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    package = save_package(tmp_path / "m.mlpackage", tiny())
    (tmp_path / "m.mlmodelc").mkdir()
    (tmp_path / "m.mlmodelc/thesis.txt").write_text("years of work")
    with pytest.raises(CannotWrite, match="in the way"):
        hubpub.compile_package(package, tmp_path)
    assert (tmp_path / "m.mlmodelc/thesis.txt").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/m.mlmodelc").symlink_to(tmp_path)
    with pytest.raises(CannotWrite, match="in the way"):
        hubpub.compile_package(package, tmp_path / "out")


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EACCES, CannotWrite)])
def test_disk_errors_are_reported(
    number: int, kind: type[HubpubError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: Path, target: Path, *, link: bool) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("hubpub.coreml.compiler.place", fail)
    with pytest.raises(kind):
        hubpub.compile_package(weighted_package(tmp_path / "m.mlpackage"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_compiler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no compiler 'gcc'"):
        hubpub.compile_package(tmp_path, tmp_path, compiler="gcc")  # type: ignore[arg-type]


# Reading back, and the step ----------------------------------------------------------------------------------------


def test_a_bundle_without_its_extras_can_be_read(tmp_path: Path) -> None:
    package = save_package(tmp_path / "m.mlpackage", tiny())
    bundle = hubpub.compile_package(package, tmp_path)
    small = {name: (bundle / name).read_bytes() for name in ("model.mil", "coremldata.bin")}
    read = read_bundle_files(small, name="remote")
    assert (read.model_hash, read.metadata) == ("", None)
    assert not belongs(read, package)
    with pytest.raises(BadPackage, match=r"no coremldata\.bin"):
        read_bundle_files({"model.mil": small["model.mil"]}, name="remote")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_small_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("small")
    bundle = hubpub.compile_package(save_package(folder / "m.mlpackage", tiny()), folder)
    names = ["model.mil", "coremldata.bin", "analytics/coremldata.bin", "metadata.json"]
    small = {name: (bundle / name).read_bytes() for name in names}
    name = data.draw(st.sampled_from(names))
    raw = bytearray(small[name][: data.draw(st.integers(0, len(small[name])))])
    if raw and data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ModelError):
        read_bundle_files(small | {name: bytes(raw)}, name="remote")


def test_the_step_writes_one_bundle_and_names_its_compiler(tmp_path: Path) -> None:
    package = weighted_package(tmp_path / "model.mlpackage")
    out = tmp_path / "out"
    out.mkdir()
    step = Compile(component="unet", attention=None, stem="Some-Name_unet", compiler="portable", by="0")
    measured = step.run({"package": package}, out)
    assert [path.name for path in out.iterdir()] == ["model.mlmodelc"]
    assert measured.pop("seconds") >= 0
    assert measured == {"compiler": "portable", "compiler_version": hubpub.__version__, "unverified": []}
    document = json.loads((out / "model.mlmodelc/metadata.json").read_text())[0]
    assert document["generatedClassName"] == "Some_Name_unet"
    assert (out / "model.mlmodelc/weights/weight.bin").samefile(package / WEIGHT_BIN)
