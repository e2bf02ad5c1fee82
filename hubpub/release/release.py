"""Release: what will be in the repo, as data; the manifest; and the difference to what is there.

The manifest (`hubpub.json`) names every file with size and sha256, the variants,
the source, the settings and the measurements. It is data for programs: `fetch`
checks against it, `publish` merges with it, the card is a view of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubpub.errors import ConfigError
from hubpub.plan.names import IMAGES, MANIFEST, SIGNATURE, Artifact
from hubpub.plan.variant import ATTENTIONS, FORMATS

MANIFEST_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Bounds for what others wrote: a manifest is read, never trusted.
MAX_MANIFEST_BYTES = 32 << 20
# A repo holds one width, size, batch and target; variants that differ in these cannot share it.
SHARED_SETTINGS = ("bits", "latent", "batch", "target")


@dataclass(frozen=True, kw_only=True)
class Release:
    """Everything that one commit puts into a repo."""

    repo_id: str
    artifacts: tuple[Artifact, ...]  # the models and archives of this run
    manifest: Mapping[str, Any]  # merged with what the repo keeps
    card: str  # README.md
    message: str  # of the commit
    signature: str | None = None  # of the manifest, by sigstore

    def manifest_text(self) -> str:
        """hubpub.json as it is written."""
        return json.dumps(self.manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as a repo lists it. `sha256` is None for small files, which have a git blob id only."""

    path: str
    size: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True, kw_only=True)
