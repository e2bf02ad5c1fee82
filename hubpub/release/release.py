"""Release: the content of one commit, its manifest, and the difference from the repo's current content.

The manifest (`hubpub.json`) names every file with size and sha256, the variants,
the source, the settings and the measurements. It is data for programs: `fetch`
verifies files against it, `publish` merges it with the new one, the card is rendered from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hubpub.errors import ConfigError
from hubpub.files.digest import FileRef
from hubpub.plan.names import IMAGES, MANIFEST, SIGNATURE
from hubpub.plan.variant import ATTENTIONS, FORMATS
from hubpub.release.artifact import Artifact

MANIFEST_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Manifests are untrusted: larger ones are ignored.
MAX_MANIFEST_BYTES = 32 << 20
# All variants of a repo have the same bits, latent size, batch and target.
SHARED_SETTINGS = ("bits", "latent", "batch", "target")


@dataclass(frozen=True, kw_only=True)
class Release:
    """The content of one commit."""

    repo_id: str
    artifacts: tuple[Artifact, ...]  # the models and archives of this run
    manifest: Mapping[str, Any]  # merged with the variants that the repo keeps
    card: str  # README.md
    message: str  # of the commit
    signature: str | None = None  # of the manifest, by sigstore

    def manifest_text(self) -> str:
        """The text of hubpub.json."""
        return json.dumps(self.manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class RemoteState:
    """The content of a repo at one commit; `commit` is None for an empty repo or folder."""

    repo_id: str
    commit: str | None
    files: tuple[FileRef, ...]
    manifest: Mapping[str, Any] | None = None
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One file operation of a commit. `action` is `new`, `changed`, `same` or `removed`.

    `copy_from` is a path in the repo with the same bytes, at `copy_revision` (None: the
    parent commit).
    """

    action: str
    path: str
    size: int
    artifact: Artifact | None = None
    copy_from: str | None = None
    copy_revision: str | None = None


