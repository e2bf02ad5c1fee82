"""Pages in a real browser: the report and the embedded Hub's, at a desk and on a phone, light and dark.

Needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium; skipped where they are missing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubpub.localhub import LocalHub, running
from hubpub.release.card import render as render_card
from hubpub.release.report_page import Picture, render
from tests.support.manifests import manifest, picture

pytest.importorskip("vl_convert", reason="charts are drawn with hubpub[report]")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
_BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (_BROWSER and _DRIVER), reason="there is no Chromium with its driver here"),
]

DESK, PHONE = (1100, 900), (390, 844)
# Quiet, and asking for nothing of its own.
_FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    *(["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []),  # it has none for root
)
_CHECKS = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(_BROWSER)
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(_DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with everything in it, as the address of a file."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    pictures = [
        Picture(path=f"images/cat_{width}.png", data=picture(shade), media="image/png")
        for width, shade in (("source", 0), ("6bit", 255))
    ]
    pictures.append(Picture(path="images/dog.png", data=picture(99), media="image/png"))
    html = render(
        manifest(ran=True), others=[manifest(bits=8, ran=True), manifest(bits=4, ran=True)], pictures=pictures
    )
    file.write_text(html, encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """A Hub with a release as hubpub publishes it, card and all."""
    folder = tmp_path_factory.mktemp("release")
    release = manifest()
    card = render_card(release) + "\n![a cat](images/cat.png)\n\n![elsewhere](https://example.com/x.png)\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "hubpub.json").write_text(json.dumps(release), encoding="utf-8")
    for file in release["files"]:
        (folder / file["path"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / file["path"]).write_bytes(bytes(file["size"]))
    (folder / "images").mkdir()
    (folder / "images" / "cat.png").write_bytes(picture(128))
    with running(tmp_path_factory.mktemp("hub")) as hub:
        hub.storage.import_folder("me/coreml-tiny", folder)
        yield hub


def _show(browser: Any, address: str, *, size: tuple[int, int], scheme: str) -> None:
    """Open a page as a screen of that size and a reader with that preference would."""
    width, height = size
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what earlier pages said
    browser.get(address)


def _wrong(browser: Any) -> list[str]:
    return [*browser.execute_script(f"{_CHECKS} return [...basics(), ...contrast()];")]


def _said(browser: Any) -> list[str]:
    """What the page said on the console: errors, and whatever its policy kept from loading."""
    return [entry["message"] for entry in browser.get_log("browser")]


def _asked(browser: Any) -> list[str]:
    """Addresses that the page asked for, but for those that it holds itself."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [params["request"]["url"] for params in sent if not params["request"]["url"].startswith("data:")]


_BAD = """<!doctype html><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<body style="background: #fff; color: #999"><h2>Grey</h2><h4></h4><p id="a" style="width: 60rem">wide</p><p id="a"></p>
<img src="https://example.com/a.png"><a href="/a"></a><input><svg></svg><script>alert(1)</script>"""


def test_the_checks_see_what_is_wrong(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(_BAD, encoding="utf-8")
    _show(browser, (tmp_path / "bad.html").as_uri(), size=PHONE, scheme="light")
    wrong = "; ".join(_wrong(browser))
    for words in (
        "no language", "no title", "not one h1", "no main", "H4 below h2", "an empty heading", "no alt",
        "a chart without a name", "an input without a label", "an empty link", "an id twice",
        "pixels on a screen of 390", "H2 Grey 2.85",
    ):  # fmt: skip
        assert words in wrong, words
    said = " ".join(_said(browser))
    assert "https://example.com/a.png" in said
    assert "inline script" in said


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_report(browser: Any, page: str, size: tuple[int, int], scheme: str) -> None:
    _show(browser, page, size=size, scheme=scheme)
    assert _said(browser) == []
    assert _asked(browser) == [page]
    assert _wrong(browser) == []
    paper = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) > 380) == (scheme == "light")
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].filter((one) => one.checkVisibility())"
        ".map((one) => one.parentElement.className)"
    )
    assert set(drawn) == {"narrow" if size == PHONE else "wide"}
    assert len(drawn) == 7  # sizes, quality, widths, two curves, seconds, memory


