"""What reads bytes that others wrote: one function each. Any of them may refuse with an error of ours, with no other.

`make test` runs each on a few hundred mutated files (test_fuzz.py), `make fuzz` for minutes under
atheris, which looks for new paths through the code (run.py).
"""

from __future__ import annotations

import io
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hubpub.architectures import components_of, detect, published_size, single_file
from hubpub.checkpoints import TensorInfo
from hubpub.checkpoints import tokenizer as tokenizers
from hubpub.checkpoints.lora import assign, read_lora
from hubpub.checkpoints.tensors import Tensor
from hubpub.checkpoints.weights import open_weights, read_header
from hubpub.coreml import schema_pb2, weight_file
from hubpub.coreml.bundle import SMALL_FILES, read_bundle_files
from hubpub.coreml.compiler import compile_bundle
from hubpub.coreml.coremldata import read_analytics, read_archive, write_analytics, write_archive
from hubpub.coreml.package import MODEL, read_model, serialize, write_manifest
from hubpub.coreml.parser import parse_program
from hubpub.coreml.survey import survey
from hubpub.errors import HubpubError
from hubpub.files.digest import Digest, FileRef
from hubpub.files.front_matter import load
from hubpub.files.unzip import unpack
from hubpub.plan.config import effective, read_defaults, read_file
from hubpub.release.lint import lint_zip
from hubpub.release.manifest_view import ManifestView
from hubpub.release.release import RemoteState, merge, parse_manifest
from hubpub.remote import folder_check, offers
from hubpub.sources import metadata
from tests.support import manifests, mil_models
from tests.support.single_files import single_arrays
from tests.support.sources import make_source, write_tokenizer

_FOLDER = tempfile.TemporaryDirectory(prefix="hubpub-fuzz-")
HERE = Path(_FOLDER.name)


@dataclass(frozen=True, kw_only=True)
class Target:
    """`run` reads `data`; it may raise HubpubError. `seeds` are files that it accepts."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]


def attempt(target: Target, data: bytes) -> bool:
    """Whether `data` was accepted; errors that are not ours are raised."""
    try:
        target.run(data)
    except HubpubError:
        return False
    return True


def _file(name: str, data: bytes) -> Path:
    path = HERE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# -- what people and Hubs write as text ------------------------------------------------------------------------


def config(data: bytes) -> None:
    """A hubpub.toml."""
    path = _file("hubpub.toml", data)
    read_defaults(path, HERE)
    for model in read_file(path, HERE):
        _ = effective(model, {}).latent


def card(data: bytes) -> None:
    """Front matter of a card."""
    metadata.front_matter(b"---\n" + data + b"\n---\n")
    with suppress(ValueError):
        load(data.decode("utf-8", "replace"))


def manifest(data: bytes) -> None:
    """A hubpub.json: of a repo that is published to, fetched from, shown, and of a folder that is verified."""
    found = parse_manifest(data)
    if found is None:
        return
    with suppress(HubpubError):
        merge(manifests.manifest(), found)
    ManifestView.of(found)
    files = tuple(
        FileRef(path=one["path"], size=one["size"], digest=Digest("sha256", one["sha256"])) for one in found["files"]
    )
    state = RemoteState(repo_id="me/x", commit="c" * 40, files=files, manifest=found)
    for offer in offers.offers(state):
        with suppress(HubpubError):
            offers.select(state, offer.name)
    _file("release/hubpub.json", data)
    folder_check.check_release(HERE / "release")


def source(data: bytes) -> None:
    """The small JSON files of a source, as one object: path → content."""
    try:
        files = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(files, dict):
        return
    texts = {str(name): json.dumps(value).encode() for name, value in files.items()}
    found = metadata.read_facts(texts.get, name="a/b")
    _ = found.prediction_type, found.scheduler_name
    architecture = detect(found.model_index, found.configs)
    _ = found.scaling_factor, architecture.latent(found.configs)
    for component in components_of(architecture, found.model_index, switches={}, sources=("model",)):
        size = published_size(architecture, found.configs, None, 2)
        component.meaning(component.read(found.configs, {}))
        component.parameters(size=size, attention="original", target="macOS13")


# -- archives and weights --------------------------------------------------------------------------------------


def archive(data: bytes) -> None:
    """An archive of compiled models: what fetch unpacks and audit looks into."""
    path = _file("x_original_compiled.zip", data)
    lint_zip(path)
    target = HERE / "unpacked"
    try:
        unpack(path, target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def safetensors(data: bytes) -> None:
    """A safetensors file."""
    _weights(_file("model.safetensors", data))


def single(data: bytes) -> None:
    """Names and shapes of a single file, as a JSON object: its family, and every network's config."""
    try:
        shapes = json.loads(data)
    except (ValueError, RecursionError):
        return
    tensors = {
        str(name): Tensor(file=0, dtype="F16", shape=tuple(shape), start=0, strides=None)
        for name, shape in (shapes.items() if isinstance(shapes, dict) else ())
        if isinstance(shape, list) and all(type(side) is int and 0 <= side < 1 << 48 for side in shape)
    }
    described = single_file.describe(tensors, {}, name="single.safetensors")
    architecture = detect(described.model_index, described.configs)
    for component in components_of(architecture, described.model_index, switches={}, sources=("model",)):
        component.meaning(component.read(described.configs, {}))


