"""Cards that others wrote: their front matter is data, and no larger in memory than it looks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubpub.errors import CardInvalid
from hubpub.files.front_matter import MAX_BYTES, load
from hubpub.localhub import cards
from hubpub.release.card import render
from hubpub.remote.hub.client import front_matter as of_a_repo
from hubpub.sources import metadata
from tests.support.manifests import manifest

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
BAD = {
    "aliases that multiply": LAUGHS,
    "merges that multiply": MERGES,
    "a value that contains itself": "a: &a [*a]\n",
    "nested too deeply": "a: " + "[" * 500,
    "no mapping": "- a\n",
    "not YAML": "a: [unclosed\n",
    "not text": "a: \x00\n",
    "a date that is none": "a: 2024-99-99\n",
    "too many digits": "a: " + "9" * 6000 + "\n",
    "a tag that makes objects": "a: !!python/object/apply:os.system [id]\n",
    "keys that cannot be": "{[a]: b}\n",
    "too large": "a: " + "x" * MAX_BYTES,
}
READERS: dict[str, Callable[[str], Any]] = {
    "a repo's": of_a_repo,
    "a source's": lambda card: metadata.front_matter(card.encode()),
    "the embedded Hub's": cards.front_matter,
    "its validator": cards.validate,
}


@pytest.mark.parametrize("block", BAD.values(), ids=BAD)
def test_front_matter_that_is_refused(block: str) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=r".+"):
        load(block)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("block", BAD.values(), ids=BAD)
def test_no_reader_of_cards_stumbles(block: str, reader: Callable[[str], Any]) -> None:
    try:
        data = reader(f"---\n{block}\n---\n# A card\n")
    except (CardInvalid, ValueError):
        return
    assert data == {} or isinstance(data, cards.Findings)


def test_what_cards_do_hold() -> None:
    text = "license: mit\ntags: &t [a, b]\nalso: *t\nwhen: 2024-01-02\n2024-01-02: x\nnone:\nmerged:\n  <<: {a: 1}\n"
    data = load(text)
    assert data["also"] == ["a", "b"]
    assert data["merged"] == {"a": 1}
    assert load("") == load("# only a comment\n") == load("~") == {}


@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=200) | st.text("&*a:<[]{},-!? \n'\"|>%0129.e", max_size=60)
)
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    for reader in READERS.values():
        try:
            data = reader(f"---\n{text}\n---\n")
        except (CardInvalid, ValueError):
            continue
        assert data is None or isinstance(data, dict | cards.Findings)


def test_nothing_in_a_manifest_is_a_template() -> None:
    """Names of a source or of a kept variant reach the card as text."""
    content = manifest()
    trap = "{{ 7 * 7 }}{% for n in range(9) %}x{% endfor %}"
    content["source"]["name"] = content["title"] = content["scheduler"] = trap
    card = render(content)
    assert trap in card
    assert "49" not in card.replace(trap, "")
