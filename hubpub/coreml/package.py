"""The .mlpackage: Manifest.json, model.mlmodel and weights/weight.bin.

Reading uses hubpub's protobuf schema (`schema.proto`). Writing is deterministic: the same
model gives the same bytes (Apple's tools put random UUIDs into the manifest).
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from google.protobuf.message import DecodeError

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadPackage

MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights")
WEIGHT_BIN = WEIGHTS / "weight.bin"
MANIFEST = Path("Manifest.json")
# The prefix of a blob's fileName; it names the folder that contains model.mlmodel.
MODEL_PATH = "@model_path/"
WEIGHT_REFERENCE = "@model_path/weights/weight.bin"

_AUTHOR = "com.apple.CoreML"


def read_model(package: Path) -> schema.Model:
    """The parsed model.mlmodel of a .mlpackage, without its weights.

    Raises BadPackage if the folder, its manifest or the protobuf is incomplete or damaged.
    """
    return parse_model(read_model_bytes(package), name=str(package))


def read_model_bytes(package: Path) -> bytes:
    """The bytes of a .mlpackage's model.mlmodel; raises BadPackage if it is missing."""
    if not package.is_dir():
        raise BadPackage(
            f"{package} is not a Core ML package.", hint="A .mlpackage is a folder with a Manifest.json in it."
        )
    path = package / _model_path(package)
    try:
        return path.read_bytes()
    except OSError:
        raise BadPackage(f"{package} has no {path.name}.", hint="Fetch or build the package again.") from None


def parse_model(data: bytes, *, name: str) -> schema.Model:
    """Parse the bytes of a model.mlmodel; error messages use `name`."""
    if data.startswith(b"version https://git-lfs"):
        raise BadPackage(
            f"{name} holds a git-LFS pointer instead of the model.", hint="Run `git lfs pull`, or fetch it again."
        )
    model = schema.Model()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise BadPackage(f"{name} holds a model.mlmodel that cannot be parsed: it is truncated or damaged.") from error
    if model.specificationVersion == 0 and model.WhichOneof("Type") is None:
        raise BadPackage(f"{name} holds a model.mlmodel without a model in it.")
    return model


def weights_folder(package: Path) -> Path:
    """The folder that `@model_path/weights` names."""
    return (package / _model_path(package)).parent / "weights"


def serialize(message: schema.Model) -> bytes:
    """The message's bytes, with maps sorted by key, so that equal models give equal bytes."""
    return message.SerializeToString(deterministic=True)


def write_manifest(package: Path, *, weights: bool, identity: str) -> None:
    """Write Manifest.json; its two identifiers are derived from `identity` (a digest of the content)."""
    model_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"model {identity}")).upper()
    entries = {
        model_id: {
            "author": _AUTHOR,
            "description": "CoreML Model Specification",
            "name": MODEL.name,
            "path": MODEL.relative_to("Data").as_posix(),
        }
    }
    if weights:
        entries[str(uuid.uuid5(uuid.NAMESPACE_OID, f"weights {identity}")).upper()] = {
            "author": _AUTHOR,
            "description": "CoreML Model Weights",
            "name": "weights",
            "path": WEIGHTS.relative_to("Data").as_posix(),
        }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": model_id}
    (package / MANIFEST).write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def _model_path(package: Path) -> Path:
    """The path of the model in the manifest; the usual path if the manifest does not name one."""
    try:
        manifest = json.loads((package / MANIFEST).read_text(encoding="utf-8"))
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except FileNotFoundError:
        raise BadPackage(
            f"{package} has no Manifest.json.", hint="A .mlpackage is a folder with a Manifest.json in it."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadPackage(f"{package} has a Manifest.json that cannot be read.") from error
    path = Path("Data") / str(entry)
    if path.is_absolute() or ".." in path.parts:
        raise BadPackage(f"{package} has a Manifest.json that points outside the package.")
    return path
