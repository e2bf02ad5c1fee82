"""Two releases of one repo and a Hub that shows the first, prepared once and copied for every round.

The source is the small one that hubpub carries, whose graphs are shipped: nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubpub.localhub import Storage
from hubpub.plan.names import CARD, MANIFEST
from hubpub.verbs.demo import SOURCE

REPO: Final = "me/coreml-digits-palettized"
VARIANT: Final = "original/packages"
ZIPPED: Final = "original/compiled"
# What the two releases differ in: the look-up tables of the UNet and the text encoder, and all graphs of those.
OLD_BITS, NEW_BITS = "8", "6"
TEXTS: Final = frozenset({CARD, MANIFEST, ".gitattributes"})


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A release on disk. `files`: sha256 by path, without the card and the manifest, which tell the time."""

    folder: Path
    files: Mapping[str, str]

    @classmethod
    def of(cls, folder: Path) -> Tree:
        return cls(folder=folder, files={path: sha for path, sha in digests(folder).items() if path not in TEXTS})

    def below(self, prefix: str) -> dict[str, str]:
        """The files of one folder, by their paths in it."""
        return {path[len(prefix) + 1 :]: sha for path, sha in self.files.items() if path.startswith(f"{prefix}/")}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """`store` has every step of both releases. Two data folders of embedded Hubs: `hub` shows `old`, `both` shows
    `new` and has `old` at the commit `first`."""

    old: Tree
    new: Tree
    store: Path
    hub: Path
    both: Path
    first: str

    @classmethod
    def at(cls, folder: Path) -> Scene:
        """The scene in `folder`, which is made where it is missing."""
        if not folder.is_dir():
            making = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(making, ignore_errors=True)
            _prepare(making)
            making.rename(folder)
        repo = Storage(folder / "both").repo(REPO)
        head = repo.find("main")
        return cls(
            old=Tree.of(folder / "old"),
            new=Tree.of(folder / "new"),
            store=folder / "store",
            hub=folder / "hub",
            both=folder / "both",
            first=head.parents[0],
        )


def _prepare(folder: Path) -> None:
    for name, bits in (("old", OLD_BITS), ("new", NEW_BITS)):
        subprocess.run(
            command("convert", *making(bits), "--out", str(folder / name)),
            env=environment(folder, store=folder / "store"),
            check=True,
            capture_output=True,
        )
    Storage(folder / "hub").import_folder(REPO, folder / "old", message="Old release")
    copy(folder / "hub", folder / "both")
    Storage(folder / "both").import_folder(REPO, folder / "new", message="New release")


def making(bits: str) -> tuple[str, ...]:
    """The source and what is made of it; steps run one by one, so that a kill meets each of them."""
    return (str(SOURCE), "--to", REPO, "--name", "org/digits", "--bits", bits, "--verify", "weights", "--jobs", "1")


def command(*arguments: str) -> list[str]:
    """hubpub, as a process of this interpreter."""
    return [sys.executable, "-m", "hubpub", *arguments]


def environment(home: Path, *, store: Path, xet: bool = True, token: str = "") -> dict[str, str]:
    """Nothing of the user's: a home, a store and caches below `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUBPUB_"))}
    return {
        **kept,
        "HOME": str(home / "home"),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "0" if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": token,
        "HUBPUB_CACHE": str(store),
        "OMP_NUM_THREADS": "1",
    }


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def listed(manifest: bytes) -> dict[str, str]:
    """sha256 by path, as a manifest tells."""
    return {file["path"]: file["sha256"] for file in json.loads(manifest)["files"]}


def copy(source: Path, target: Path) -> Path:
    """A copy of a folder that may be changed."""
    return Path(shutil.copytree(source, target))
