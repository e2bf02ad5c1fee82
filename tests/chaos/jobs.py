"""The commands that are killed, and what must hold after every kill and at the end of the last run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from huggingface_hub import snapshot_download

from hubpub.engine.store import Store
from hubpub.localhub import LocalHub
from hubpub.localhub.storage.git import Commit
from hubpub.plan.names import MANIFEST
from hubpub.remote.cache import FetchCache
from hubpub.remote.download import PARTIAL
from hubpub.remote.hub import Hub
from hubpub.verbs.fetch import run
from tests.chaos import scene
from tests.chaos.scene import REPO, TEXTS, VARIANT, ZIPPED, Scene, Tree

Kind = Literal["half-published", "wrong file", "damaged store", "not resumed", "left behind"]
TAG: Final = "v2"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that must not be."""

    kind: Kind
    what: str


class Job(Protocol):
    """One command in a folder of its own, started as often as need be.

    `slow` are the requests that content travels in, and `rate` the bytes a second that it does: so little is on its way
    at any moment that what one side has sent, the other has.
    """

    command: list[str]
    environment: Mapping[str, str]
    slow: str
    rate: float

    def problems(self, *, ended: bool) -> Iterator[Problem]:
        """What is wrong now; `ended` when the command has come to its end."""
        ...

    def moved(self) -> int:
        """Bytes of content that the Hub has seen pass so far, in all runs."""
        ...


class Convert:
    """A source becomes a folder. The store is empty at first; the folder is so too, or holds the old release."""

    def __init__(self, at: Scene, folder: Path, *, updates: bool) -> None:
        self._scene, self._out = at, folder / "out"
        self._store = Store(folder / "store")
        self._made: dict[str, float] = {}
        if updates:
            scene.copy(at.old.folder, self._out)
        self.command = scene.command("convert", *scene.making(scene.NEW_BITS), "--out", str(self._out), "--quiet")
        self.environment = scene.environment(folder, store=self._store.root)
        self.slow, self.rate = "", math.inf

    def problems(self, *, ended: bool) -> Iterator[Problem]:
        yield from _in_store(self._store)
        for entry in self._store.entries():
            if self._made.setdefault(entry.key, entry.created) != entry.created:
                yield Problem(kind="not resumed", what=f"{entry.label} was made again")
        yield from _in_folder(self._out, self._scene.old.files, self._scene.new.files, ended=ended)
        left = sorted(path.name for path in (self._store.root / "work").iterdir())
        if ended and left:
            yield Problem(kind="left behind", what=f"work of the store: {left}")

    def moved(self) -> int:
        return 0


class Publish:
    """A source whose steps are done goes to a repo: one that is missing or holds the old release; or a pull request."""

    def __init__(self, at: Scene, folder: Path, hub: LocalHub, *, xet: bool, pull: bool) -> None:
        self._scene, self._hub, self._xet, self._pull = at, hub, xet, pull
        self._store = Store(at.store)
        self._folder = folder
        self._readers: dict[str, Tree] = {}
        self._first = {commit.id for commit in self._log("heads/main")}
        way = ("--create-pr",) if pull else ("--tag", TAG)
        self.command = scene.command(
            "publish", *scene.making(scene.NEW_BITS), "--endpoint", hub.endpoint, "--quiet", *way
        )
        self.environment = scene.environment(folder, store=at.store, xet=xet, token=hub.token)
        self.slow, self.rate = "/lfs/put|/xorbs/|/commit/", 8e6

    def problems(self, *, ended: bool) -> Iterator[Problem]:
        yield from _in_store(self._store)
        refs = self._refs()
        main = self._log("heads/main")
        shown = [*main, *(self._log(name)[0] for name in refs if name.startswith("pr/"))]
        new = [commit for commit in shown if commit.parents and commit.id not in self._first]
        for commit in new:
            yield from self._half(commit)
        if len(new) > 1 or (self._pull and len(main) > len(self._first)):
            yield Problem(kind="half-published", what=f"{len(new)} commits: {[commit.title for commit in new]}")
        if ended and not new:
            yield Problem(kind="not resumed", what="the release is not there")
        if ended and not self._pull and refs.get(f"tags/{TAG}") not in {commit.id for commit in new}:
            yield Problem(kind="not resumed", what="the commit has no tag")

    def moved(self) -> int:
        return self._hub.received("xet" if self._xet else "lfs") + self._hub.received("commit")

    def _half(self, commit: Commit) -> Iterator[Problem]:
        """A reader who takes this commit finds the new release, as its manifest says."""
        taken = self._taken(commit)
        manifest = (taken.folder / MANIFEST).read_bytes()
        if taken.files != self._scene.new.files or scene.listed(manifest) != taken.files:
            what = f"{commit.title}: {_difference(taken.files, self._scene.new.files)}"
            yield Problem(kind="half-published", what=what)

    def _taken(self, commit: Commit) -> Tree:
        """What a reader gets with the Hub's own client."""
        if commit.id not in self._readers:
            place = snapshot_download(
                REPO,
                revision=commit.id,
                local_dir=self._folder / "readers" / commit.id,
                endpoint=self._hub.endpoint,
                token=self._hub.token,
            )
            shutil.rmtree(Path(place, ".cache"))
            self._readers[commit.id] = Tree.of(Path(place))
        return self._readers[commit.id]

    def _refs(self) -> dict[str, str]:
        there = (self._hub.root / "repos/models" / REPO).is_dir()
        return self._hub.storage.repo(REPO).refs() if there else {}

    def _log(self, ref: str) -> list[Commit]:
        """The commits of a ref, newest first."""
        refs = self._refs()
        if ref not in refs:
            return []
        repo = self._hub.storage.repo(REPO)
        return list(repo.log(repo.commit(refs[ref])))


