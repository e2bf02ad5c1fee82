"""The report shows the manifest, makes no requests, and handles untrusted manifests."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hubpub.cli import app
from hubpub.errors import ConfigError, DigestMismatch, FetchError
from hubpub.localhub import running
from hubpub.pages.html import file_tree
from hubpub.release.manifest_view import MAX_FILES, MAX_TENSORS, ManifestView, text
from hubpub.release.release import parse_manifest
from hubpub.release.report_page import Picture, pair, render
from hubpub.remote.hub import Hub
from hubpub.verbs.report import report
from tests.support.manifests import manifest, picture

pytest.importorskip("vl_convert", reason="charts are drawn with hubpub[report]")


class _Page(HTMLParser):
    """Tags, ids, addresses and visible words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._silent = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words = f"{self.words} {data.strip()}".rstrip()


def _folder(path: Path, content: dict[str, Any], pictures: dict[str, bytes] | None = None) -> Path:
    path.mkdir()
    (path / "hubpub.json").write_text(json.dumps(content), encoding="utf-8")
    for name, data in (pictures or {}).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(data)
    return path


def test_the_page_shows_the_manifest() -> None:
    page = _Page(render(manifest()))
    for words in (
        "me/coreml-tiny-6",
        "768×512 pixels",
        "iOS 16 / macOS 13",
        "split_einsum_v2/packages",
        "3.0 MB",
        "4.5 MB",  # of a variant at 16 bits: 3 MB, and ten bits more for each of 1.2 million weights
        "20 tensors bit-exact, 40 palettized at 30.",
        "unet/original and unet/split_einsum_v2",
        "Lowest signal-to-noise ratio of the weights",
        "Peak memory of each step",
        "ab" * 32,
        "cd" * 32,
        "c" * 40,
        "hubpub publish a/tiny --to me/coreml-tiny-6",
    ):
        assert words in page.words, words
    assert "Pictures" not in page.words
    assert "Bits, size and quality" not in page.words
    assert "script" not in page.tags


def test_what_was_run_shows_its_psnr() -> None:
    words = _Page(render(manifest(ran=True))).words
    assert "PSNR of each component's output" in words
    assert "unet/original, in this release: 30.0 dB" in words
    assert "unet/original, before palettization: 80.0 dB" in words
    # 6 bits and 16 are known of what is compressed, one width of what is not
    assert "unet/original, 16 bits: 80.0 dB, 2.0 MB" in words
    assert "vae_decoder, 16 bits" not in words
    assert "running it: 30.0 dB at 6 bits" in words
    assert "reading every weight back: 60 weights read back" in words


def test_unverified_components_are_marked() -> None:
    content = manifest()
    content["components"]["text_encoder"]["verification"] = {"kind": "not verified"}
    assert "not verified" in _Page(render(content)).words


def test_every_tensor_has_a_point_with_its_name_and_decibels() -> None:
    html = render(manifest())
    for tensor, value in manifest()["components"]["unet/original"]["weights"]["snr"]:
        assert html.count(f"<title>{tensor}: {value:.1f} dB</title>") >= 2  # a wide and a narrow drawing


def test_several_widths_are_compared() -> None:
    html = render(manifest(), others=[manifest(bits=8), manifest(bits=4)])
    assert "Bits, size and quality" in html
    assert re.search(r"text_encoder, 4 bits: 2\d\.\d dB, 150\.0 kB", html)
    assert "me/coreml-tiny-8" in html
    html = render(manifest(ran=True), others=[manifest(bits=4, ran=True)])
    assert "PSNR of the output" in html
    assert "text_encoder, 4 bits: 20.0 dB, 150.0 kB" in html
    # what was only read back and what was run cannot share a scale
    assert "PSNR of the output" not in render(manifest(ran=True), others=[manifest(bits=4)])


