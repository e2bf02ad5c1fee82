"""What a folder holds, compared with what it should hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubpub.errors import FetchError, UnsafeArchive
from hubpub.files.digest import Digest, FileRef
from hubpub.files.digests import Digests
from hubpub.files.paths import check_all
from hubpub.plan.names import MANIFEST
from hubpub.release.release import MAX_MANIFEST_BYTES, parse_manifest
from hubpub.remote.download import PARTIAL

_MODELS: Final = (".mlpackage", ".mlmodelc")
_BESIDE_MODELS: Final = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", ".DS_Store")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A file that is not as it was published."""

    path: str
    problem: str


def others(folder: Path, known: set[str]) -> tuple[str, ...]:
    """Files of a folder that are not among `known`."""
    if not folder.is_dir():
        return ()
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if relative in known or relative.partition("/")[0] == PARTIAL or path.name == ".DS_Store":
            continue
        if path.is_symlink() or not path.is_dir():
            found.append(relative)
    return tuple(found)


def is_whole(folder: Path, known: Mapping[str, Any], digests: Digests) -> bool:
    """Whether a folder holds exactly what fetch recorded."""
    files = _recorded(known)
    if not all(file.is_at(folder / file.path, digests) for file in files):
        return False
    return not others(folder, {file.path for file in files})


def remove_stale(folder: Path, extra: Sequence[str]) -> tuple[str, ...]:
    """Remove files that lie inside models: there they do harm. Other files of the folder stay."""
    removed = [path for path in extra if "/" in path and path.partition("/")[0].endswith(_MODELS)]
    for path in removed:
        (folder / path).unlink()
        parent = (folder / path).parent
        with suppress(OSError):  # not empty
            while parent != folder:
                parent.rmdir()
                parent = parent.parent
    return tuple(removed)


def check_replaceable(folder: Path, *, force: bool) -> None:
    """Raise unless `folder` may be replaced: it is missing or empty, or with `force` holds models and nothing else."""
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in names if not name.endswith(_MODELS) and name not in _BESIDE_MODELS]
    if foreign:
        raise FetchError(
            f"{folder} holds other things than models ({', '.join(foreign[:3])}) and would be replaced.",
            hint="Choose another folder with --dest.",
        )
    if names and not force:
        raise FetchError(
            f"{folder} is there already and is not what the archive holds.",
            hint="Replace it with --force, or choose another folder with --dest.",
        )


def check(folder: Path, known: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Read every byte of a folder and compare it with what fetch recorded (`FetchCache.fetched`)."""
    return _compare(folder, _recorded(known))


def check_release(folder: Path) -> tuple[Finding, ...] | None:
    """Read every byte of a folder that `convert` wrote and compare it with its hubpub.json; None without a manifest."""
    path = folder / MANIFEST
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        return None
    manifest = parse_manifest(path.read_bytes())
    if manifest is None:
        return (Finding(path=MANIFEST, problem="is not a manifest that can be read"),)
    try:
        check_all(file["path"] for file in manifest["files"])
    except UnsafeArchive as error:
        return (Finding(path=MANIFEST, problem=f"is not safe to use: {error.message}"),)
    listed = [FileRef.from_entry(file) for file in manifest["files"]]
    folders = {f"{name}/" for name in manifest["variants"]}
    found = _compare(folder, listed)
    # beside the variants' folders lies what is not ours
    return tuple(
        finding
        for finding in found
        if finding.problem != _FOREIGN or any(finding.path.startswith(prefix) for prefix in folders)
    )


_FOREIGN: Final = "does not belong to it"


def _recorded(known: Mapping[str, Any]) -> list[FileRef]:
    """The files that fetch recorded, each as `[path, size, digest]`."""
    return [FileRef(path=path, size=size, digest=Digest.parse(digest)) for path, size, digest in known["files"]]


def _compare(folder: Path, listed: Sequence[FileRef]) -> tuple[Finding, ...]:
    findings = []
    for file in listed:
        problem = _problem(folder / file.path, file)
        if problem is not None:
            findings.append(Finding(path=file.path, problem=problem))
    extra = others(folder, {file.path for file in listed})
    return (*findings, *(Finding(path=path, problem=_FOREIGN) for path in extra))


def _problem(path: Path, file: FileRef) -> str | None:
    if path.is_symlink() or not path.is_file():
        return "is missing"
    if path.stat().st_size != file.size:
        return f"has {path.stat().st_size} bytes instead of {file.size}"
    return None if file.digest.is_of(path) else "has other bytes"