def lora(data: bytes) -> None:
    """The names and shapes of a LoRA, and where they belong in a small UNet."""
    header = read_header(_file("lora.safetensors", data))
    infos = {name: TensorInfo(shape=one.shape, dtype=one.dtype) for name, one in header.tensors.items()}
    for folder, deltas in read_lora(infos, name="lora.safetensors", metadata=header.metadata).items():
        assign(deltas, {_TARGET: (8, 8)}, component=folder, name="lora.safetensors", infos=infos)


def tokenizer(data: bytes) -> None:
    """The files of a tokenizer, one after the other."""
    files = dict(zip(tokenizers.FILES, data.split(_MARK), strict=False))
    tokenizers.read_tokenizer({name: text for name, text in files.items() if text}, rows=1024, folder="tokenizer")


def pickled(data: bytes) -> None:
    """A torch zip file, which is read without executing its pickle."""
    _weights(_file("model.bin", data))


def blobs(data: bytes) -> None:
    """A weight.bin of Core ML."""
    reader = weight_file.BlobReader(_file("weight.bin", data))
    try:
        for offset in range(64, min(len(data), 1024), 64):
            with suppress(HubpubError):
                reader.read(offset)
                reader.array(offset)
                reader.array(offset, (2, 2))
    finally:
        reader.close()


# -- Core ML's own files ---------------------------------------------------------------------------------------


def model(data: bytes) -> None:
    """A model.mlmodel in a package: read, and compiled."""
    package = HERE / "A.mlpackage"
    _file(f"A.mlpackage/{MODEL}", data)
    write_manifest(package, weights=False, identity="0" * 64)
    survey(read_model(package).mlProgram)
    target = HERE / "A.mlmodelc"
    try:
        compile_bundle(package, target, stem="A", compiler="portable")
    finally:
        shutil.rmtree(target, ignore_errors=True)


def package_manifest(data: bytes) -> None:
    """A package's Manifest.json."""
    _file("B.mlpackage/Manifest.json", data)
    _file(f"B.mlpackage/{MODEL}", serialize(mil_models.tiny()))
    read_model(HERE / "B.mlpackage")


def text(data: bytes) -> None:
    """A model.mil."""
    survey(parse_program(data.decode("utf-8", "replace")))


def bundle(data: bytes) -> None:
    """The small files of a compiled bundle; they are told apart by a mark."""
    parts = data.split(_MARK)
    read_bundle_files(dict(zip(SMALL_FILES, parts, strict=False)), name="A.mlmodelc")


def described(data: bytes) -> None:
    """A coremldata.bin."""
    read_archive(data, name="A")


def analytics(data: bytes) -> None:
    """The coremldata.bin of analytics."""
    read_analytics(data, name="A")


_MARK = b"\n==== next file ====\n"


def _weights(path: Path) -> None:
    weights = open_weights([path])
    try:
        for name in weights.tensors():
            with suppress(HubpubError):
                weights.float16(name)
                list(weights.pieces(name, 1 << 12))
    finally:
        weights.close()


# -- seeds -----------------------------------------------------------------------------------------------------


@cache
def _zips() -> tuple[bytes, ...]:
    made = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", compression) as opened:
            opened.writestr("x_original_compiled/Unet.mlmodelc/metadata.json", "[{}]")
            opened.writestr("x_original_compiled/Unet.mlmodelc/coremldata.bin", bytes(300))
            opened.writestr("x_original_compiled/vocab.json", "{}")
            opened.mkdir("x_original_compiled/empty")
        made.append(target.getvalue())
    return tuple(made)


