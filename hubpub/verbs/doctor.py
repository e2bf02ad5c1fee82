"""doctor: what this machine, this account and this store lack, each with what to do about it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import psutil

from hubpub import __version__
from hubpub.errors import Damaged, HubpubError, PreflightError, ToolMissing
from hubpub.files import disk as disks
from hubpub.files.processes import find_coremlcompiler
from hubpub.files.sizes import human
from hubpub.verbs.session import Session

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub

State = Literal["ok", "note", "broken"]

OLDEST_PYTHON: Final = (3, 11)
# What a model of Stable Diffusion 1.5's size takes, both attentions, all formats, with the source (bytes).
_ROOM: Final = 15 * 10**9
# What the numeric gate takes for its UNet; without it half a gigabyte is enough.
_MEMORY: Final = 5 * 10**9
_LEAST_MEMORY: Final = 10**9

# Distributions by the part of hubpub that they belong to, with the name they are imported by.
_PARTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "packages": (
        ("huggingface_hub", "huggingface_hub"),
        ("numpy", "numpy"),
        ("numba", "numba"),
        ("protobuf", "google.protobuf"),
        ("hf-xet", "hf_xet"),
    ),
    "numeric": (
        ("torch", "torch"),
        ("diffusers", "diffusers"),
        ("transformers", "transformers"),
    ),
    "coreml": (("coremltools", "coremltools"),),
    "local": (("starlette", "starlette"), ("uvicorn", "uvicorn")),
    "report": (("vl-convert-python", "vl_convert"),),
    "sign": (("sigstore", "sigstore"),),
}
# What the parts that can be left out are for.
_FOR: Final = {
    "numeric": "For --verify numeric and full, and for pictures",
    "coreml": "For a second reader of packages in --verify numeric",
    "local": "For --endpoint local and `hubpub demo`",
    "report": "For the charts of `hubpub report`",
    "sign": "For --sign and --verify-signature",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: what was looked at, how it is, and what to do where it is not right."""

    name: str
    state: State
    found: str
    to_do: str = ""

    def to_json(self) -> dict[str, Any]:
        """The line for programs."""
        return asdict(self)


def examine(session: Session, *, anonymous: bool = False) -> Iterator[Check]:
    """All checks, in order; those of the Hub wait for it. `anonymous`: ask no account."""
    yield python()
    for part in _PARTS:
        yield packages(part)
    yield compiler()
    yield memory()
    yield disk(session.root)
    yield store(session)
    reached = endpoint(session)
    yield reached
    if reached.state == "ok" and not anonymous:
        yield account(session.hub)


def raise_broken(checks: list[Check]) -> None:
    """PreflightError where something that is needed is broken."""
    broken = [check for check in checks if check.state == "broken"]
    if broken:
        problems = [PreflightError(f"{check.name}: {check.found}", hint=check.to_do) for check in broken]
        names = ", ".join(check.name for check in broken)
        raise PreflightError(
            f"{len(broken)} of {len(checks)} checks failed: {names}.",
            hint="What to do stands beside each.",
            problems=problems,
        )


def python() -> Check:
    """The interpreter and the machine."""
    found = f"{platform.python_version()} ({platform.system()} {platform.machine()}), hubpub {__version__}"
    if sys.version_info < OLDEST_PYTHON:
        return Check(name="python", state="broken", found=found, to_do="Install Python 3.11 or newer.")
    return Check(name="python", state="ok", found=found)


def packages(part: str) -> Check:
    """The packages of one part of hubpub; only those of the first part are needed."""
    there = {name: _version(name) for name, module in _PARTS[part] if _importable(module)}
    absent = [name for name, _ in _PARTS[part] if name not in there]
    found = ", ".join(f"{name} {number}" for name, number in there.items())
    if not absent:
        return Check(name=part, state="ok", found=found)
    found = f"without {', '.join(absent)}" + (f"; {found}" if found else "")
    if part not in _FOR:
        return Check(name=part, state="broken", found=found, to_do="Install hubpub again: `pip install hubpub`.")
    return Check(name=part, state="note", found=found, to_do=f"{_FOR[part]}: `pip install 'hubpub[{part}]'`.")


def compiler() -> Check:
    """Xcode's compiler; the portable one is always there."""
    try:
        return Check(name="compiler", state="ok", found=f"portable, and Apple's at {find_coremlcompiler()}")
    except ToolMissing as error:
        reason = error.message.rstrip(".")
        return Check(
            name="compiler",
            state="note",
            found=f"portable ({reason})",
            to_do="Nothing: bundles are compiled without a Mac. Only --compiler apple needs Xcode.",
        )