class RemoteState:
    """What a repo holds at one commit (`commit` None: an empty repo or folder)."""

    repo_id: str
    commit: str | None
    files: tuple[RemoteFile, ...]
    manifest: Mapping[str, Any] | None = None
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One line of a commit. `action` is `new`, `changed`, `same` or `removed`.

    `copy_from` is a path of the repo that holds the same bytes already, at `copy_revision`
    (None: the commit that this one stands on).
    """

    action: str
    path: str
    size: int
    artifact: Artifact | None = None
    copy_from: str | None = None
    copy_revision: str | None = None


def parse_manifest(data: bytes) -> dict[str, Any] | None:
    """A manifest somebody wrote, or None when it is not one that can be used (too large, other format, not whole)."""
    if len(data) > MAX_MANIFEST_BYTES:
        return None
    try:
        manifest = json.loads(data)
        good = manifest["format"] == MANIFEST_FORMAT and all(_is_file(file) for file in manifest["files"])
        tables = (manifest["variants"], manifest.get("settings", {}), manifest.get("components", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if good and all(isinstance(table, dict) for table in tables) else None


def _is_file(file: Mapping[str, Any]) -> bool:
    path, size, digest = file["path"], file["size"], file["sha256"]
    sound = isinstance(path, str) and isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return sound and isinstance(digest, str) and _SHA256.fullmatch(digest) is not None


def variant_of(path: str) -> str | None:
    """The variant that a file of a repo belongs to: `original/packages`, `original/zip`; None for other files."""
    parts = path.split("/")
    if len(parts) > 2 and parts[0] in ATTENTIONS and parts[1] in FORMATS:
        return "/".join(parts[:2])
    if len(parts) == 1 and path.endswith("_compiled.zip"):
        # the longest first: split_einsum is the beginning of split_einsum_v2
        for attention in sorted(ATTENTIONS, key=len, reverse=True):
            if path.endswith(f"_{attention}_compiled.zip"):
                return f"{attention}/zip"
    return None


def merge(new: Mapping[str, Any], old: Mapping[str, Any] | None, *, prune: bool = False) -> dict[str, Any]:
    """The manifest of the repo after this run: variants not made now are kept as `old` has them (not with `prune`).

    Keys are in the order in which the manifest is written, so that a view of it is the same
    now and when it is read back. Raises ConfigError when the kept variants were made with
    other bits, size, batch or target: one repo holds one of each.
    """
    return dict(json.loads(json.dumps(_merge(new, old, prune), sort_keys=True)))


def _merge(new: Mapping[str, Any], old: Mapping[str, Any] | None, prune: bool) -> dict[str, Any]:
    merged = json.loads(json.dumps(new))
    if old is None:
        return dict(merged)
    if same_manifest(old, merged):
        return dict(old)  # the times of another run are no reason for a commit
    kept = {name: variant for name, variant in old["variants"].items() if name not in new["variants"]}
    if prune or not kept:
        return dict(merged)
    for key in SHARED_SETTINGS:
        before, now = old.get("settings", {}).get(key), new["settings"][key]
        if before != now:
            raise ConfigError(
                f"The repo keeps {', '.join(sorted(kept))} with {key} = {before}, and this run has {key} = {now}.",
                hint="Publish all of the repo's variants at once, or use another repo for another width or size.",
            )
    merged["variants"] = {**kept, **merged["variants"]}
    names = {file["path"] for file in merged["files"]}
    for file in old["files"]:
        if variant_of(file["path"]) in kept and file["path"] not in names:
            merged["files"].append(file)
    merged["files"].sort(key=lambda file: file["path"])
    merged["components"] = {**_kept_components(old, kept), **merged["components"]}
    merged["settings"]["attention"] = [
        name for name in ATTENTIONS if any(variant.startswith(name + "/") for variant in merged["variants"])
    ]
    return dict(old if same_manifest(old, merged) else merged)


def _kept_components(old: Mapping[str, Any], kept: Iterable[str]) -> dict[str, Any]:
    """Measurements of components (`unet/original`, `vae_decoder`) that kept variants still need."""
    attentions = {name.partition("/")[0] for name in kept}
    components = old.get("components", {})
    return {
        name: value for name, value in components.items() if "/" not in name or name.partition("/")[2] in attentions
    }


def same_manifest(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    """Equal but for what changes by itself: the run (time, CI address), and how long each step took."""
    return one is not None and _lasting(one) == _lasting(other)


def _lasting(manifest: Mapping[str, Any]) -> dict[str, Any]:
    components = {
        name: {key: value for key, value in component.items() if key != "steps"}
        for name, component in manifest.get("components", {}).items()
        if isinstance(component, Mapping)
    }
    return {**manifest, "run": None, "components": components}


def diff(release: Release, files: Iterable[Artifact], remote: RemoteState) -> list[Operation]:
    """What one commit has to do: pure.

    `files` are all files of the release (artifacts, card, manifest, signature). Removed are
    files that the repo's manifest claims and the release's no longer does, if they lie in
    folders of hubpub's own and are what was claimed; and a signature whose manifest goes.
    """
    files = tuple(files)
    present = {file.path: file for file in remote.files}
    by_digest = {file.sha256: file.path for file in remote.files if file.sha256}
    operations = []
    for artifact in sorted(files, key=lambda file: file.path_in_repo):
        there = present.get(artifact.path_in_repo)
        if there is not None and is_same(artifact, there):
            action, copy = "same", None
        else:
            action = "new" if there is None else "changed"
            copy = by_digest.get(artifact.sha256)
        operations.append(
            Operation(action=action, path=artifact.path_in_repo, size=artifact.size, artifact=artifact, copy_from=copy)
        )
    operations = _settled(operations, release, remote)
    kept = {artifact.path_in_repo for artifact in files} | {file["path"] for file in release.manifest["files"]}
    gone = claimed(remote) - kept
    if SIGNATURE not in kept and any(one.path == MANIFEST and one.action == "changed" for one in operations):
        gone |= {SIGNATURE} & present.keys()
    return [*operations, *(Operation(action="removed", path=path, size=present[path].size) for path in sorted(gone))]


def claimed(remote: RemoteState) -> set[str]:
    """Files of a repo in hubpub's own folders that are there as its manifest claims them."""
    found = set()
    manifest = remote.manifest or {"files": (), "variants": {}}
    claims = {file["path"]: file for file in manifest["files"]}
    for there in remote.files:
        claim, variant = claims.get(there.path), variant_of(there.path)
        ours = variant in manifest["variants"] or there.path.startswith(f"{IMAGES}/")
        if claim is not None and ours and there.size == claim["size"] and there.sha256 in (None, claim["sha256"]):
            found.add(there.path)
    return found


def _settled(operations: list[Operation], release: Release, remote: RemoteState) -> list[Operation]:
    """A manifest that differs in `run` alone is no change when there is no other."""
    changed = [operation for operation in operations if operation.action != "same"]
    if [operation.path for operation in changed] != [MANIFEST] or not same_manifest(remote.manifest, release.manifest):
        return operations
    return [replace(operation, action="same", copy_from=None) for operation in operations]


def is_same(artifact: Artifact, there: RemoteFile) -> bool:
    """Whether a repo's file has the artifact's bytes, by the digest that the repo tells."""
    if there.size != artifact.size:
        return False
    if there.sha256 is not None:
        return there.sha256 == artifact.sha256
    return there.blob_id == blob_id(artifact.path)


def blob_id(path: Path) -> str:
    """git's id of a file's content: what the Hub tells of small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
