"""report: a release as one page to look at. Folder or repo → HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubpub.errors import ConfigError, DigestMismatch, FetchError
from hubpub.files.digest import FileRef
from hubpub.files.disk import writing
from hubpub.files.paths import check_relative
from hubpub.files.repo_ids import check_repo_id
from hubpub.plan.names import MANIFEST
from hubpub.release.release import MAX_MANIFEST_BYTES, parse_manifest
from hubpub.release.report_page import Picture, render
from hubpub.verbs.session import Session, using

# A page with pictures must still open on a phone.
_MAX_PICTURES, _MAX_PICTURE_BYTES = 12, 3 << 20
_MEDIA = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}

Read = Callable[[str], bytes]  # path in the release → its bytes


@dataclass(frozen=True, kw_only=True)
class Reported:
    """The page that was written; bytes."""

    path: Path
    size: int
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"path": str(self.path), "bytes": self.size, "pictures": self.pictures}


def report(
    target: str | Path,
    out: str | Path = "report.html",
    *,
    revision: str | None = None,
    others: Sequence[str] = (),
    endpoint: str | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> Reported:
    """Write the page of a folder or repo to `out`; `others` are folders or repos of other widths to compare with.

    Raises FetchError where there is no manifest to show, NoSpace or CannotWrite.
    """
    out = Path(out)
    with using(session, endpoint=endpoint, token=token) as opened:
        manifest, read = _open(str(target), opened, revision)
        compared = [_open(other, opened, None)[0] for other in others]
        pictures = _pictures(manifest, read)
    html = render(manifest, others=compared, pictures=pictures)
    with writing(out, hint="Name another file with -o."):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(html, encoding="utf-8", newline="\n")
    return Reported(path=out, size=len(html.encode()), pictures=len(pictures))


def _open(target: str, session: Session, revision: str | None) -> tuple[Mapping[str, Any], Read]:
    """The manifest of a folder or repo, and how to read its files."""
    folder = Path(target)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"{target} is a folder, which has no revisions.", hint="Leave --revision out.")
        return manifest_of(folder), lambda path: _read(folder, path)
    hub = session.hub
    state = hub.state(check_repo_id(target), revision)
    if state is None or state.manifest is None:
        raise FetchError(f"{target} has no manifest of hubpub.", hint="Reports show releases that hubpub has made.")
    commit = state.commit
    return state.manifest, lambda path: hub.read(target, commit, path, limit=_MAX_PICTURE_BYTES)


def manifest_of(folder: Path) -> Mapping[str, Any]:
    """The manifest of a folder that `convert` wrote. Raises ConfigError if the folder has none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {MANIFEST}.", hint="Name a folder that `hubpub convert` has written, or a repo id."
        )
    manifest = parse_manifest(path.read_bytes()) if path.stat().st_size <= MAX_MANIFEST_BYTES else None
    if manifest is None:
        raise ConfigError(f"{path} is not a manifest that can be read.", hint="Convert again.")
    return manifest


def _read(folder: Path, path: str) -> bytes:
    try:
        with (folder / check_relative(path)).open("rb") as file:
            return file.read(_MAX_PICTURE_BYTES)
    except OSError as error:
        raise FetchError(
            f"{path} of {folder} cannot be read: {error.strerror or error}.", hint="Fetch or convert it again."
        ) from error


def _pictures(manifest: Mapping[str, Any], read: Read) -> list[Picture]:
    """The PNGs and JPEGs of `images/` that the manifest names, each checked against its digest."""
    found: list[Picture] = []
    for file in manifest["files"]:
        path = file["path"]
        named = path.startswith("images/") and path.lower().endswith((".png", ".jpg", ".jpeg"))
        if not named or file["size"] > _MAX_PICTURE_BYTES or len(found) == _MAX_PICTURES:
            continue
        data = read(path)
        if not FileRef.from_entry(file).digest.is_of_bytes(data):
            raise DigestMismatch(
                f"{path} is not the picture that the manifest names.", hint="Fetch or convert the release again."
            )
        media = next((media for magic, media in _MEDIA.items() if data.startswith(magic)), None)
        if media is not None:
            found.append(Picture(path=path, data=data, media=media))
    return found
