"""Everything that can go wrong, in one tree.

HubpubError               1
├─ ConfigError            2
│  ├─ UnknownKey
│  ├─ UnknownVariant
│  └─ TemplateError
├─ SourceError            3
│  ├─ SourceNotFound
│  ├─ AccessDenied
│  ├─ UnknownArchitecture
│  ├─ UnsafeWeights
│  ├─ LicenceMissing
│  ├─ BadWeights
│  └─ BadTokenizer
├─ PreflightError         4
│  ├─ ToolMissing
│  ├─ NoSpace
│  ├─ NotEnoughMemory
│  └─ CannotWrite
├─ StepFailed             5
│  └─ ParityTooLow
├─ StoreError             6
│  └─ Damaged
├─ PublishError           7
│  ├─ Conflict
│  ├─ UploadFailed
│  ├─ SigningFailed
│  └─ CardInvalid
├─ FetchError             8
│  ├─ NoSuchVariant
│  ├─ DigestMismatch
│  ├─ SignatureInvalid
│  └─ UnsafeArchive
├─ FindingsError          9
│  └─ FilesChanged
├─ ModelError             10
│  ├─ UnsupportedOps
│  ├─ BadPackage
│  └─ BadInput
└─ IntegrityError          1

The number is the exit status of the program. Ctrl-C is 130, and
`--dry-run --exit-code` answers 11 where something would change.

Damaged, DigestMismatch and FilesChanged are IntegrityErrors as well: wherever it happens, the cause is the same.

An error says what is wrong in one sentence (`message`) and what to do next in
another (`hint`). Errors of other libraries become one of these exactly once, in
the one module that imports that library.
"""

from __future__ import annotations

from collections.abc import Sequence


class HubpubError(Exception):
    """Base of all errors that hubpub raises on purpose."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class IntegrityError(HubpubError):
    """Bytes are not what their digest says: in the store, in a fetch, in a check or before an upload."""


class ConfigError(HubpubError):
    """What was asked for is not something hubpub understands."""

    exit_status = 2


class UnknownKey(ConfigError):
    """A key of `hubpub.toml` that means nothing; the hint names the nearest one that does."""


class UnknownVariant(ConfigError):
    """A value of a knob (attention, bits, format, target) that does not exist."""


class TemplateError(ConfigError):
    """A card template that does not render."""


class SourceError(HubpubError):
    """The source repo, folder or checkout cannot be used."""

    exit_status = 3


class SourceNotFound(SourceError):
    """No such folder, repo or revision."""


class AccessDenied(SourceError):
    """The repo is gated or private, and the token (or its absence) does not open it."""


class UnknownArchitecture(SourceError):
    """Not a diffusers repo, or a model family that hubpub does not convert yet."""


class UnsafeWeights(SourceError):
    """A weight file that could only be read by executing what it contains."""


class LicenceMissing(SourceError):
    """The source names no licence, and none was given."""


class BadWeights(SourceError):
    """A weight file is missing, truncated, or is not what the architecture needs."""


class BadTokenizer(SourceError):
    """A tokenizer's file is damaged, or does not fit the text encoder."""


class PreflightError(HubpubError):
    """Something this machine lacks, found before any work; `problems` lists all of it."""

    exit_status = 4

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[HubpubError] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class ToolMissing(PreflightError):
    """A program or an optional package that the plan needs is not installed."""


class NoSpace(PreflightError):
    """The disk is too full; `missing` is how many bytes more are needed, None where that is not known."""

    def __init__(self, message: str, *, hint: str = "", missing: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.missing = missing


class NotEnoughMemory(PreflightError):
    """The plan needs more memory than there is."""


class CannotWrite(PreflightError):
    """No token, no write access, or a folder that cannot be written."""


class StepFailed(HubpubError):
    """A step of the plan failed; the cause is chained."""

    exit_status = 5


class ParityTooLow(StepFailed):
    """A component's output is too far from the reference."""

    def __init__(
        self, message: str, *, hint: str = "", measured: float | None = None, floor: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.measured = measured
        self.floor = floor


class StoreError(HubpubError):
    """The store of finished steps cannot be used."""

    exit_status = 6


class Damaged(StoreError, IntegrityError):
    """An entry of the store is not what it was when it was written."""


class PublishError(HubpubError):
    """The release could not be delivered; the destination shows what it showed before."""

    exit_status = 7


class Conflict(PublishError):
    """Somebody else published in between."""


class UploadFailed(PublishError):
    """The Hub or the network gave up."""


class SigningFailed(PublishError):
    """The manifest could not be signed: no identity is at hand, or sigstore's services did not take it."""


class CardInvalid(PublishError):
    """The Hub would refuse the card's front matter."""


class FetchError(HubpubError):
    """A variant could not be brought back."""

    exit_status = 8


class NoSuchVariant(FetchError):
    """The repo does not offer that variant; the message lists those it does."""


class DigestMismatch(FetchError, IntegrityError):
    """A file that arrived, or that is to be sent, is not the file that was published."""


class SignatureInvalid(FetchError):
    """The manifest is not signed, was changed after it was signed, or somebody else signed it."""


class UnsafeArchive(FetchError):
    """An archive or a file list that would write outside its folder."""


class FindingsError(HubpubError):
    """verify or audit found something wrong; `findings` lists all of it."""

    exit_status = 9

    def __init__(self, message: str, *, hint: str = "", findings: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class FilesChanged(FindingsError, IntegrityError):
    """A check found files that are not what they were when they were published or stored."""


class ModelError(HubpubError):
    """A Core ML package cannot be read, compiled or run."""

    exit_status = 10


class UnsupportedOps(ModelError):
    """Operations that the runtime or the compiler does not know; `ops` lists all of them."""

    def __init__(self, message: str, *, hint: str = "", ops: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.ops = tuple(ops)


class BadPackage(ModelError):
    """The package's files are missing, truncated or contradict each other."""


class BadInput(ModelError):
    """An input whose name, shape or dtype is not what the model declares."""


def raise_problems(problems: Sequence[HubpubError]) -> None:
    """Raise what a preflight found: one problem as it is, several in one PreflightError."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listing = "".join(f"\n  - {problem.message} {problem.hint}".rstrip() for problem in problems)
        raise PreflightError(
            f"{len(problems)} things are in the way:{listing}", hint="Nothing was started.", problems=problems
        )