def _safetensors() -> list[bytes]:
    header = {
        "a.weight": {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header).encode()
    return [len(text).to_bytes(8, "little") + text + bytes(24)]


_TARGET = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


def _header(shapes: Mapping[str, Sequence[int]], **said: str) -> bytes:
    """A safetensors file of zeros with tensors of these shapes."""
    header: dict[str, Any] = {"__metadata__": said}
    end = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


@cache
def _single() -> tuple[bytes, ...]:
    made = []
    for family in ("sd15", "sdxl"):
        folder = make_source(HERE / f"single-{family}", family, tiny=True)
        shapes = {name: list(array.shape) for name, array in single_arrays(folder).items()}
        made.append(json.dumps(shapes).encode())
    return tuple(made)


def _loras() -> list[bytes]:
    module = _TARGET.removesuffix(".weight")
    flat = f"lora_unet_{module.replace('.', '_')}"
    kohya = {f"{flat}.lora_up.weight": (8, 2), f"{flat}.lora_down.weight": (2, 8), f"{flat}.alpha": ()}
    peft = {f"unet.{module}.lora_B.weight": (8, 2), f"unet.{module}.lora_A.weight": (2, 8)}
    return [_header(kohya), _header(peft, lora_adapter_metadata='{"unet.lora_alpha": 4, "unet.alpha_pattern": {}}')]


@cache
def _tokenizers() -> tuple[bytes, ...]:
    folder = HERE / "tokenizer"
    write_tokenizer(folder, 520)
    files = {name: (folder / name).read_bytes() if (folder / name).exists() else b"" for name in tokenizers.FILES}
    vocab, rules = json.loads(files["vocab.json"]), files["merges.txt"].decode().splitlines()[1:]
    whole = json.dumps({"model": {"vocab": vocab, "merges": rules}, "added_tokens": [{"id": 3, "content": "$"}]})
    return _MARK.join(files.values()), _MARK.join([b"", b"", whole.encode()])


@cache
def _pickled() -> tuple[bytes, ...]:
    """A state dict as torch writes it, made without torch: protocol 2, two tensors of one storage."""
    program = (
        b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00aq\x02"
        b"ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07\x00\x00\x00storageq\x04ctorch\nHalfStorage\nq\x05"
        b"X\x01\x00\x00\x000q\x06X\x03\x00\x00\x00cpuq\x07K\x08tq\x08QK\x00K\x02K\x04\x86q\tK\x04K\x01\x86q\n"
        b"\x89h\x00)Rq\x0btq\x0cRq\ru."
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as opened:
        opened.writestr("archive/data.pkl", program)
        opened.writestr("archive/data/0", bytes(16))
        opened.writestr("archive/version", "3\n")
    return (target.getvalue(),)


def _blobs() -> list[bytes]:
    path = HERE / "seed.bin"
    with weight_file.BlobWriter(path) as writer:
        writer.add(schema_pb2.FLOAT16, np.arange(8, dtype=np.float16))
        writer.add(schema_pb2.UINT8, np.arange(16, dtype=np.uint8))
    return [path.read_bytes()]


def _models() -> list[bytes]:
    return [serialize(mil_models.tiny(spec=spec)) for spec in (7, 8)]


@cache
def _bundle() -> tuple[bytes, ...]:
    """The small files of a bundle that we have compiled."""
    folder = mil_models.save_package(HERE / "seed.mlpackage", mil_models.tiny())
    made = compile_bundle(folder, HERE / "seed.mlmodelc", stem="seed", compiler="portable").bundle
    return tuple((made / name).read_bytes() for name in SMALL_FILES)


_FAMILIES = ("sd15", "sd15-lcm", "sdxl", "sdxl-small", "sdxl-refiner", "controlnet-sdxl")


@cache
def _source() -> tuple[bytes, ...]:
    """The small JSON files of one source of each kind."""
    return tuple(_json_files(family) for family in _FAMILIES)


def _json_files(family: str) -> bytes:
    folder = make_source(HERE / f"source-{family}", family, tiny=True)
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.json") if path.stat().st_size < 1 << 16
    )
    return json.dumps({name: json.loads((folder / name).read_bytes()) for name in names}).encode()


_CONFIG = b"""bits = 4
attention = ["original"]
floor = { unet = 30.5 }
[fetch]
variant = "original/zip"
zip = true
[[models]]
source = "a/b"
latent_height = 64
latent_width = 64
"""
_CARD = b"license: mit\ntags: &t [a, 'b', \"c\"]\nmore: *t\nwhen: 2024-01-02\nnested: {<<: {a: 1}, b: [1.5, ~]}\n"

TARGETS: dict[str, Target] = {
    "config": Target(run=config, seeds=lambda: [_CONFIG]),
    "card": Target(run=card, seeds=lambda: [_CARD]),
    "manifest": Target(run=manifest, seeds=lambda: [json.dumps(manifests.manifest()).encode()]),
    "source": Target(run=source, seeds=_source),
    "archive": Target(run=archive, seeds=_zips),
    "safetensors": Target(run=safetensors, seeds=_safetensors),
    "single": Target(run=single, seeds=_single),
    "lora": Target(run=lora, seeds=_loras),
    "tokenizer": Target(run=tokenizer, seeds=_tokenizers),
    "pickled": Target(run=pickled, seeds=_pickled),
    "blobs": Target(run=blobs, seeds=_blobs),
    "model": Target(run=model, seeds=_models),
    "package-manifest": Target(
        run=package_manifest, seeds=lambda: [(HERE / "seed.mlpackage/Manifest.json").read_bytes()] if _bundle() else []
    ),
    "text": Target(run=text, seeds=lambda: [_bundle()[0]]),
    "bundle": Target(run=bundle, seeds=lambda: [_MARK.join(_bundle())]),
    "described": Target(
        run=described, seeds=lambda: [write_archive(mil_models.tiny().description, spec_version=7, functions=1)]
    ),
    "analytics": Target(run=analytics, seeds=lambda: [write_analytics(serialize(mil_models.tiny()))]),
}
