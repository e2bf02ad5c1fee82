"""Weight files: which are chosen, what their tensors are, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.checkpoints import rounding
from hubpub.checkpoints.names import canonical, ignored_names, match_names
from hubpub.checkpoints.selection import choose
from hubpub.checkpoints.weights import open_weights
from hubpub.errors import BadWeights, UnsafeWeights
from tests.support.sources import FAMILIES, Layout, components, make_source, tensors


def _safetensors(path: Path, entries: dict[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    header, data = {}, b""
    for name, (dtype, shape, raw) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _rewrite(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


# -- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_values_are_the_files_values_in_every_layout(tmp_path: Path, dtype: str, kind: str) -> None:
    shards = 2 if kind == "safetensors" else 1
    folder = make_source(tmp_path, "sd15", layout=Layout(dtype=dtype, kind=kind, shards=shards), only=["unet"])
    paths = [folder / name for name in choose([f"unet/{p.name}" for p in (folder / "unet").iterdir()], folder="unet")]
    expected = tensors(components("sd15", tiny=True)[0])
    with open_weights(paths) as weights:
        assert set(weights) == set(expected)
        for name, values in expected.items():
            assert weights.shape(name) == values.shape
            assert weights.dtype(name) == dtype
            assert weights.nbytes(name) == values.size * (4 if dtype == "F32" else 2)
            if dtype == "F16":
                assert np.array_equal(weights[name], values.astype(np.float16))
                assert not weights[name].flags.writeable
            elif dtype == "F32":
                assert np.array_equal(weights[name], values)
                assert np.array_equal(weights.float16(name), values.astype(np.float16))
            else:
                held = weights[name]
                assert held.dtype == np.float32
                assert not (held.view(np.uint32) & 0xFFFF).any()
                assert np.allclose(held, values, rtol=2**-8)
                assert np.array_equal(weights.float16(name), held.astype(np.float16))


def test_float16_of_a_float16_tensor_is_no_copy(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.float16)
    path = _safetensors(tmp_path / "a.safetensors", {"x": ("F16", (8, 8), values.tobytes())})
    with open_weights([path]) as weights:
        assert weights.float16("x").base is not None
        assert np.array_equal(weights.float16("x"), values.reshape(8, 8))
        weights.release("x")
        assert np.array_equal(weights["x"], values.reshape(8, 8))


def test_unaligned_data_is_read(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 33).astype(np.float16)
    path = _safetensors(
        tmp_path / "a.safetensors", {"odd": ("U8", (3,), b"abc"), "x": ("F16", (33,), values.tobytes())}
    )
    with open_weights([path]) as weights:
        assert np.array_equal(weights.float16("x"), values)
        assert weights.float16("x").flags.aligned


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64", "BF16"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 1e6])
def test_what_does_not_fit_float16_is_refused_by_name(tmp_path: Path, dtype: str, bad: float) -> None:
    values = np.zeros(300_000, np.float32)
    values[270_000] = bad
    with np.errstate(over="ignore"):
        stored = {
            "F16": lambda: values.astype(np.float16),
            "F32": lambda: values,
            "F64": lambda: values.astype(np.float64),
            "BF16": lambda: (values.view(np.uint32) >> 16).astype(np.uint16),
        }[dtype]()
    path = _safetensors(tmp_path / "a.safetensors", {"bad.weight": (dtype, (300_000,), stored.tobytes())})
    with open_weights([path]) as weights, pytest.raises(BadWeights, match=r"bad\.weight"):
        weights.float16("bad.weight")


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=65000, min_value=-65000), max_size=40)
)
@settings(max_examples=60)
def test_rounding_is_to_the_nearest_float16(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    path = _safetensors(tmp_path_factory.mktemp("w") / "a.safetensors", {"x": ("F32", values.shape, values.tobytes())})
    with open_weights([path]) as weights:
        assert np.array_equal(weights.float16("x"), values.astype(np.float16))


def _every_float16_and_what_lies_between() -> npt.NDArray[np.float32]:
    exact = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = ((exact[1:].astype(np.float64) + exact[:-1]) / 2).astype(np.float32)
    bits = np.concatenate([exact, between]).view(np.uint32).astype(np.int64)
    near = np.concatenate([bits + step for step in (-2, -1, 0, 1, 2)])
    values = near[(near >= 0) & (near < 0x477FF000)].astype(np.uint32).view(np.float32)
    return np.concatenate([values, -values])


def test_the_compiled_rounding_is_numpys_everywhere() -> None:
    random = np.random.default_rng(0).integers(0, 0x477FF000, 500_000, dtype=np.uint32).view(np.float32)
    for values in (_every_float16_and_what_lies_between(), random, -random):
        target = np.empty(values.size, np.uint16)
        assert rounding.round_float32(values.view(np.uint32), target)
        assert np.array_equal(target, values.astype(np.float16).view(np.uint16))
    words = np.arange(65536, dtype=np.uint16)
    wide = (words.astype(np.uint32) << 16).view(np.float32)
    finite = np.abs(wide) < 65520
    target = np.empty(finite.sum(), np.uint16)
    assert rounding.round_bfloat16(words[finite], target)
    assert np.array_equal(target, wide[finite].astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("bits", [0x477FF000, 0x47800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0xFF800000])
def test_the_compiled_rounding_tells_what_does_not_fit(bits: int) -> None:
    assert not rounding.round_float32(np.array([0, bits, 0], np.uint32), np.empty(3, np.uint16))
    if bits & 0xFFFF == 0:
        assert not rounding.round_bfloat16(np.array([0, bits >> 16], np.uint16), np.empty(2, np.uint16))


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_large_tensors_round_as_small_ones(tmp_path: Path, dtype: str) -> None:
    values = _every_float16_and_what_lies_between()
    assert values.size > 200_000
    stored = {
        "F32": values,
        "F64": values.astype(np.float64),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16),
    }[dtype]
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored
    odd = {"odd": ("U8", (1,), b"x"), "x": (dtype, stored.shape, stored.tobytes())}
    for entries in ({"x": odd["x"]}, odd):  # aligned, and not
        with open_weights([_safetensors(tmp_path / "a.safetensors", entries)]) as weights:
            assert weights.float16("x").tobytes() == wide.astype(np.float16).tobytes()


# -- damaged safetensors ---------------------------------------------------------------------------------------


def _good() -> bytes:
    header = b'{"x":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}'
    return struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"  \n<HTML>", "web page"),
        (b"1234", "truncated"),
        (_good()[:-1], "truncated"),
        (_good()[:30], "truncated in its header"),
        (_good() + b"\0", "surplus"),
        (struct.pack("<Q", 1 << 60) + b"{" * 100, "not a safetensors"),
        (b"PK\x03\x04" + bytes(100), "not a safetensors"),
        (struct.pack("<Q", 5) + b"{'a':", "not valid"),
        (struct.pack("<Q", 26) + b'{"__metadata__":{}, "x":[]}'[:26], "not valid"),
    ],
)
def test_what_a_failed_download_leaves_has_its_own_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadWeights, match=sentence) as refused:
        open_weights([path])
    assert refused.value.hint
    assert path.name in refused.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="is missing"):
        open_weights([tmp_path / "model.safetensors"])


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F16", "shape": [5], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [-4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [True, 4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4], "data_offsets": [8, 0]},
        {"dtype": "F16", "shape": [4], "data_offsets": [-8, 0]},
        {"dtype": "F16", "shape": [4]},
        [],
    ],
)
def test_entries_that_contradict_themselves_are_refused(tmp_path: Path, entry: object) -> None:
    with pytest.raises(BadWeights, match="contradicts itself"):
        open_weights([_rewrite(tmp_path / "a.safetensors", {"x": entry}, bytes(8))])


def test_other_lies_of_a_header_are_refused(tmp_path: Path) -> None:
    a = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    with pytest.raises(BadWeights, match="overlap or leave gaps"):
        open_weights([_rewrite(tmp_path / "a.safetensors", {"x": a, "y": a}, bytes(8))])
    with pytest.raises(BadWeights, match="given twice"):
        open_weights([_rewrite(tmp_path / "b.safetensors", b'{"x":{},"x":{}}', bytes(8))])
    with pytest.raises(BadWeights, match="F8_E4M3, which hubpub does not read"):
        open_weights([_rewrite(tmp_path / "c.safetensors", {"x": a | {"dtype": "F8_E4M3"}}, bytes(4))])
    with pytest.raises(BadWeights, match="not valid"):
        open_weights([_rewrite(tmp_path / "d.safetensors", b"{" + b"[" * 100_000)])
    one = _rewrite(tmp_path / "e.safetensors", {"x": a}, bytes(4))
    two = _rewrite(tmp_path / "f.safetensors", {"x": a}, bytes(4))
    with pytest.raises(BadWeights, match="in two of the weight files"):
        open_weights([one, two])
    (tmp_path / "g.gguf").write_bytes(b"x")
    with pytest.raises(BadWeights, match="no kind of weight file"):
        open_weights([tmp_path / "g.gguf"])


@given(st.integers(0, 60), st.integers(0, 255))
@settings(max_examples=150)
def test_a_flipped_byte_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    content = bytearray(_good())
    content[position] = value
    path = tmp_path_factory.mktemp("w") / "a.safetensors"
    path.write_bytes(content)
    try:
        with open_weights([path]) as weights:
            for name in weights:
                weights[name]
    except BadWeights:
        pass


# -- .bin ------------------------------------------------------------------------------------------------------


def _zip(path: Path, program: bytes, *, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, data in members.items():
            archive.writestr(f"archive/data/{name[1:]}", data)
    return path


def _tensor_program(view: Callable[[bytes], bytes] = lambda tail: tail) -> bytes:
    """A dict with one tensor "x" of four halves in storage 0, as torch writes it."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"  # persistent id
    )
    tail = b"K\x00K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n(" + storage + view(tail) + b"tRs."


