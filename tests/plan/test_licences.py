"""Licences of parts: which is the strictest, which forbid changed forms, and where their texts lie."""

from __future__ import annotations

import pytest

from hubpub.plan.licences import (
    forbids_changes,
    licence_file,
    licence_place,
    licence_text,
    strictest,
    strictness,
)

# From the freest to the strictest.
_ORDER = ("cc0-1.0", "mit", "mpl-2.0", "gpl-3.0", "creativeml-openrail-m", "other", "cc-by-nc-4.0")


def test_the_order_of_licences() -> None:
    ranks = [strictness(licence) for licence in _ORDER]
    assert ranks == sorted(set(ranks))
    assert strictness(["mit", "cc-by-nc-4.0"]) == strictness("cc-by-nc-4.0"), "of a list its strictest"
    assert strictness("sai-nc-community") == strictness("cc-by-nc-4.0")
    assert strictness("a-licence-of-tomorrow") == strictness("other")


def test_the_strictest_of_several() -> None:
    assert strictest(["mit", "creativeml-openrail-m", "apache-2.0"]) == "creativeml-openrail-m"
    assert strictest(["mit", "apache-2.0"]) == "mit", "of equals the first, which is the model's"


@pytest.mark.parametrize("licence", ["cc-by-nd-4.0", "cc-by-nc-nd-4.0", ["mit", "cc-by-nd-4.0"]])
def test_licences_that_forbid_changed_forms(licence: object) -> None:
    assert forbids_changes(licence)


@pytest.mark.parametrize("licence", ["creativeml-openrail-m", "openrail++", "cc-by-nc-4.0", "other", None, 3])
def test_licences_that_do_not(licence: object) -> None:
    assert not forbids_changes(licence)


def test_a_licence_of_ones_own_is_named() -> None:
    card = {"license": "other", "license_name": "my-licence", "license_link": "LICENSE.md"}
    assert licence_text(card) == "my-licence"
    assert licence_text(card, asked="mit") == "mit"
    assert licence_text({"license": ["mit", "apache-2.0"]}) == "mit, apache-2.0"
    assert licence_text({}) == ""


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("LICENSE.md", "LICENSE.md"),
        ("./docs/LICENSE", "docs/LICENSE"),
        ("https://example.org/licence", None),
        ("../../etc/passwd", None),
        ("/etc/passwd", None),
        ("", None),
        (None, None),
    ],
)
def test_the_text_that_a_card_links_to(link: object, path: str | None) -> None:
    assert licence_file({"license_link": link}) == path


def test_where_the_text_lies_in_a_release() -> None:
    assert licence_place("docs/LICENSE.md", None) == "LICENSE.md"
    assert licence_place("LICENSE.md", "me/vae") == "licenses/me_vae/LICENSE.md"