class Fetch:
    """A variant comes to a folder that is empty or holds the old release; as files, or as an archive."""

    def __init__(self, at: Scene, folder: Path, hub: LocalHub, *, archive: bool, updates: bool) -> None:
        self._archive, self._hub = archive, hub
        self._old, self._new = (tree.below(ZIPPED if archive else VARIANT) for tree in (at.old, at.new))
        self._out = folder / "models" / "out"
        if updates:
            api, cache = Hub(hub.endpoint, hub.token), FetchCache(folder / "store")
            run(REPO, _variant(archive), revision=at.first, hub=api, cache=cache, dest=self._out, archive=archive)
        self._before = self._sent()
        self.command = scene.command(
            "fetch", REPO, "--variant", _variant(archive), "--endpoint", hub.endpoint, "--dest", str(self._out),
            "--quiet", *(("--zip",) if archive else ()),
        )  # fmt: skip
        self.environment = scene.environment(folder, store=folder / "store", token=hub.token)
        self.slow, self.rate = "/cdn/", 2e6

    def problems(self, *, ended: bool) -> Iterator[Problem]:
        yield from _in_folder(self._out, self._old, self._new, ended=ended, whole=self._archive)
        beside = [path.name for path in self._out.parent.iterdir() if path != self._out] if ended else []
        if beside:
            yield Problem(kind="left behind", what=f"beside the folder: {beside}")

    def moved(self) -> int:
        return self._sent() - self._before

    def _sent(self) -> int:
        return sum(seen.sent for seen in self._hub.requests if "/cdn/" in seen.path)


def _variant(archive: bool) -> str:
    return ZIPPED if archive else VARIANT


def _in_store(store: Store) -> Iterator[Problem]:
    """What `hubpub cache verify` would find."""
    for key in store.unreadable():
        yield Problem(kind="damaged store", what=f"{key[:12]} cannot be read")
    for entry in store.entries():
        if wrong := store.damage(entry):
            yield Problem(kind="damaged store", what=f"{entry.label}: {wrong}")


def _in_folder(
    folder: Path, old: Mapping[str, str], new: Mapping[str, str], *, ended: bool, whole: bool = False
) -> Iterator[Problem]:
    """Files under their final names are those of a release; where `whole` is asked, all of them are there or none."""
    found = {path: sha for path, sha in scene.digests(folder).items() if path not in TEXTS}
    final = {path: sha for path, sha in found.items() if not path.startswith(f"{PARTIAL}/")}
    for path, sha in final.items():
        if sha not in (old.get(path), new.get(path)):
            yield Problem(kind="wrong file", what=path)
    if whole and final not in ({}, old, new):
        yield Problem(kind="wrong file", what=f"neither release: {_difference(final, new)}")
    if ended and final != new:
        yield Problem(kind="not resumed", what=_difference(final, new))
    if ended and found != final:
        yield Problem(kind="left behind", what=", ".join(sorted(found.keys() - final.keys())))


def _difference(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Some paths in which two trees differ."""
    paths = sorted(path for path in {*found, *wanted} if found.get(path) != wanted.get(path))
    return f"{len(paths)} files differ: {', '.join(paths[:3])}"
