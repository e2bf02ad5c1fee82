"""weights and package: tensors once, programs over them; compared with the source and with coremltools."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hubpub.checkpoints import open_checkpoint
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import MANIFEST, MODEL, WEIGHT_BIN, read_model
from hubpub.coreml.program import main_block
from hubpub.coreml.weight_file import BlobReader, BlobWriter
from hubpub.coreml.weight_index import FILE, WEIGHT_FILE, WeightIndex
from hubpub.errors import BadPackage, BadWeights
from hubpub.networks import Size
from hubpub.palettize.palette import BITS, palettize, unpack
from hubpub.steps import weights as weights_step
from tests.support.component_bench import SMALL, Bench
from tests.support.sources import Layout

Array = npt.NDArray[Any]
Float16s = npt.NDArray[np.float16]


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    made: dict[str, Bench] = {}

    def bench(component: str) -> Bench:
        if component not in made:
            made[component] = Bench(tmp_path_factory.mktemp(component), component)
        return made[component]

    return bench


def _source(bench: Bench) -> dict[str, Float16s]:
    with open_checkpoint(bench.checkpoint, {"source": bench.source}) as checkpoint:
        return {name: checkpoint.float16(name).copy() for name in checkpoint.tensors()}


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _decoded(package: Path) -> dict[str, Array]:
    """Name of each constant → its values, read by the records of the weight file alone."""
    reader = BlobReader(package / WEIGHT_BIN)
    values: dict[str, Array] = {}
    for operation in main_block(read_model(package)).operations:
        name = operation.outputs[0].name if operation.outputs else ""
        if operation.type == "const" and operation.attributes["val"].WhichOneof("value") == "blobFileValue":
            values[name] = np.array(reader.array(operation.attributes["val"].blobFileValue.offset))
        elif operation.type == "constexpr_lut_to_dense":
            arguments = dict(operation.attributes)
            arguments |= {key: given.arguments[0].value for key, given in operation.inputs.items()}
            table = arguments["lut"]
            if table.WhichOneof("value") == "blobFileValue":
                lut = np.array(reader.array(table.blobFileValue.offset)).reshape(-1)
            else:
                lut = np.frombuffer(table.immediateValue.tensor.bytes.values, np.float16)
            shape = [side.constant.size for side in operation.outputs[0].type.tensorType.dimensions]
            bits = int(lut.size).bit_length() - 1
            packed = reader.read(arguments["indices"].blobFileValue.offset)
            dtype, _, _ = reader.record(arguments["indices"].blobFileValue.offset)
            assert dtype == arguments["indices"].type.tensorType.dataType
            values[name.removesuffix("_palettized")] = lut[unpack(packed, bits, int(np.prod(shape)))]
    return values


# -- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_sixteen_bits_are_the_sources_bits(benches: Callable[[str], Bench], component: str) -> None:
    bench = benches(component)
    folder, report = bench.weights_report(16)
    package = bench.package(folder)
    decoded, source = _decoded(package), _source(bench)
    compared = 0
    for name, values in source.items():
        constant = name.removeprefix("text_model.").replace(".", "_")
        if constant in decoded:
            assert decoded[constant].tobytes() == values.tobytes(), name
            compared += 1
    assert compared > 0.9 * report["weights"]["tensors"]
    assert report["palettized"] == 0


def test_derived_tensors_are_what_the_network_derives(benches: Callable[[str], Bench]) -> None:
    bench = benches("safety_checker")
    decoded, source = _decoded(bench.package(bench.weights(16))), _source(bench)
    concepts = source["concept_embeds"].astype(np.float32)
    expected = (concepts / np.linalg.norm(concepts, axis=-1, keepdims=True)).astype(np.float16)
    assert decoded["concept_embeds"].tobytes() == expected.tobytes()
    assert np.array_equal(decoded["concept_embeds_weights"], -source["concept_embeds_weights"])


@pytest.mark.parametrize("bits", [bits for bits in BITS])
@pytest.mark.parametrize("target", ["macOS13", "macOS15"])
def test_a_palettized_constant_decompresses_to_its_palette(
    benches: Callable[[str], Bench], bits: int, target: str
) -> None:
    bench = benches("text_encoder")
    folder, report = bench.weights_report(bits)
    package = bench.package(folder, target=target)
    decoded, source = _decoded(package), _source(bench)
    palettized = {name for name, _ in report["snr"]}
    assert palettized
    for name in palettized:
        palette = palettize(source[name], bits)
        constant = name.removeprefix("text_model.").replace(".", "_")
        assert np.array_equal(decoded[constant], palette.lut[palette.indices].reshape(-1)), name
    # the table of a gather keeps its bits
    assert not [name for name in palettized if "token_embedding" in name]


def test_one_weight_file_serves_every_attention_size_batch_and_target(benches: Callable[[str], Bench]) -> None:
    bench = benches("unet")
    folder = bench.weights(6)
    expected = _decoded(bench.package(folder))
    for attention in ("original", "split_einsum", "split_einsum_v2"):
        for size, target in (
            (SMALL, "macOS13"),
            (Size(height=40, width=24, batch=1), "macOS14"),
            (Size(height=48, width=64, batch=2), "macOS15"),
        ):
            package = bench.package(folder, attention=attention, size=size, target=target)
            decoded = _decoded(package)
            assert decoded.keys() == expected.keys()
            assert all(np.array_equal(decoded[name], expected[name]) for name in expected)
            same_file = (package / WEIGHT_BIN).samefile(folder / WEIGHT_FILE)
            assert same_file is (target != "macOS15"), "iOS 18 has other records, so it has a copy"


# -- bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 6])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, bits: int) -> None:
    one, two = (Bench(tmp_path / name, "text_encoder") for name in ("a", "b"))
    first, second = one.weights(bits), two.weights(bits)
    assert _bytes(first) == _bytes(second)
    assert _bytes(one.package(first)) == _bytes(two.package(second))


def test_other_weights_are_another_identity_and_the_same_program(tmp_path: Path) -> None:
    one = Bench(tmp_path / "a", "text_encoder")
    first = _bytes(one.package(one.weights(6)))
    path = next(one.source.glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1000:-500] = content[-500:]
    path.write_bytes(content)
    second = _bytes(one.package(one.weights(6)))
    assert first[MODEL.as_posix()] == second[MODEL.as_posix()]
    assert first[MANIFEST.as_posix()] != second[MANIFEST.as_posix()]


def test_metadata_is_what_was_given(benches: Callable[[str], Bench]) -> None:
    bench = benches("vae_encoder")
    metadata = read_model(bench.package(bench.weights(16))).description.metadata
    assert (metadata.author, metadata.license, metadata.versionString) == ("Somebody", "openrail++", "1")
    assert metadata.shortDescription == "For tests"
    assert dict(metadata.userDefined) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("component", ["vae_decoder", "text_encoder"])
def test_every_layout_of_a_source_gives_the_same_weights(tmp_path: Path, component: str) -> None:
    layouts = [
        Layout(),
        Layout(dtype="F32"),
        Layout(shards=3),
        Layout(legacy=True),
        Layout(variant=True, legacy=True),
        Layout(kind="bin"),
        Layout(kind="bin", dtype="F32", legacy=True),
    ]
    made = []
    for number, layout in enumerate(layouts):
        if layout.kind == "bin":
            pytest.importorskip("torch")
        bench = Bench(tmp_path / f"s{number}", component, layout=layout)
        made.append(_bytes(bench.weights(6)))
    assert all(files[WEIGHT_FILE] == made[0][WEIGHT_FILE] for files in made)
    assert all(files[FILE] == made[0][FILE] for files in made)


# -- what is refused -------------------------------------------------------------------------------------------


def _rewritten(bench: Bench, change: Callable[[dict[str, Array]], None]) -> None:
    """Rewrite the source's one safetensors file with `change`d tensors."""
    values: dict[str, Array] = dict(_source(bench))
    change(values)
    header, data = {}, b""
    for name, array in values.items():
        raw = np.ascontiguousarray(array).tobytes()
        dtype = {"float16": "F16", "float32": "F32"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path = next(bench.source.glob("*.safetensors"))
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_missing_unknown_and_misshapen_tensors_are_named_all_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "vae_decoder")

    def change(values: dict[str, Array]) -> None:
        del values["decoder.conv_in.bias"]
        values["decoder.conv_out.bias"] = np.zeros(7, np.float16)
        values["decoder.surprise"] = np.zeros(3, np.float16)

    _rewritten(bench, change)
    with pytest.raises(BadWeights) as caught:
        bench.weights(16)
    for part in (
        "1 of ",
        "tensors are missing (decoder.conv_in.bias)",
        "decoder.conv_out.bias (7,) instead of (3,)",
        "1 tensors are not part of the network (decoder.surprise)",
        "safetensors",
    ):
        assert part in caught.value.message, part
    assert "config.json" in caught.value.hint