def test_a_hand_written_state_dict_is_read(tmp_path: Path) -> None:
    values = np.array([1, -2, 0.5, 3], np.float16)
    with open_weights([_zip(tmp_path / "a.bin", _tensor_program(), _0=values.tobytes())]) as weights:
        assert np.array_equal(weights["x"], values)


def test_strides_offsets_wrappers_and_other_dtypes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "expanded": base[0, :1].expand(5),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "long": torch.arange(5),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "step": 7,
    }
    for number, wrapped in enumerate((state, {"state_dict": state, "epoch": 3}, {"model": {"module": state}})):
        path = tmp_path / f"{number}.bin"
        torch.save(wrapped, path)
        with open_weights([path]) as weights:
            assert set(weights) == set(state) - {"step"}
            for name in weights:
                value = state[name].detach().numpy()
                assert weights.shape(name) == value.shape
                assert np.array_equal(weights[name], value)
                if value.dtype == np.float32:
                    assert np.array_equal(weights.float16(name), value.astype(np.float16))
                    assert weights.float16(name).flags.c_contiguous


def test_a_module_with_metadata_and_protocol_4(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = torch.nn.Conv2d(2, 3, 3).state_dict()
    torch.save(state, tmp_path / "a.bin", pickle_protocol=4)
    with open_weights([tmp_path / "a.bin"]) as weights:
        assert np.array_equal(weights["weight"], state["weight"].numpy())


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_is_executed(tmp_path: Path) -> None:
    with pytest.raises(UnsafeWeights, match=r"would run builtins\.exec") as refused:
        open_weights(
            [_zip(tmp_path / "a.bin", pickle.dumps({"x": _Evil()}, protocol=2).replace(b"__builtin__", b"builtins"))]
        )
    assert "safetensors" in refused.value.hint
    with pytest.raises(UnsafeWeights, match=r"would run builtins\.exec"):
        open_weights([_zip(tmp_path / "b.bin", pickle.dumps({"x": _Evil()}, protocol=4))])


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        (b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.", r"would run os\.system"),
        (b"\x80\x02(X\x02\x00\x00\x00lsios\nsystem\n.", "the instruction INST"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n}X\x01\x00\x00\x00aX\x01\x00\x00\x00bsb.", "sets the state"),
        (b"\x80\x02}X\x01\x00\x00\x00x)R.", "calls something that is no function"),
        (b"\x80\x02}))s.", "neither strings nor numbers"),
        (b"\x80\x02ctorch\nHalfStorage\n)R.", "calls something"),
        (b"\x80\x04}\x82\x01.", "the instruction EXT1"),
    ],
)
def test_programs_that_no_state_dict_needs_are_refused(tmp_path: Path, program: bytes, sentence: str) -> None:
    with pytest.raises(UnsafeWeights, match=sentence):
        open_weights([_zip(tmp_path / "a.bin", program)])


