"""Catalog: which variants a repo offers. The manifest says it first, known layouts second. Pure.

Layouts, as published repos have them: `{attention}/{packages,compiled}/…` (Apple's and
ours), `packages/` and `compiled/` at the root (Apple's xl-base), one folder named like an
archive's stem (xl-base-ios), archives `<repo>_{attention}_compiled.zip` at the root, and
archives in a folder per attention (`split-einsum/…zip`, coreml-community). So: a folder
that holds models is a variant, and so is an archive; its attention is in its path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from hubpub.errors import DigestMismatch, NoSuchVariant
from hubpub.files.digest import FileRef
from hubpub.files.paths import check_all
from hubpub.release.release import RemoteState, variant_of

_FORMAT: Final = {".mlpackage": "packages", ".mlmodelc": "compiled"}
# The longest first: split_einsum is the beginning of split_einsum_v2.
_ATTENTION: Final = re.compile(r"split[-_]einsum[-_]v2|split[-_]einsum|original", re.IGNORECASE)
_JUNK: Final = re.compile(r"(.*/)?(\.DS_Store|Thumbs\.db|desktop\.ini|\._[^/]*)|(.*/)?__MACOSX/.*")
_CONTROLNETS: Final = "controlnet"
_TOKENIZER: Final = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, kw_only=True)
class OfferedFile(FileRef):
    """A file of a variant: `path` is its name in the variant's own folder."""

    path_in_repo: str


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A variant that a repo has. `known_from` is `manifest` or `layout`."""

    name: str  # original/packages
    format: str  # packages, compiled, zip
    files: tuple[OfferedFile, ...]
    known_from: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The variant for programs."""
        return {"variant": self.name, "files": len(self.files), "bytes": self.size}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A variant that was chosen, at a commit; its files' names are safe to write."""

    repo_id: str
    commit: str | None
    offer: Offer


def offers(state: RemoteState) -> tuple[Offer, ...]:
    """Every variant of a repo, by name."""
    listed = _from_manifest(state)
    known = {file.path_in_repo for offer in listed for file in offer.files}
    found = _from_layout([file for file in state.files if file.path not in known], {offer.name for offer in listed})
    return tuple(sorted((*listed, *found), key=lambda offer: offer.name))


def select(state: RemoteState, name: str) -> Selection:
    """The variant called `name`. NoSuchVariant lists all names; UnsafeArchive and DigestMismatch say why not."""
    there = {offer.name: offer for offer in offers(state)}
    name = name.strip("/")
    if name not in there:
        what = f"{state.repo_id} has no variant {name!r}"
        if not there:
            raise NoSuchVariant(f"{what}: it holds no Core ML models.", hint="Is it the right repo and revision?")
        near = get_close_matches(name, there, n=1)
        raise NoSuchVariant(
            f"{what}; it has {', '.join(there)}.",
            hint=f"Choose one with --variant, for example {(near or [*there])[0]}.",
        )
    offer = there[name]
    check_all(file.path for file in offer.files)
    _check_listing(state, offer)
    return Selection(repo_id=state.repo_id, commit=state.commit, offer=offer)


def archive_of(name: str) -> str:
    """The archive that holds a variant's compiled models: `original/packages` → `original/zip`."""
    stem, slash, form = name.strip("/").rpartition("/")
    return f"{stem}/zip" if slash and form in ("packages", "compiled") else name


def _check_listing(state: RemoteState, offer: Offer) -> None:
    """What the manifest says of a file must be what the Hub has, before a byte is downloaded."""
    there = {file.path: file for file in state.files}
    for file in offer.files:
        found = there.get(file.path_in_repo)
        if found is None:
            raise DigestMismatch(
                f"hubpub.json of {state.repo_id} lists {file.path_in_repo}, and the repo does not have it.",
                hint="Choose another --revision, or tell the repo's owner to publish again.",
            )
        if found.contradicts(file):
            raise DigestMismatch(
                f"{file.path_in_repo} of {state.repo_id} is not the file that hubpub.json lists.",
                hint="Choose another --revision, or tell the repo's owner to publish again.",
            )


def _from_manifest(state: RemoteState) -> list[Offer]:
    if state.manifest is None:
        return []
    groups: dict[str, list[OfferedFile]] = {}
    for entry in state.manifest["files"]:
        file = FileRef.from_entry(entry)
        name = variant_of(file.path)
        if name is not None and name in state.manifest["variants"]:
            inside = file.path if name.endswith("/zip") else file.path[len(name) + 1 :]
            groups.setdefault(name, []).append(_offered(file, inside))
    return [_offer(name, name.rpartition("/")[2], files, "manifest") for name, files in groups.items()]


def _from_layout(files: Iterable[FileRef], taken: set[str]) -> list[Offer]:
    files = [file for file in files if not _JUNK.fullmatch(file.path)]
    folders: dict[tuple[str, str], list[FileRef]] = {}  # (folder that holds models, format) → their files
    for file in files:
        holder = _holder(file.path)
        if holder is not None:
            folders.setdefault(holder, []).append(file)
    for (folder, _), held in folders.items():
        held.extend(file for file in files if _is_tokenizer(file.path, folder))
    archives = [file for file in files if file.path.endswith(".zip")]
    named = _names(folders, archives, taken)
    found = [
        _offer(named[key], key[1], [_offered(file, file.path[len(key[0]) :]) for file in held], "layout")
        for key, held in folders.items()
    ]
    for file in archives:
        name = named[file.path, "zip"]
        found.append(_offer(name, "zip", [_offered(file, file.path.rpartition("/")[2])], "layout"))
    # what the manifest names is that and no more, whatever else lies in its folder
    return [offer for offer in found if offer.name not in taken]


def _holder(path: str) -> tuple[str, str] | None:
    """The folder (with its slash) that holds the model which a file is part of, and the model's format."""
    parts = path.split("/")
    for number, part in enumerate(parts[:-1]):
        form = _FORMAT.get(part[part.rfind(".") :].lower())
        if form is not None:
            above = parts[:number]
            if above[-1:] == [_CONTROLNETS]:  # they belong to the models of the folder above
                above = above[:-1]
            return "".join(f"{part}/" for part in above), form
    return None


def _names(
    folders: Mapping[tuple[str, str], object], archives: Iterable[FileRef], taken: set[str]
) -> dict[tuple[str, str], str]:
    """ATTENTION/FORMAT where exactly one folder or archive can be meant by it, else the path and the format."""
    keys = [*folders, *((file.path, "zip") for file in archives)]
    short = {key: _short_name(*key) for key in keys}
    names = {}
    for key in keys:
        name = short[key]
        if list(short.values()).count(name) > 1 or name in taken:
            stem = key[0].removesuffix(".zip").strip("/")
            name = stem if stem.endswith("/" + key[1]) else f"{stem}/{key[1]}".lstrip("/")
        names[key] = name
    return names


def _short_name(path: str, form: str) -> str:
    found = _ATTENTION.findall(path)
    attention = found[-1].lower().replace("-", "_") if found else ""
    return f"{attention}/{form}" if attention else form


def _is_tokenizer(path: str, folder: str) -> bool:
    return path.startswith(folder) and path[len(folder) :] in _TOKENIZER


def _offered(file: FileRef, path: str) -> OfferedFile:
    return OfferedFile(path_in_repo=file.path, path=path, size=file.size, digest=file.digest)


def _offer(name: str, form: str, files: Iterable[OfferedFile], known_from: str) -> Offer:
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return Offer(name=name, format=form, files=ordered, known_from=known_from)
