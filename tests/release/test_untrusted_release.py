"""What is never published, and never used of what others have published."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from hubpub.errors import FindingsError, UnsafeArchive
from hubpub.files.digest import Digest, FileRef
from hubpub.files.unzip import unpack
from hubpub.release.artifact import Artifact
from hubpub.release.release import MAX_MANIFEST_BYTES, RemoteState, parse_manifest
from hubpub.remote import offers
from hubpub.verbs.audit import check_release
from tests.e2e.releases import zipped

REPO = "me/coreml-x"
STEM = "coreml-x_original_compiled"


def archive(folder: Path, data: bytes) -> Artifact:
    path = folder / f"{STEM}.zip"
    path.write_bytes(data)
    return Artifact(
        path=path.name,
        source=path,
        size=len(data),
        digest=Digest("sha256", hashlib.sha256(data).hexdigest()),
    )


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_is_damaged_is_not_published(tmp_path: Path, compression: int) -> None:
    """Any flipped byte of the members is found before the first byte is sent."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as made:
        made.writestr(f"{STEM}/Unet.mlmodelc/metadata.json", "{}" * 50)
    good = target.getvalue()
    start = 30 + len(f"{STEM}/Unet.mlmodelc/metadata.json")
    check_release([archive(tmp_path, good)], repo_id=REPO)
    for at in range(start, good.index(b"PK\x01\x02"), 7):
        damaged = bytearray(good)
        damaged[at] ^= 0x55
        with pytest.raises(FindingsError) as caught:
            check_release([archive(tmp_path, bytes(damaged))], repo_id=REPO)
        assert len(caught.value.findings) == 1
    with pytest.raises(FindingsError):
        check_release([archive(tmp_path, good[:-10])], repo_id=REPO)


@pytest.mark.parametrize("name", ["__MACOSX/._x", f"{STEM}/.DS_Store", "Resources/vocab.json", "vocab.json"])
def test_an_archive_that_apps_cannot_use_is_not_published(tmp_path: Path, name: str) -> None:
    target = io.BytesIO(zipped(STEM, {"Unet.mlmodelc/metadata.json": b"[]"}))
    check_release([archive(tmp_path, target.getvalue())], repo_id=REPO)
    with zipfile.ZipFile(target, "a") as made:
        made.writestr(name, "x")
    with pytest.raises(FindingsError):
        check_release([archive(tmp_path, target.getvalue())], repo_id=REPO)


def test_a_manifest_of_others_is_bounded() -> None:
    whole = json.dumps({"format": 1, "variants": {}, "files": []}).encode()
    assert parse_manifest(whole) is not None
    assert parse_manifest(whole.ljust(MAX_MANIFEST_BYTES + 1)) is None
    assert parse_manifest(b'{"format": 1, "variants": {}, "files": ' + b"[" * 100_000) is None


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "\\\\server\\share",
        "C:\\x",
        "C:x",
        "a\0b",
        "a/../../b",
        "nul",
        "COM1.txt",
        "LPT9",
        "con .txt",
        "CONOUT$",
        "x" * 256,
        "ä" * 128,
        "a\u202eb",
        "a:stream",
        "tail.",
        "tail ",
    ],
)
def test_a_name_in_a_manifest_or_a_listing_that_would_leave_the_folder(name: str) -> None:
    path = f"original/packages/A.mlpackage/{name}"
    files = (FileRef(path=path, size=1, digest=Digest("sha256", "a" * 64)),)
    content = {
        "format": 1,
        "variants": {"original/packages": {}},
        "files": [{"path": path, "size": 1, "sha256": "a" * 64}],
    }
    for manifest in (content, None):
        state = RemoteState(repo_id=REPO, commit="c" * 40, files=files, manifest=manifest)
        with pytest.raises(UnsafeArchive):
            offers.select(state, "original/packages")


def test_an_archive_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubpub.files.unzip._MAX_FILES", 3)
    path = tmp_path / "a.zip"
    path.write_bytes(zipped("top", {str(number): b"" for number in range(4)}))
    with pytest.raises(UnsafeArchive, match="4 members"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_whose_two_directories_disagree(tmp_path: Path) -> None:
    """The name beside the data and the name in the directory at the end: programs that read one and check the other."""
    data = bytearray(zipped("top", {"good": b"1"}))
    at = data.index(b"top/good")
    data[at : at + 8] = b"../../xx"
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(UnsafeArchive):
        unpack(path, tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["a.zip"]