def test_it_asks_for_nothing() -> None:
    data = picture(0)
    html = render(manifest(), pictures=[Picture(path="images/cat.png", data=data, media="image/png")])
    page = _Page(html)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith("data:image/png;base64,")
        assert not name.startswith("on")
    assert not re.search(r"url\(|@import", html)
    policy = next(value for tag, name, value in page.attributes if (tag, name) == ("meta", "content"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "script-src 'none'" in policy


def test_only_pictures_to_compare_need_the_script() -> None:
    two = [Picture(path=f"images/cat_{width}.png", data=picture(9), media="image/png") for width in ("source", "6bit")]
    page = _Page(render(manifest(), pictures=two))
    assert page.tags.count("script") == 1
    assert ("input", "aria-label", "") not in page.attributes
    assert ("label", "for", "slider-1") in page.attributes
    assert ("input", "id", "slider-1") in page.attributes
    policy = next(value for tag, name, value in page.attributes if (tag, name) == ("meta", "content"))
    assert "script-src 'sha256-" in policy


def test_pairs_of_pictures() -> None:
    def of(*names: str) -> list[Picture]:
        return [Picture(path=f"images/{name}.png", data=b"", media="image/png") for name in names]

    pairs, alone = pair(of("dog", "cat_4bit", "cat_source", "cat_fp16", "a_cat_6bit"))
    assert [(a.parts, b.parts) for a, b in pairs] == [
        (("cat", "source"), ("cat", "fp16")),
        (("cat", "source"), ("cat", "4bit")),
    ]
    assert [one.parts for one in alone] == [("a_cat", "6bit"), ("dog", "")]


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}{% raw %}</style></title>\u202e\x00"


def _poisoned(value: Any) -> Any:
    """Every string and key of a manifest with something hostile in it."""
    if isinstance(value, dict):
        return {key: _poisoned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_poisoned(one) for one in value]
    return f"{value}{EVIL}" if isinstance(value, str) and not re.fullmatch("[0-9a-f]{64}", value) else value


def test_values_are_escaped_everywhere() -> None:
    content = _poisoned(manifest())
    content["components"] = {f"{name}{EVIL}": part for name, part in content["components"].items()}
    content["variants"] = {f"{name}{EVIL}": part for name, part in content["variants"].items()}
    for part in content["components"].values():
        part["verification"]["kind"] = "weights"
    html = render(content)
    page = _Page(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "onerror" not in {name for _, name, _ in page.attributes}
    assert "49" not in {word for word in page.words.split() if word == "49"}
    assert "{{7*7}}" in page.words
    assert "\u202e" not in html
    assert "\x00" not in html
    assert page.words.count("alert(1)") > 50  # it was shown, as text


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_KEYS = sorted(
    {key for part in (manifest(), manifest()["components"]["text_encoder"]) for key in part} - {"format", "files"}
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=6),
    st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=6),
)
def test_any_manifest_that_is_accepted_can_be_read(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    content = {**manifest(), **outer}
    content["components"] = {"unet": {**manifest()["components"]["text_encoder"], **inner}, "odd": outer}
    accepted = parse_manifest(json.dumps(content).encode())
    if accepted is not None:
        read = ManifestView.of(accepted)
        assert all(part.size is None or part.size >= 0 for part in read.components)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}, "components": {}, "variants": {}, "files": []},
        {"source": None, "card": 3, "command": None, "generator": [], "run": "x", "repo_id": 10**400},
        {"components": {"unet": {"weights": {"snr": [["a", float("nan")], ["b"], 4, ["c", 1e999]]}, "size": -1}}},
        {"components": {"unet": {"steps": {"fill": {"seconds": "1", "peak_memory": True}}, "bits": 6.5}}},
    ],
)
def test_a_page_of_an_odd_manifest(change: dict[str, Any]) -> None:
    accepted = parse_manifest(json.dumps({**manifest(), **change}).encode())
    assert accepted is not None
    assert "<h1>" in render(accepted)


