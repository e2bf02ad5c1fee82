"""Full disks and places that may not be written: one sentence each, with what is missing and what is kept."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from hubpub.errors import CannotWrite, ConfigError, NoSpace
from hubpub.files.disk import SPARE, check_space, check_writable, nearest, writing

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**9, 0, SPARE))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up(number: int, small: None, tmp_path: Path) -> None:
    with (
        pytest.raises(NoSpace) as caught,
        writing(tmp_path, kept="What has arrived is kept.", left=lambda: 2_000_000_000),
    ):
        raise OSError(number, "full")
    assert caught.value.message == f"The disk of {tmp_path} is full; 2.0 GB more are needed."
    assert caught.value.hint == "What has arrived is kept. Free some space and run again."
    assert caught.value.missing == 2_000_000_000
    assert isinstance(caught.value.__cause__, OSError)


def test_how_much_is_missing_may_be_unknown(tmp_path: Path) -> None:
    with pytest.raises(NoSpace) as caught, writing(tmp_path):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.message == f"The disk of {tmp_path} is full."
    assert caught.value.missing is None


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO])
def test_a_place_that_cannot_be_written(number: int, tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="cannot be written: no") as caught, writing(tmp_path, hint="Choose another."):
        raise OSError(number, "no")
    assert caught.value.hint == "Choose another."


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), writing(tmp_path):
        raise ConfigError("x")


def test_space_is_checked_where_the_folder_will_be(small: None, tmp_path: Path) -> None:
    place = tmp_path / "not" / "yet"
    assert nearest(place) == tmp_path
    check_space(place, 0, what="It")
    with pytest.raises(NoSpace, match=r"^It needs 1\.0 GB in") as caught:
        check_space(place, 10**9, what="It")
    assert caught.value.missing == 10**9


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new")
    monkeypatch.setattr("hubpub.files.disk.os.access", lambda place, mode: False)
    with pytest.raises(CannotWrite):
        check_writable(tmp_path / "new")