def memory() -> Check:
    """Memory that is free now."""
    usage = psutil.virtual_memory()
    found = f"{human(usage.available)} of {human(usage.total)} free"
    if usage.total < _LEAST_MEMORY:
        return Check(name="memory", state="broken", found=found, to_do=f"hubpub needs {human(_LEAST_MEMORY)}.")
    if usage.available < _MEMORY:
        to_do = "Use --verify weights for full-size models: the numeric gate runs the UNet."
        return Check(name="memory", state="note", found=found, to_do=to_do)
    return Check(name="memory", state="ok", found=found)


def disk(root: Path) -> Check:
    """Room where the store is."""
    free = disks.free(root)
    found = f"{human(free)} free at {root}"
    if not os.access(disks.nearest(root), os.W_OK):
        to_do = "Set HUBPUB_CACHE to a folder that can be written."
        return Check(name="disk", state="broken", found=f"{root} cannot be written", to_do=to_do)
    if free < _ROOM:
        to_do = f"A full-size model takes about {human(_ROOM)}: free some, or set HUBPUB_CACHE to a larger disk."
        return Check(name="disk", state="note", found=found, to_do=to_do)
    return Check(name="disk", state="ok", found=found)


def store(session: Session) -> Check:
    """Whether the store's entries can be read, and what killed runs left in it."""
    root = session.root
    if not root.is_dir():
        return Check(name="store", state="ok", found=f"{root} is not there yet")
    try:
        opened = session.store
        entries = list(opened.entries())
        lost = [
            entry for entry in entries for file in entry.files if not _is_whole(entry.payload / file.path, file.size)
        ]
        stale = sum(1 for _ in opened.stale_work())
    except Damaged as error:
        return Check(name="store", state="broken", found=error.message, to_do="`hubpub cache verify` removes it.")
    except HubpubError as error:
        return Check(name="store", state="broken", found=error.message, to_do=error.hint)
    found = f"{len(entries)} steps, {human(sum(entry.size for entry in entries))}"
    if lost:
        labels = ", ".join(sorted({entry.label for entry in lost}))
        to_do = "`hubpub cache verify` removes damaged steps; they are made again when needed."
        return Check(name="store", state="broken", found=f"{found}; not whole: {labels}", to_do=to_do)
    if stale:
        to_do = "`hubpub cache prune --older-than 36500` removes these alone."
        return Check(name="store", state="note", found=f"{found}; {stale} folders of killed runs", to_do=to_do)
    return Check(name="store", state="ok", found=found)


def endpoint(session: Session) -> Check:
    """Whether the Hub answers."""
    try:
        asked = session.hub
        if asked.offline:
            to_do = "Unset HF_HUB_OFFLINE to publish, or to fetch what is not here."
            return Check(name="endpoint", state="note", found="HF_HUB_OFFLINE is set", to_do=to_do)
        return Check(name="endpoint", state="ok", found=f"{asked.endpoint} answers in {asked.ping():.2f} s")
    except HubpubError as error:
        return Check(name="endpoint", state="broken", found=error.message, to_do=error.hint)


def account(hub: Hub) -> Check:
    """Whose token it is, and what it may."""
    if hub.token is None:
        to_do = "To publish, log in with `hf auth login`, or set HF_TOKEN. Fetching public models needs none."
        return Check(name="token", state="note", found="none", to_do=to_do)
    try:
        user = hub.whoami()
    except HubpubError as error:
        return Check(name="token", state="broken", found=error.message, to_do=error.hint)
    owners = ", ".join((user.name, *user.orgs))
    named = f" {user.token_name!r}" if user.token_name else ""
    if user.can_write is False:
        to_do = "To publish, make a token that may write in the Hub's settings."
        return Check(name="token", state="note", found=f"token{named} of {user.name} may only read", to_do=to_do)
    if user.can_write is None:
        to_do = "The Hub does not say what the token may: `hubpub publish --dry-run` works, publishing may be refused."
        return Check(name="token", state="note", found=f"token{named} of {user.name}", to_do=to_do)
    return Check(name="token", state="ok", found=f"token{named} may write to {user.only or f'repos of {owners}'}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that the module would be in
        return False


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
