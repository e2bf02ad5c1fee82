"""generate: a picture from packages that were converted, and a sheet that compares widths with the source."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubpub.errors import BadInput
from hubpub.verbs.convert import convert
from hubpub.verbs.demo import SOURCE

pytest.importorskip("torch", reason="pictures are drawn with torch")
pytest.importorskip("diffusers", reason="pictures need a scheduler of diffusers")

from PIL import Image

from hubpub.runtime.pictures import Request
from hubpub.verbs.generate import compare, generate
from hubpub.verbs.session import Session

REQUEST = Request(prompt="a seven", negative="", seed=1, steps=2, guidance=3.0)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session.open(root=tmp_path / "store", quiet=True)


@pytest.mark.slow
def test_a_picture_is_drawn_from_packages_and_is_the_same_twice(tmp_path: Path, session: Session) -> None:
    out = tmp_path / "release"
    with session:
        convert(SOURCE, attention=["original"], formats=["packages"], out=out, verify="off", session=session)
        packages = out / "original" / "packages"
        pictures = []
        for name in ("one.png", "two.png"):
            drawn = generate(packages, REQUEST, tmp_path / name, source=SOURCE, session=session)
            with Image.open(drawn.path) as picture:
                pictures.append(picture.tobytes())
                assert picture.size[0] >= 32
        assert pictures[0] == pictures[1]
        assert drawn.to_json()["prompt"] == "a seven"


@pytest.mark.slow
def test_widths_side_by_side(tmp_path: Path, session: Session) -> None:
    with session:
        drawn = compare(str(SOURCE), REQUEST, tmp_path / "sheet.png", session=session, bits=(16, 4))
    assert drawn.psnr["16"] > drawn.psnr["4"]
    assert (tmp_path / "sheet.png").is_file()


def test_a_folder_that_is_not_there(tmp_path: Path, session: Session) -> None:
    with session, pytest.raises(BadInput, match="There is no folder"):
        generate(tmp_path / "nowhere", REQUEST, tmp_path / "x.png", session=session)
