"""Archives of others: the good ones whole, the bad ones not at all."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubpub.errors import NoSpace, UnsafeArchive
from hubpub.files.digests import sha256
from hubpub.files.paths import check_all, check_relative
from hubpub.files.unzip import unpack
from hubpub.steps import Archive


def write(path: Path, fill: Callable[[zipfile.ZipFile], None]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        fill(archive)
    return path


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(tmp_path: Path, archive: Path, match: str | None = None) -> None:
    """The archive is refused, and the folder around it is as before."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnsafeArchive, match=match):
        unpack(archive, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


def two(archive: zipfile.ZipFile) -> None:
    """Two members of a kilobyte each, stored."""
    for name in "ab":
        archive.writestr(f"top/{name}", name * 1000)


def test_what_the_archive_step_writes(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "Unet.mlmodelc/weights").mkdir(parents=True)
    (models / "Unet.mlmodelc/weights/weight.bin").write_bytes(bytes(range(256)) * 1000)
    (models / "vocab.json").write_text("{}")
    step = tmp_path / "step"
    step.mkdir()
    inputs = {"Unet.mlmodelc": models / "Unet.mlmodelc", "vocab.json": models / "vocab.json"}
    Archive(stem="coreml-x_original_compiled").run(inputs, step)
    files = unpack(step / "archive.zip", tmp_path / "out")
    assert held(tmp_path / "out") == held(models)
    assert {file.path: file.sha256 for file in files} == {name: sha256(models / name) for name in held(models)}


def test_without_a_top_folder_and_with_junk(tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr("Unet.mlmodelc/metadata.json", "[]")
        archive.writestr("vocab.json", "{}", zipfile.ZIP_DEFLATED)
        archive.writestr("__MACOSX/._vocab.json", "x")
        archive.writestr("Unet.mlmodelc/.DS_Store", "x")
        archive.mkdir("empty")

    unpack(write(tmp_path / "a.zip", fill), tmp_path / "out")
    assert held(tmp_path / "out") == {"Unet.mlmodelc/metadata.json": b"[]", "vocab.json": b"{}"}


def test_one_model_alone_is_no_top_folder(tmp_path: Path) -> None:
    unpack(write(tmp_path / "a.zip", lambda archive: archive.writestr("A.mlmodelc/x", "1")), tmp_path / "out")
    assert held(tmp_path / "out") == {"A.mlmodelc/x": b"1"}


BAD_NAMES = [
    "../x",
    "a/../../x",
    "/etc/passwd",
    "C:/x",
    "a\\b",
    "a/./b",
    "a//b",
    "a/\x07",
    "aux.txt",
    "a./b",
    "a /b",
    "x:stream",
    "\u202egnp.exe",
    "~/" + "x" * 256,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder(name: str, tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr("good", "1")
        archive.writestr(zipfile.ZipInfo(name), "2")

    refused(tmp_path, write(tmp_path / "a.zip", fill))


@pytest.mark.parametrize("pair", [("x", "x"), ("x", "X"), ("é", "e\u0301"), ("x", "x/y"), ("ß", "SS")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_coincide(pair: tuple[str, str], tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        for name in pair:
            archive.writestr(f"top/{name}", "1")

    refused(tmp_path, write(tmp_path / "a.zip", fill))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices(kind: int, tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("top/link")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")

    refused(tmp_path, write(tmp_path / "a.zip", fill), "link")


def test_bomb(tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        archive.writestr("top/zeros", bytes(64 << 20), zipfile.ZIP_DEFLATED)

    refused(tmp_path, write(tmp_path / "a.zip", fill), "unpack to")


def test_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    """The directory says 100 bytes, the data are 50 MB of zeros."""
    data = bytes(50 << 20)
    archive = write(tmp_path / "a.zip", lambda made: made.writestr("top/zeros", data, zipfile.ZIP_DEFLATED))
    raw = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = raw.index(signature) + offset
        assert struct.unpack_from("<I", raw, at)[0] == len(data)
        struct.pack_into("<I", raw, at, 100)
    archive.write_bytes(raw)
    refused(tmp_path, archive)


def test_overlapping_members(tmp_path: Path) -> None:
    """Two names for the same bytes (the way of the best bombs)."""
    archive = write(tmp_path / "a.zip", two)
    raw = bytearray(archive.read_bytes())
    second = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 4)
    struct.pack_into("<I", raw, second + 42, 0)  # its data begin where those of the first do
    archive.write_bytes(raw)
    refused(tmp_path, archive, "overlaps")


def test_encrypted(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", lambda made: made.writestr("top/x", "secret"))
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(raw)
    refused(tmp_path, archive, "encrypted")


def test_methods_that_apps_cannot_read(tmp_path: Path) -> None:
    refused(
        tmp_path,
        write(tmp_path / "a.zip", lambda made: made.writestr("top/x", "x", zipfile.ZIP_LZMA)),
        "compressed in a way",
    )


def test_damage(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", two)
    raw = bytearray(archive.read_bytes())
    for at in (60, 1100):  # inside the members' data
        damaged = bytearray(raw)
        damaged[at] ^= 0xFF
        archive.write_bytes(damaged)
        refused(tmp_path, archive)
    archive.write_bytes(raw[:-30])
    refused(tmp_path, archive)
    archive.write_bytes(b"<html>Not found</html>")
    refused(tmp_path, archive, "cannot be unpacked")


def test_empty(tmp_path: Path) -> None:
    refused(tmp_path, write(tmp_path / "a.zip", lambda made: made.mkdir("top")), "no files")


def test_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubpub.files.disk.SPARE", 1 << 60)
    archive = write(tmp_path / "a.zip", lambda made: made.writestr("top/x", "x"))
    with pytest.raises(NoSpace):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.binary(max_size=400), st.integers(0, 399))
@settings(max_examples=80, deadline=None)
def test_any_damage_leaves_all_or_nothing(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    tmp_path = tmp_path_factory.mktemp("unzip")
    good = io.BytesIO()
    with zipfile.ZipFile(good, "w") as made:
        made.writestr("top/a", b"a" * 150)
        made.writestr("top/d/b", zlib.compress(b"b"))
    raw = bytearray(good.getvalue())
    raw[at : at + len(noise)] = noise
    (tmp_path / "a.zip").write_bytes(raw)
    try:
        unpack(tmp_path / "a.zip", tmp_path / "out")
    except UnsafeArchive:
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    else:
        assert (tmp_path / "out").is_dir()


@given(st.text(min_size=1))
def test_a_name_that_passes_stays_in_its_folder(name: str) -> None:
    try:
        check_relative(name)
    except UnsafeArchive:
        return
    place = (Path("/top") / name).resolve()
    assert place.is_relative_to("/top")
    assert place != Path("/top")
    assert "\\" not in name


def test_check_all_takes_ordinary_trees() -> None:
    check_all(
        ["A.mlpackage/Data/com.apple.CoreML/weights/weight.bin", "A.mlpackage/Manifest.json", "vocab.json", "café"]
    )
