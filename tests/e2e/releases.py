"""Releases small enough to send in a test, shaped as real ones: two attentions, shared components, archives."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubpub.files.digest import Digest
from hubpub.release.artifact import Artifact
from hubpub.release.release import Release, merge, variant_of
from hubpub.remote.destinations import send
from hubpub.remote.destinations.folder import FolderDestination
from tests.support import manifests

REPO = "me/coreml-tiny-palettized"
CARD = "---\nlicense: creativeml-openrail-m\ntags: [core-ml]\n---\n# Tiny\n"
ATTENTIONS = ("original", "split_einsum_v2")


def noise(seed: object, size: int) -> bytes:
    """Bytes that no chunk store has seen, the same for the same seed."""
    return random.Random(repr(seed)).randbytes(size)


def tree(attentions: tuple[str, ...] = ATTENTIONS, *, seed: object = 0, size: int = 400_000) -> dict[str, bytes]:
    """path in repo → content. The text encoder is the same in all attentions, the UNet is not."""
    files: dict[str, bytes] = {}
    for attention in attentions:
        for part, content in (
            ("unet", noise((seed, attention), size)),
            ("text_encoder", noise((seed, "text"), size // 2)),
        ):
            package = f"{attention}/packages/Stable_Diffusion_version_a_b_{part}.mlpackage"
            files[f"{package}/Manifest.json"] = b"{}"
            files[f"{package}/Data/com.apple.CoreML/model.mlmodel"] = noise((seed, attention, part, "graph"), 2000)
            files[f"{package}/Data/com.apple.CoreML/weights/weight.bin"] = content
            files[f"{attention}/compiled/{part}.mlmodelc/weights/weight.bin"] = content
            files[f"{attention}/compiled/{part}.mlmodelc/metadata.json"] = b"[]"
        for folder in ("packages", "compiled"):
            files[f"{attention}/{folder}/vocab.json"] = b'{"a": 1}'
            files[f"{attention}/{folder}/merges.txt"] = b"a b\n"
        stem = f"{REPO.partition('/')[2]}_{attention}_compiled"
        files[f"{stem}.zip"] = zipped(stem, {p.removeprefix(f"{attention}/compiled/"): c for p, c in files.items()
                                            if p.startswith(f"{attention}/compiled/")})  # fmt: skip
    return files


def zipped(stem: str, files: Mapping[str, bytes]) -> bytes:
    """A stored archive with one top folder."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(f"{stem}/{name}"), content)
    return target.getvalue()


def release(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    old: Mapping[str, Any] | None = None,
    run: str = "today",
    card: str = CARD,
    bits: int = 6,
    repo_id: str = REPO,
) -> Release:
    """A release of `files`, which are written into `folder`; its manifest keeps what `old` has."""
    artifacts = []
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        artifacts.append(Artifact(path=path, source=place, size=len(content), digest=Digest("sha256", digest)))
    names = sorted({name for path in files if (name := variant_of(path)) is not None})
    manifest = {
        "format": 1,
        "repo_id": repo_id,
        "settings": {"bits": bits, "latent": [64, 64], "batch": 2, "target": "macOS13", "attention": []},
        "components": {},
        "variants": {name: {} for name in names},
        "files": [
            {"path": one.path, "size": one.size, "sha256": one.sha256}
            for one in sorted(artifacts, key=lambda one: one.path)
        ],
        "run": {"created": run},
    }
    return Release(
        repo_id=repo_id,
        artifacts=tuple(artifacts),
        manifest=merge(manifest, old),
        card=card,
        message="Tiny as Core ML: two attentions\n\nMade in a test.",
    )


def converted(folder: Path, *attentions: str, seed: object = 0) -> str:
    """A folder as `hubpub convert` leaves it, of packages that nobody can load."""
    files = {
        f"{attention}/packages/{name}": content
        for attention in attentions
        for name, content in (
            ("A.mlpackage/Data/weight.bin", noise((seed, attention), 60_000)),
            ("A.mlpackage/Manifest.json", json.dumps({"seed": repr(seed)}).encode()),
            ("vocab.json", b"{}"),
        )
    }
    made = release(folder.with_name(f"{folder.name}-files"), files)
    full = manifests.manifest()
    told = {key: made.manifest[key] for key in ("repo_id", "files", "run")}
    told["variants"] = {f"{attention}/packages": {"files": 3, "size": 60_000} for attention in attentions}
    settings = {**full["settings"], "attention": list(attentions)}
    shutil.rmtree(folder, ignore_errors=True)
    destination = FolderDestination(folder)
    whole = replace(made, manifest={**full, **told, "settings": settings}, card=CARD)
    send(destination, whole, base=destination.current())
    return str(folder)
