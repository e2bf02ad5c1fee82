"""Which variants a repo offers: layouts as published, manifests as written, and lies in either."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubpub.errors import DigestMismatch, NoSuchVariant, UnsafeArchive
from hubpub.files.digest import Digest, FileRef
from hubpub.plan.variant import ATTENTIONS, FORMATS
from hubpub.release.release import RemoteState
from hubpub.remote import offers

SHA = "a" * 64


def state(*paths: str, manifest: dict[str, object] | None = None, repo_id: str = "apple/coreml-x") -> RemoteState:
    files = tuple(FileRef(path=path, size=len(path), digest=Digest("git", "b" * 40)) for path in paths)
    return RemoteState(repo_id=repo_id, commit="c" * 40, files=files, manifest=manifest)


def names(*paths: str) -> list[str]:
    return [offer.name for offer in offers.offers(state(*paths))]


def flat(there: RemoteState, name: str) -> set[str]:
    return {file.path for file in offers.select(there, name).offer.files}


def listed(*paths: str, variants: tuple[str, ...]) -> dict[str, object]:
    files = [{"path": path, "size": len(path), "sha256": SHA} for path in paths]
    return {"format": 1, "variants": {name: {} for name in variants}, "files": files}


APPLE = (
    ".gitattributes",
    "README.md",
    "original/.DS_Store",
    "original/compiled/.DS_Store",
    "original/compiled/Unet.mlmodelc/analytics/coremldata.bin",
    "original/compiled/Unet.mlmodelc/weights/weight.bin",
    "original/compiled/vocab.json",
    "original/compiled/merges.txt",
    "original/packages/Stable_Diffusion_version_runwayml_stable-diffusion-v1-5_unet.mlpackage/Manifest.json",
    "split_einsum_v2/packages/Stable_Diffusion_version_runwayml_stable-diffusion-v1-5_unet.mlpackage/Manifest.json",
    "coreml-x_original_compiled.zip",
    "coreml-x_split_einsum_v2_compiled.zip",
)


def test_apple_palettized() -> None:
    assert names(*APPLE) == [
        "original/compiled",
        "original/packages",
        "original/zip",
        "split_einsum_v2/packages",
        "split_einsum_v2/zip",
    ]
    assert flat(state(*APPLE), "original/compiled") == {
        "Unet.mlmodelc/analytics/coremldata.bin",
        "Unet.mlmodelc/weights/weight.bin",
        "vocab.json",
        "merges.txt",
    }


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        pytest.param(
            ("compiled/Unet.mlmodelc/x", "packages/A_unet.mlpackage/x", "LICENSE.md", "images/a.png"),
            ["compiled", "packages"],
            id="xl-base: no attention in the path",
        ),
        pytest.param(
            ("coreml-xl-base-ios_split_einsum_compiled/Unet.mlmodelc/x",), ["split_einsum/compiled"], id="xl-base-ios"
        ),
        pytest.param(
            ("original/tiny_original.zip", "split-einsum/tiny_split-einsum.zip"),
            ["original/zip", "split_einsum/zip"],
            id="coreml-community",
        ),
        pytest.param(
            ("original/tiny_original.zip", "original/tiny_original_512x768.zip"),
            ["original/tiny_original/zip", "original/tiny_original_512x768/zip"],
            id="coreml-community, several sizes",
        ),
        pytest.param(
            ("unet/recipe_4/Unet.mlpackage/x", "unet/recipe_4/Unet.mlmodelc/x", "unet/recipe_6/Unet.mlpackage/x"),
            ["compiled", "unet/recipe_4/packages", "unet/recipe_6/packages"],
            id="mixed-bit palettization",
        ),
        pytest.param(("A.mlpackage/x", "README.md"), ["packages"], id="at the root"),
        pytest.param(
            ("split_einsum/compiled/A.mlmodelc/x", "split_einsum_v2/compiled/A.mlmodelc/x"),
            ["split_einsum/compiled", "split_einsum_v2/compiled"],
            id="one name begins with the other",
        ),
        pytest.param(("README.md", "model.safetensors"), [], id="nothing"),
        pytest.param((), [], id="empty"),
        pytest.param(("__MACOSX/original/A.mlpackage/x",), [], id="junk"),
    ],
)
def test_layouts(paths: tuple[str, ...], expected: list[str]) -> None:
    assert names(*paths) == expected


def test_models_at_the_root_bring_no_other_files() -> None:
    there = state("A.mlpackage/Data/x", "B.mlmodelc/x", "vocab.json", "README.md", "other/vocab.json")
    assert flat(there, "packages") == {"A.mlpackage/Data/x", "vocab.json"}


def test_manifest_first_then_layout() -> None:
    ours = "original/packages/A.mlpackage/x"
    stray = "original/packages/B.mlpackage/x"
    theirs = "split_einsum/packages/C.mlpackage/x"
    archive = "coreml-x_original_compiled.zip"
    there = state(
        ours,
        stray,
        theirs,
        archive,
        manifest=listed(ours, archive, "README.md", variants=("original/packages", "original/zip")),
    )
    by_name = {offer.name: offer for offer in offers.offers(there)}
    assert {name: offer.known_from for name, offer in by_name.items()} == {
        "original/packages": "manifest",
        "original/zip": "manifest",
        "split_einsum/packages": "layout",
    }
    assert [file.path for file in by_name["original/packages"].files] == ["A.mlpackage/x"]
    assert by_name["original/packages"].files[0].digest == Digest("sha256", SHA)
    assert by_name["split_einsum/packages"].files[0].digest == Digest("git", "b" * 40)
    assert by_name["original/zip"].files[0].path == archive
    assert by_name["original/packages"].size == len(ours)


def test_nothing_of_that_name() -> None:
    with pytest.raises(NoSuchVariant) as caught:
        offers.select(state(*APPLE), "split_einsum/packages")
    assert "split_einsum_v2/packages" in str(caught.value)
    assert "split_einsum_v2/packages" in caught.value.hint
    with pytest.raises(NoSuchVariant, match="no Core ML models"):
        offers.select(state("README.md"), "original/packages")


@pytest.mark.parametrize(
    "path",
    [
        "original/packages/A.mlpackage/../../../etc/passwd",
        "original/packages/A.mlpackage//x",
        "original/packages/A.mlpackage/a\\..\\b",
        "original/packages/A.mlpackage/C:/x",
        "original/packages/A.mlpackage/a\x00b",
        "original/packages/A.mlpackage/a\nb",
        "original/packages/A.mlpackage/NUL.txt",
        "original/packages/A.mlpackage/x.",
        "original/packages/A.mlpackage/a\u202eb",
        "original/packages/A.mlpackage/" + "x" * 300,
    ],
)
@pytest.mark.parametrize("by_manifest", [True, False])
def test_names_that_would_leave_the_folder(path: str, by_manifest: bool) -> None:
    good = "original/packages/A.mlpackage/good"
    manifest = listed(good, path, variants=("original/packages",)) if by_manifest else None
    with pytest.raises(UnsafeArchive):
        offers.select(state(good, path, manifest=manifest), "original/packages")


@pytest.mark.parametrize(
    "pair",
    [
        ("A.mlpackage/x", "a.mlpackage/X"),
        ("A.mlpackage/é", "A.mlpackage/e\u0301"),
        ("A.mlpackage/x", "A.mlpackage/x/y"),
    ],
)
def test_names_that_coincide(pair: tuple[str, str]) -> None:
    with pytest.raises(UnsafeArchive):
        offers.select(state(*(f"original/packages/{name}" for name in pair)), "original/packages")


def test_manifest_against_the_listing() -> None:
    path = "original/packages/A.mlpackage/x"
    manifest = listed(path, variants=("original/packages",))
    with pytest.raises(DigestMismatch, match="does not have it"):
        offers.select(state("README.md", manifest=manifest), "original/packages")
    for size, digest in ((len(path) + 1, None), (len(path), "b" * 64)):
        there = RemoteState(
            repo_id="a/b",
            commit="c",
            files=(FileRef(path=path, size=size, digest=Digest("sha256", digest)),),
            manifest=manifest,
        )
        with pytest.raises(DigestMismatch, match="not the file"):
            offers.select(there, "original/packages")


def test_archive_of() -> None:
    assert offers.archive_of("original/packages") == "original/zip"
    assert offers.archive_of("split_einsum_v2/compiled/") == "split_einsum_v2/zip"
    assert offers.archive_of("original/zip") == "original/zip"


@given(
    st.sampled_from(ATTENTIONS),
    st.sampled_from(FORMATS),
    st.lists(st.sampled_from(["x", "y", "d/z"]), min_size=1, unique=True),
)
def test_our_own_layout_is_found_by_name(attention: str, form: str, inner: list[str]) -> None:
    suffix = {"packages": "mlpackage", "compiled": "mlmodelc"}[form]
    files = {f"A.{suffix}/{name}" for name in inner}
    there = state(*(f"{attention}/{form}/{name}" for name in files))
    assert flat(there, f"{attention}/{form}") == files


@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_listing_can_be_read(paths: list[str]) -> None:
    there = state(*paths)
    for offer in offers.offers(there):
        try:
            selection = offers.select(there, offer.name)
        except (UnsafeArchive, NoSuchVariant):
            continue
        for file in selection.offer.files:
            assert not file.path.startswith("/")
            assert ".." not in file.path.split("/")