def parse_manifest(data: bytes) -> dict[str, Any] | None:
    """The manifest in `data`, or None if it cannot be used: too large, another format, or incomplete."""
    if len(data) > MAX_MANIFEST_BYTES:
        return None
    try:
        manifest = json.loads(data)
        valid = manifest["format"] == MANIFEST_FORMAT and all(_is_file(file) for file in manifest["files"])
        tables = (manifest["variants"], manifest.get("settings", {}), manifest.get("components", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if valid and all(isinstance(table, dict) for table in tables) else None


def _is_file(file: Mapping[str, Any]) -> bool:
    path, size, digest = file["path"], file["size"], file["sha256"]
    valid = isinstance(path, str) and isinstance(size, int) and not isinstance(size, bool) and size >= 0
    return valid and isinstance(digest, str) and _SHA256.fullmatch(digest) is not None


def variant_of(path: str) -> str | None:
    """The variant of a file in a repo, such as `original/packages` or `original/zip`; None for other files."""
    parts = path.split("/")
    if len(parts) > 2 and parts[0] in ATTENTIONS and parts[1] in FORMATS:
        return "/".join(parts[:2])
    if len(parts) == 1 and path.endswith("_compiled.zip"):
        # longest first: split_einsum is a prefix of split_einsum_v2
        for attention in sorted(ATTENTIONS, key=len, reverse=True):
            if path.endswith(f"_{attention}_compiled.zip"):
                return f"{attention}/zip"
    return None


def merge(new: Mapping[str, Any], old: Mapping[str, Any] | None, *, prune: bool = False) -> dict[str, Any]:
    """The repo's manifest after this run: `new`, plus the other variants of `old` (unless `prune`).

    Keys have the order of the written file, so that a card rendered now equals one rendered
    from the file. Raises ConfigError if the kept variants have other bits, latent size, batch
    or target: all variants of a repo must have the same.
    """
    return dict(json.loads(json.dumps(_merge(new, old, prune), sort_keys=True)))


def _merge(new: Mapping[str, Any], old: Mapping[str, Any] | None, prune: bool) -> dict[str, Any]:
    merged = json.loads(json.dumps(new))
    if old is None:
        return dict(merged)
    if same_manifest(old, merged):
        return dict(old)  # new timings alone are not worth a commit
    kept = {name: variant for name, variant in old["variants"].items() if name not in new["variants"]}
    if prune or not kept:
        return dict(merged)
    for key in SHARED_SETTINGS:
        before, now = old.get("settings", {}).get(key), new["settings"][key]
        if before != now:
            raise ConfigError(
                f"The repo's {', '.join(sorted(kept))} has {key} = {before}, but this run has {key} = {now}.",
                hint="Publish all variants of the repo at once, or use another repo for other settings.",
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
    """Whether two manifests are equal, ignoring the run (time, CI address) and the cost of each step."""
    return one is not None and _without_run(one) == _without_run(other)


def _without_run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    components = {
        name: {key: value for key, value in component.items() if key != "steps"}
        for name, component in manifest.get("components", {}).items()
        if isinstance(component, Mapping)
    }
    return {**manifest, "run": None, "components": components}


def diff(release: Release, files: Iterable[Artifact], remote: RemoteState) -> list[Operation]:
    """The operations of one commit that turns `remote` into the release. Pure.

    `files` are all files of the release (artifacts, card, manifest, signature). A file of the
    repo is removed if the repo's manifest lists it, the release's does not, it lies in a
    folder of hubpub, and its digest matches the manifest. The signature of a replaced manifest
    is removed too.
    """
    files = tuple(files)
    present = {file.path: file for file in remote.files}
    by_digest = {file.digest: file.path for file in remote.files}
    operations = []
    for artifact in sorted(files, key=lambda file: file.path):
        remote_file = present.get(artifact.path)
        if remote_file is not None and is_same(artifact, remote_file):
            action, copy = "same", None
        else:
            action = "new" if remote_file is None else "changed"
            copy = by_digest.get(artifact.digest)
        operations.append(
            Operation(action=action, path=artifact.path, size=artifact.size, artifact=artifact, copy_from=copy)
        )
    operations = _without_run_change(operations, release, remote)
    kept = {artifact.path for artifact in files} | {file["path"] for file in release.manifest["files"]}
    removed = claimed(remote) - kept
    if SIGNATURE not in kept and any(step.path == MANIFEST and step.action == "changed" for step in operations):
        removed |= {SIGNATURE} & present.keys()
    return [*operations, *(Operation(action="removed", path=path, size=present[path].size) for path in sorted(removed))]


def claimed(remote: RemoteState) -> set[str]:
    """Paths of the repo's files in hubpub's folders whose size and digest match the repo's manifest."""
    paths = set()
    manifest = remote.manifest or {"files": (), "variants": {}}
    claims = {file["path"]: FileRef.from_entry(file) for file in manifest["files"]}
    for file in remote.files:
        claim, variant = claims.get(file.path), variant_of(file.path)
        in_hubpub_folder = variant in manifest["variants"] or file.path.startswith(f"{IMAGES}/")
        if claim is not None and in_hubpub_folder and not file.contradicts(claim):
            paths.add(file.path)
    return paths


def _without_run_change(operations: list[Operation], release: Release, remote: RemoteState) -> list[Operation]:
    """Mark the manifest as `same` if it is the only change and differs only in `run`."""
    changed = [operation for operation in operations if operation.action != "same"]
    if [operation.path for operation in changed] != [MANIFEST] or not same_manifest(remote.manifest, release.manifest):
        return operations
    return [replace(operation, action="same", copy_from=None) for operation in operations]


def is_same(artifact: Artifact, listed: FileRef) -> bool:
    """Whether a repo's file has the artifact's bytes, by the digest in the repo's listing."""
    if listed.contradicts(artifact):
        return False
    return listed.digest == artifact.digest or listed.digest.is_of(artifact.source)
