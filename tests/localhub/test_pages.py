"""The embedded Hub's pages: a repo as it will be seen, with nothing in it that a browser could run."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import get_session

from hubpub.localhub import LocalHub, running

CARD = """---
license: creativeml-openrail-m
tags: [core-ml, "<b>bold</b>"]
model_index: {a: 1}
---
# Tiny <script>alert(1)</script>

See [the manifest](hubpub.json), [a folder](original), [elsewhere](https://example.com/a), [bad](javascript:alert(1)),
[root](/me/tiny), [up](../../../etc/passwd) and ![mine](images/cat.png) and ![theirs](https://example.com/x.png).

<img src=x onerror=alert(1)>

| component | size |
|---|---:|
| `unet` | 1 MB |

{{ 7 * 7 }}
"""


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHub]:
    with running(tmp_path / "hub") as hub:
        yield hub


def _repo(local: LocalHub, tmp_path: Path, *, card: str = CARD, name: str = "me/tiny") -> None:
    folder = tmp_path / name.replace("/", "-")
    for path, data in {
        "README.md": card.encode(),
        "hubpub.json": b"{}",
        "images/cat.png": b"\x89PNG\r\n\x1a\n\0",
        "original/packages/A_unet.mlpackage/Manifest.json": b"{}",
        "original/compiled/Unet.mlmodelc/weights/weight.bin": bytes(5000),
        "coreml-tiny_original_compiled.zip": b"PK\0\0",
        "a b/<i>&'.txt": b"odd",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    local.storage.import_folder(name, folder, message="First <i>release</i>")


def _get(local: LocalHub, path: str, *, status: int = 200) -> str:
    response = get_session().get(f"{local.endpoint}{path}")
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src 'self' ")
    assert "script-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    text = response.text
    assert "<script" not in text
    assert not re.search(r"<[^>]*\son\w+=", text)
    assert not re.search(r"<(?!style)[^>]*\sstyle=", text)
    return str(text)


def _plain(page: str) -> str:
    """The words of a page, as they are copied."""
    return html.unescape(re.sub("<[^>]*>", "", page))


def test_the_front_page_lists_what_anyone_may_see(local: LocalHub, tmp_path: Path) -> None:
    assert "There are no repos yet" in _get(local, "/")
    _repo(local, tmp_path)
    local.storage.create("me/hidden", private=True)
    local.storage.create("me/data", repo_type="dataset")
    page = _get(local, "/")
    assert '<a href="/me/tiny">me/tiny</a>' in page
    assert '<a href="/datasets/me/data">' in page
    assert "hidden" not in page
    assert "First &lt;i&gt;release&lt;/i&gt;" in page


def test_a_repo_as_the_hub_shows_it(local: LocalHub, tmp_path: Path) -> None:
    _repo(local, tmp_path)
    local.storage.repo("me/tiny").add_ref("tags/v1", local.storage.repo("me/tiny").find("main").id)
    page = _get(local, "/me/tiny")
    assert "<h2>Tiny &lt;script&gt;" in page
    assert '<span class="tag">creativeml-openrail-m</span>' in page
    assert '<span class="tag">&lt;b&gt;bold&lt;/b&gt;</span>' in page
    assert '<td class="n">1 MB</td>' in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert 'tag <a href="/me/tiny/tree/v1">v1</a>' in page
    assert "license: creativeml" not in page.partition('id="card"')[2]
    for variant in ("original/packages", "original/compiled", "original/compiled --zip"):
        assert f"hubpub fetch me/tiny --variant {variant} --endpoint {local.endpoint}\n" in _plain(page)


def test_addresses_of_a_card(local: LocalHub, tmp_path: Path) -> None:
    _repo(local, tmp_path)
    page = _get(local, "/me/tiny")
    commit = local.storage.repo("me/tiny").find("main").id
    base = f"/me/tiny/resolve/{commit}"
    assert f'<a href="{base}/hubpub.json" rel="noopener noreferrer nofollow">the manifest' in page
    assert '<a href="#files" rel="noopener noreferrer nofollow">a folder' in page
    assert '<a href="#files" rel="noopener noreferrer nofollow">up' in page
    assert 'href="https://example.com/a"' in page
    assert 'href="/me/tiny"' in page
    assert "javascript:" not in "".join(re.findall(r'href="[^"]*"', page))
    assert f'<img src="{base}/images/cat.png" alt="mine"' in page
    assert "example.com/x.png" not in "".join(re.findall(r"<img[^>]*>", page))
    assert "[picture: theirs]" in page


def test_every_link_of_the_page_leads_somewhere(local: LocalHub, tmp_path: Path) -> None:
    _repo(local, tmp_path)
    page = _get(local, "/me/tiny")
    links = {html.unescape(link) for link in re.findall(r'(?:href|src)="([^"]*)"', page)}
    inner = sorted(link for link in links if link.startswith("/"))
    assert len(inner) >= 10
    for link in inner:
        assert get_session().get(f"{local.endpoint}{link}", follow_redirects=True).status_code == 200, link
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in page


def test_other_revisions_and_types(local: LocalHub, tmp_path: Path) -> None:
    _repo(local, tmp_path)
    repo = local.storage.repo("me/tiny")
    first = repo.commit(repo.find("main").parents[0])
    page = _get(local, f"/me/tiny/tree/{first.id}")
    assert "The repo has no README.md" in page
    assert "--variant" not in page
    repo.add_ref("heads/a/b", repo.find("main").id)
    assert "--revision a/b --endpoint" in _plain(_get(local, "/me/tiny/tree/a%2Fb"))
    local.storage.create("me/data", repo_type="dataset")
    assert "me/data" in _get(local, "/datasets/me/data")
    assert "me/tiny" in _get(local, "/models/me/tiny")


def test_problems_with_the_front_matter_are_listed(local: LocalHub, tmp_path: Path) -> None:
    _repo(local, tmp_path, card="---\nlicense: nonsense\n---\n# A\n")
    assert "Problems with the front matter" in _get(local, "/me/tiny")
    _repo(local, tmp_path, card="no front matter", name="me/bare")
    assert "empty or missing yaml metadata" in _get(local, "/me/bare")


@pytest.mark.parametrize(
    "card", ["---\n", "---\n: :\n---\n", "# " * 5000, "[" * 20_000, "> " * 3000 + "a", "\ufeff---\na: 1\n---\nx"]
)
def test_odd_cards(local: LocalHub, tmp_path: Path, card: str) -> None:
    _repo(local, tmp_path, card=card)
    assert "<h1>me/tiny</h1>" in _get(local, "/me/tiny")


def test_what_is_not_there(local: LocalHub) -> None:
    local.storage.create("me/hidden", private=True)
    missing, hidden = _get(local, "/me/nothing", status=401), _get(local, "/me/hidden", status=401)
    assert missing == hidden
    local.storage.create("me/open")
    assert "Invalid rev id" in _get(local, "/me/open/tree/gone", status=404)
    assert "There is nothing here" in _get(local, "/api/nothing", status=404)
    _get(local, "/me/<script>alert(1)", status=400)


def test_a_gated_repo_shows_its_card(local: LocalHub, tmp_path: Path) -> None:
    _repo(local, tmp_path)
    local.storage.repo("me/tiny").change_settings(gated="auto")
    assert "gated" in _get(local, "/me/tiny")