@pytest.mark.parametrize(
    ("tail", "sentence"),
    [
        (b"K\x01K\x04\x85K\x01\x85\x89}", "beyond its storage"),
        (b"K\x00K\x04\x85K\x02\x85\x89}", "beyond its storage"),
        (b"K\x00J\xff\xff\xff\xff\x85K\x01\x85\x89}", "damaged"),
        (b"K\x00K\x04\x85J\xff\xff\xff\xff\x85\x89}", "damaged"),
        (b"K\x00K\x04\x85)\x89}", "damaged"),
        (b"X\x01\x00\x00\x00aK\x04\x85K\x01\x85\x89}", "damaged"),
        (b"K\x00", "damaged"),
    ],
)
def test_tensors_that_lie_about_their_storage_are_refused(tmp_path: Path, tail: bytes, sentence: str) -> None:
    with pytest.raises(BadWeights, match=sentence):
        open_weights([_zip(tmp_path / "a.bin", _tensor_program(lambda _: tail), _0=bytes(8))])


def test_zip_tricks_are_refused(tmp_path: Path) -> None:
    program = _tensor_program()
    with pytest.raises(UnsafeWeights, match="compressed"):
        open_weights([_zip(tmp_path / "a.bin", program, compression=zipfile.ZIP_DEFLATED, _0=bytes(1 << 20))])
    with pytest.raises(BadWeights, match="no data in the file"):
        open_weights([_zip(tmp_path / "b.bin", program)])
    with pytest.raises(BadWeights, match="beyond its storage"):
        open_weights([_zip(tmp_path / "c.bin", program, _0=bytes(6))])
    with zipfile.ZipFile(tmp_path / "d.bin", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(BadWeights, match=r"not one that torch\.save wrote"):
        open_weights([tmp_path / "d.bin"])
    good = _zip(tmp_path / "e.bin", program, _0=bytes(8)).read_bytes()
    (tmp_path / "f.bin").write_bytes(good[:-30])
    with pytest.raises(BadWeights, match="truncated"):
        open_weights([tmp_path / "f.bin"])
    # Both directory entries point at the first member: a way to make a small file look large.
    overlapping = bytearray(good)
    second = good.rindex(b"PK\x01\x02")
    overlapping[second + 42 : second + 46] = bytes(4)
    (tmp_path / "g.bin").write_bytes(overlapping)
    with pytest.raises(UnsafeWeights, match="overlap"):
        open_weights([tmp_path / "g.bin"])
    with zipfile.ZipFile(tmp_path / "h.bin", "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/byteorder", "big")
    with pytest.raises(BadWeights, match="big-endian"):
        open_weights([tmp_path / "h.bin"])


def test_a_bare_pickle_is_refused_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"x": 1}, protocol=2))
    with pytest.raises(UnsafeWeights, match="bare pickle") as refused:
        open_weights([tmp_path / "a.bin"])
    assert "safetensors" in refused.value.hint
    torch = pytest.importorskip("torch")
    torch.save({"x": torch.zeros(2)}, tmp_path / "b.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeWeights, match="bare pickle"):
        open_weights([tmp_path / "b.bin"])


def test_a_bin_without_tensors_is_refused(tmp_path: Path) -> None:
    for number, value in enumerate(({}, {"state_dict": {}}, [1, 2], {"a": "b"})):
        with pytest.raises(BadWeights, match="holds no state dict"):
            open_weights([_zip(tmp_path / f"{number}.bin", pickle.dumps(value, protocol=2))])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_bin_is_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", _tensor_program())
        archive.writestr("a/data/0", bytes(8))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(1, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("w") / "a.bin"
    path.write_bytes(content)
    try:
        with open_weights([path]) as weights:
            for name in weights:
                weights[name]
    except (BadWeights, UnsafeWeights):
        pass


# -- names -----------------------------------------------------------------------------------------------------


def test_names_of_every_age_mean_the_same_tensor() -> None:
    for old, new in [
        ("encoder.mid_block.attentions.0.query.weight", "encoder.mid_block.attentions.0.to_q.weight"),
        ("decoder.mid_block.attentions.0.key.bias", "decoder.mid_block.attentions.0.to_k.bias"),
        ("decoder.mid_block.attentions.0.value.bias", "decoder.mid_block.attentions.0.to_v.bias"),
        ("decoder.mid_block.attentions.0.proj_attn.weight", "decoder.mid_block.attentions.0.to_out.0.weight"),
        ("text_model.final_layer_norm.weight", "final_layer_norm.weight"),
        ("vision_model.vision_model.post_layernorm.bias", "vision_model.post_layernorm.bias"),
        ("module.text_model.final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        ("model.conv_in.weight", "conv_in.weight"),
    ]:
        assert canonical(old) == canonical(new), (old, new)
        assert match_names([old], [new]) == {new: old}
        assert match_names([new], [old]) == {old: new}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_tensors_of_a_component_share_a_canonical_name(family: str) -> None:
    for part in components(family, tiny=False):
        names = part.shapes(part.config)
        assert len({canonical(name) for name in names}) == len(names)


def test_a_literal_name_wins_and_ambiguity_is_refused() -> None:
    assert match_names(["a.w", "model.a.w"], ["a.w"]) == {"a.w": "a.w"}
    assert match_names(["a.w"], ["b.w"]) == {}
    with pytest.raises(BadWeights, match=r"model\.a\.w, module\.a\.w"):
        match_names(["model.a.w", "module.a.w"], ["a.w"])


def test_ignored_names_match_wholly_and_in_either_spelling() -> None:
    names = ["text_model.embeddings.position_ids", "encoder.conv_in.weight", "decoder.encoder.x"]
    assert ignored_names(names, [r"(.*\.)?position_ids", r"encoder\..*"]) == set(names[:2])
    assert ignored_names(["text_model.embeddings.position_ids"], [r"embeddings\.position_ids"])
