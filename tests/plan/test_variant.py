"""Names of variants and files round-trip, and unknown ones are refused with the nearest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubpub.errors import ConfigError, UnknownVariant
from hubpub.files.repo_ids import check_repo_id
from hubpub.plan.names import default_destination, fetch_folder
from hubpub.plan.variant import ATTENTIONS, BITS, FORMATS, TARGETS, Variant

variants = st.builds(
    Variant,
    attention=st.sampled_from(ATTENTIONS),
    bits=st.sampled_from(BITS),
    latent=st.tuples(st.integers(8, 128), st.integers(8, 128)),
    batch=st.sampled_from((1, 2)),
    target=st.sampled_from(TARGETS),
)


@given(variants, st.sampled_from(FORMATS))
def test_a_folder_is_attention_and_format(variant: Variant, form: str) -> None:
    assert variant.folder(form).split("/") == [variant.attention, form]


@pytest.mark.parametrize("form", ["zips", "", "/", "package"])
def test_unknown_formats_are_refused(form: str) -> None:
    with pytest.raises(UnknownVariant):
        Variant(attention="original", bits=6, latent=(64, 64)).folder(form)


def test_the_nearest_name_is_in_the_hint() -> None:
    with pytest.raises(UnknownVariant) as caught:
        Variant(attention="orginal", bits=6, latent=(64, 64))
    assert "Did you mean original?" in caught.value.hint


@pytest.mark.parametrize(("field", "value"), [("bits", 5), ("attention", "sdpa"), ("target", "tvOS17")])
def test_a_variant_of_unknown_values_does_not_exist(field: str, value: object) -> None:
    given: dict[str, object] = {"attention": "original", "bits": 6, "latent": (64, 64), "target": "macOS13"}
    with pytest.raises(UnknownVariant):
        Variant(**{**given, field: value})  # type: ignore[arg-type]


def test_names_that_apps_build_themselves() -> None:
    variant = Variant(attention="split_einsum_v2", bits=6, latent=(64, 64))
    assert variant.zip_stem("coreml-x-palettized") == "coreml-x-palettized_split_einsum_v2_compiled"
    assert fetch_folder("me/coreml-x", "original/packages") == "coreml-x_original_packages"
    assert default_destination("me", "prompthero/openjourney-v4", 6) == "me/coreml-openjourney-v4-palettized"
    assert default_destination("me", "prompthero/openjourney-v4", 16) == "me/coreml-openjourney-v4"


@pytest.mark.parametrize("repo_id", ["openjourney", "a/b/c", "a/", "/b", "a/b--c", "a/..b", "a b/c", "a/b.git", "-a/b"])
def test_malformed_repo_ids(repo_id: str) -> None:
    with pytest.raises(ConfigError):
        check_repo_id(repo_id)