def test_what_the_sources_own_library_ignores_is_reported_in_one_line(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "text_encoder")
    extra = [
        "text_model.embeddings.position_ids",
        "text_model.encoder.layers.99.mlp.fc1.bias",
        "vision_model.post_layernorm.bias",
        "visual_projection.weight",
        "logit_scale",
        "model_ema.decay",
    ]
    _rewritten(bench, lambda values: values.update(dict.fromkeys(extra, np.zeros(3, np.float16))))
    _, report = bench.weights_report(16)
    assert report["ignored"] == sorted(extra)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 70000.0])
@pytest.mark.parametrize("bits", [16, 6])
def test_values_that_float16_cannot_hold_are_refused_by_name(tmp_path: Path, bad: float, bits: int) -> None:
    bench = Bench(tmp_path, "text_encoder")

    def change(values: dict[str, Array]) -> None:
        [name] = [one for one in values if one.endswith("layers.0.mlp.fc1.weight")]
        values[name] = values[name].astype(np.float32)
        values[name][3, 3] = bad

    _rewritten(bench, change)
    with pytest.raises(BadWeights, match=r"layers\.0\.mlp\.fc1\.weight of .*\.safetensors"):
        bench.weights(bits)


def test_a_derived_constant_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {**weights_step.TRANSFORMS, "negate": lambda values: values + np.float32("inf")}
    monkeypatch.setattr(weights_step, "TRANSFORMS", broken)
    with pytest.raises(BadWeights, match="special_care_embeds_weights cannot be brought into the form"):
        Bench(tmp_path, "safety_checker").weights(16)