def test_sizes_are_bounded() -> None:
    content = manifest()
    content["files"] = [{"path": f"f{n}", "size": 1, "sha256": "0" * 64} for n in range(MAX_FILES + 5)]
    content["components"]["text_encoder"]["weights"]["snr"] = [["t" * 10_000, 30.0]] * (MAX_TENSORS + 5)
    content["title"] = "x" * 100_000
    read = ManifestView.of(content)
    assert (len(read.files), read.left_out) == (MAX_FILES, 5)
    curve = next(part for part in read.components if part.name == "text_encoder").snr
    assert len(curve) == MAX_TENSORS
    assert max(len(tensor) for tensor, _ in curve) == 300
    assert len(read.facts["model"]) == 300
    deep = file_tree([{"path": "/".join("a" * 5000), "size": 3}])
    assert (deep.size, deep.count) == (3, 1)


def test_text_is_one_printable_line() -> None:
    assert text("a\nb\u202ec\ud800") == "a\ufffdb\ufffdc\ufffd"
    assert (text(True), text(None), text(float("inf")), text(6)) == ("", "", "", "6")


def test_the_command_writes_a_page_of_a_folder(tmp_path: Path) -> None:
    pictures = {"images/cat_source.png": picture(10), "images/cat_6bit.png": picture(200)}
    folder = _folder(tmp_path / "release", manifest(pictures=pictures), pictures)
    other = _folder(tmp_path / "other", manifest(bits=4))
    out = tmp_path / "pages" / "report.html"
    done = CliRunner().invoke(app, ["report", str(folder), "-o", str(out), "--against", str(other), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"path": str(out), "bytes": out.stat().st_size, "pictures": 2}
    page = out.read_text(encoding="utf-8")
    assert "move the slider" in page
    assert "Bits, size and quality" in page


def test_the_page_of_a_repo(tmp_path: Path) -> None:
    pictures = {"images/cat.png": picture(10)}
    folder = _folder(tmp_path / "release", manifest(pictures=pictures), pictures)
    with running(tmp_path / "hub") as local:
        local.storage.import_folder("me/tiny", folder)
        hub = Hub(local.endpoint, local.token)
        done = report("me/tiny", tmp_path / "report.html", endpoint=hub.endpoint, token=hub.token)
        assert done.pictures == 1
        local.storage.create("me/empty")
        with pytest.raises(FetchError, match="no manifest"):
            report("me/empty", tmp_path / "report.html", endpoint=hub.endpoint, token=hub.token)
    assert "me/coreml-tiny-6" in done.path.read_text(encoding="utf-8")


def test_pictures_that_are_not_those_of_the_manifest(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "a", manifest(pictures={"images/cat.png": picture(1)}), {"images/cat.png": picture(2)})
    with pytest.raises(DigestMismatch, match=r"images/cat\.png"):
        report(str(folder), tmp_path / "report.html")
    gone = _folder(tmp_path / "b", manifest(pictures={"images/cat.png": picture(1)}))
    with pytest.raises(FetchError, match="cannot be read"):
        report(str(gone), tmp_path / "report.html")
    outside = _folder(tmp_path / "c", manifest(pictures={"images/../../x.png": picture(1)}))
    with pytest.raises(FetchError, match="not safe on every system"):
        report(str(outside), tmp_path / "report.html")
    text_file = _folder(tmp_path / "d", manifest(pictures={"images/a.png": b"<svg>"}), {"images/a.png": b"<svg>"})
    assert report(str(text_file), tmp_path / "report.html").pictures == 0


def test_folders_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no hubpub\.json"):
        report(str(tmp_path), tmp_path / "report.html")
    (tmp_path / "hubpub.json").write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(ConfigError, match="not a manifest"):
        report(str(tmp_path), tmp_path / "report.html")
    good = _folder(tmp_path / "release", copy.deepcopy(manifest()))
    with pytest.raises(ConfigError, match="no revisions"):
        report(str(good), tmp_path / "report.html", revision="main")