def test_letters_of_charts_are_large_enough(browser: Any, page: str) -> None:
    for size in (DESK, PHONE):
        _show(browser, page, size=size, scheme="light")
        heights = browser.execute_script(
            "return [...document.querySelectorAll('figure svg text')].filter((one) => one.checkVisibility())"
            ".map((one) => one.getBoundingClientRect()).filter((box) => box.width > box.height)"
            ".map((box) => box.height)"
        )
        assert len(heights) > 40
        assert min(heights) > 11
        cut = browser.execute_script(
            "const outer = [];"
            "for (const svg of document.querySelectorAll('figure svg')) {"
            "  const box = svg.getBoundingClientRect();"
            "  for (const text of svg.querySelectorAll('text')) {"
            "    const own = text.getBoundingClientRect();"
            "    if (own.left < box.left - 2 || own.right > box.right + 2) outer.push(text.textContent);"
            "  }"
            "} return outer;"
        )
        assert cut == []


def test_marks_have_the_colours_of_the_scheme(browser: Any, page: str) -> None:
    """The SVG names colours of the style sheet; a browser that did not know them would draw in black."""
    found = {}
    for scheme in ("light", "dark"):
        _show(browser, page, size=DESK, scheme=scheme)
        found[scheme] = browser.execute_script(
            "return [...new Set([...document.querySelectorAll('figure .wide svg path')]"
            ".filter((one) => one.querySelector('title')).map((one) => getComputedStyle(one).fill))]"
        )
    assert len(found["light"]) >= 4
    assert not set(found["light"]) & set(found["dark"])
    assert "rgb(0, 0, 0)" not in found["light"] + found["dark"]


def test_the_slider_moves_the_edge(browser: Any, page: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    _show(browser, page, size=PHONE, scheme="light")
    slider = browser.find_element(By.CSS_SELECTOR, "input[data-compare]")
    clip = "return getComputedStyle(document.querySelector('.compare img + img')).clipPath"
    assert browser.execute_script(clip) == "inset(0px 0px 0px 50%)"
    slider.send_keys(Keys.END)
    assert browser.execute_script(clip) == "inset(0px 0px 0px 100%)"
    slider.send_keys(Keys.HOME)
    slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.execute_script(clip) == "inset(0px 0px 0px 1%)"
    assert _said(browser) == []


def test_the_report_without_scripts(browser: Any, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        _show(browser, page, size=DESK, scheme="light")
        from selenium.webdriver.common.by import By

        assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == 14
        assert _said(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("path", ["/", "/me/coreml-tiny"])
def test_the_hub(browser: Any, local: LocalHub, path: str, size: tuple[int, int], scheme: str) -> None:
    _show(browser, f"{local.endpoint}{path}", size=size, scheme=scheme)
    assert _wrong(browser) == []  # the card's own picture is shown, too
    assert _said(browser) == []
    asked = _asked(browser)
    assert all(
        address.startswith((local.endpoint, local.endpoint.replace("127.0.0.1", "localhost"))) for address in asked
    )


def test_one_can_walk_from_the_front_page_to_a_file(browser: Any, local: LocalHub) -> None:
    from selenium.webdriver.common.by import By

    _show(browser, local.endpoint, size=DESK, scheme="light")
    browser.find_element(By.LINK_TEXT, "me/coreml-tiny").click()
    assert browser.find_element(By.TAG_NAME, "h1").text == "me/coreml-tiny"
    browser.find_element(By.XPATH, "//summary[contains(., 'compiled/')]").click()
    browser.find_element(By.XPATH, "//summary[contains(., 'Unet.mlmodelc/')]").click()
    assert browser.find_element(By.LINK_TEXT, "model.mil").is_displayed()
    browser.find_element(By.LINK_TEXT, "hubpub.json").click()
    assert '"format": 1' in browser.find_element(By.TAG_NAME, "body").text


def test_a_page_that_is_not_there(browser: Any, local: LocalHub) -> None:
    _show(browser, f"{local.endpoint}/me/nothing", size=PHONE, scheme="dark")
    assert _wrong(browser) == []
    assert "Repository not found" in browser.title + browser.execute_script("return document.body.innerText")


def test_screenshots_are_small() -> None:
    """Those that the README shows."""
    shown = sorted((Path(__file__).resolve().parents[2] / "docs" / "images").glob("*.png"))
    assert len(shown) == 2
    assert all(path.stat().st_size < 150_000 for path in shown)