def test_an_index_of_another_network_is_refused(benches: Callable[[str], Bench]) -> None:
    with pytest.raises(BadPackage, match="The weight file holds no "):
        benches("vae_encoder").package(benches("vae_decoder").weights(16))


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    for text in ("", "{}", "[]", '{"format": 9}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(BadPackage, match="not an index of weights"):
            WeightIndex.load(tmp_path)


def test_writing_weights_and_packages_imports_nothing_heavy(benches: Callable[[str], Bench]) -> None:
    program = (
        "import sys; import hubpub.steps, hubpub.plan.planner;"
        "heavy = {'torch', 'coremltools', 'diffusers', 'transformers', 'numba', 'safetensors'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


# -- coremltools -----------------------------------------------------------------------------------------------

# Its models leave their temporary folders to the garbage collector, which warns.
leaves_folders = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.mark.parametrize("sizes", [(1,), (32,), (11, 33), (64, 1000)])
def test_a_weight_file_is_laid_out_as_coremltools_lays_it_out(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    storage = pytest.importorskip("coremltools.libmilstoragepython")
    theirs = storage._BlobStorageWriter(str(tmp_path / "theirs.bin"))
    with BlobWriter(tmp_path / "ours.bin") as ours:
        for size in sizes:
            halves = np.random.default_rng(size).normal(0, 0.05, size).astype(np.float16)
            bytes_ = np.arange(size, dtype=np.uint8)
            assert ours.add(schema.FLOAT16, halves) == theirs.write_fp16_data(halves.view(np.uint16))
            assert ours.add(schema.UINT8, bytes_) == theirs.write_uint8_data(bytes_)
    del theirs  # this is how it closes its file
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()


def _our_palette(bits: int) -> Any:
    def lut_function(weight: Array) -> tuple[Array, Array]:
        palette = palettize(weight, bits)
        return palette.lut, palette.indices.reshape(-1)

    return lut_function


def _constexprs(package: Path) -> Mapping[str, schema.Operation]:
    operations = main_block(read_model(package)).operations
    return {one.outputs[0].name: one for one in operations if one.type.startswith("constexpr")}


@leaves_folders
@pytest.mark.parametrize("target", ["macOS13", "macOS15"])
@pytest.mark.parametrize("bits", [8, 6, 4, 2, 1])
def test_palettized_constants_are_written_as_coremltools_writes_them(
    benches: Callable[[str], Bench], tmp_path: Path, bits: int, target: str
) -> None:
    """coremltools palettizes hubpub's 16-bit package with the same tables: the same operations, the same blobs."""
    ct = pytest.importorskip("coremltools")
    import coremltools.optimize.coreml as cto

    bench = benches("text_encoder")
    model = ct.models.MLModel(str(bench.package(bench.weights(16), target=target)), skip_model_load=True)
    config = cto.OpPalettizerConfig(mode="custom", lut_function=_our_palette(bits), weight_threshold=2048)
    theirs = cto.palettize_weights(
        model, cto.OptimizationConfig(global_config=config, op_type_configs={"gather": None})
    )
    theirs.save(str(tmp_path / "theirs.mlpackage"))
    package = bench.package(bench.weights(bits), target=target)
    ours, expected = _constexprs(package), _constexprs(tmp_path / "theirs.mlpackage")
    assert ours.keys() == expected.keys() - {"mask_palettized"}, "a literal of the program, which hubpub leaves alone"
    assert ours
    readers = [BlobReader(one / WEIGHT_BIN) for one in (package, tmp_path / "theirs.mlpackage")]
    for name, operation in ours.items():
        pair = []
        for one, reader in zip((operation, expected[name]), readers, strict=True):
            copy = schema.Operation()
            copy.CopyFrom(one)
            blobs = []
            for value in [*copy.attributes.values(), *(b.value for a in copy.inputs.values() for b in a.arguments)]:
                if value.WhichOneof("value") == "blobFileValue":
                    dtype, size, _ = reader.record(value.blobFileValue.offset)
                    blobs.append((dtype, size, bytes(reader.read(value.blobFileValue.offset))))
                    value.blobFileValue.offset = 0  # the order of the file is hubpub's own
            pair.append((copy, sorted(blobs)))
        assert pair[0] == pair[1], name


@leaves_folders
def test_coremltools_reads_and_decompresses_our_package(benches: Callable[[str], Bench], tmp_path: Path) -> None:
    ct = pytest.importorskip("coremltools")
    import coremltools.optimize.coreml as cto

    bench = benches("text_encoder")
    folder, report = bench.weights_report(6)
    model = ct.models.MLModel(str(bench.package(folder)), skip_model_load=True)
    assert model.author == "Somebody"
    cto.decompress_weights(model).save(str(tmp_path / "dense.mlpackage"))
    dense, source = _decoded(tmp_path / "dense.mlpackage"), _source(bench)
    for name, _ in report["snr"]:
        palette = palettize(source[name], 6)
        constant = name.removeprefix("text_model.").replace(".", "_")
        [values] = [values for key, values in dense.items() if key.startswith(constant)]
        assert np.array_equal(values, palette.lut[palette.indices].reshape(-1))
