"""The card shows the manifest's data and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hubpub.errors import TemplateError
from hubpub.release.card import render
from hubpub.sources.metadata import front_matter

STEP = {"seconds": 1.5, "peak_memory": 100_000_000}


def _manifest(**changes: Any) -> dict[str, Any]:
    files = [
        "original/packages/Stable_Diffusion_version_a_b_unet.mlpackage/Manifest.json",
        "original/packages/Stable_Diffusion_version_a_b_unet.mlpackage/Data/com.apple.CoreML/model.mlmodel",
        "original/compiled/Unet.mlmodelc/model.mil",
        "original/compiled/vocab.json",
        "coreml-b_original_compiled.zip",
    ]
    manifest: dict[str, Any] = {
        "format": 1,
        "generator": {"name": "hubpub", "version": "0"},
        "repo_id": "me/coreml-b",
        "architecture": "sd1",
        "title": "Stable Diffusion 1.x",
        "source": {"kind": "hub", "name": "a/b", "location": "a/b", "commit": "c" * 40, "dirty": False, "files": []},
        "settings": {
            "attention": ["original"], "bits": 6, "latent": [64, 96], "image": [512, 768], "batch": 2,
            "target": "macOS13", "specification_version": 7, "minimum_os": ["iOS 16", "macOS 13"], "verify": "weights",
        },
        "scheduler": "DDIM",
        "prediction_type": "v_prediction",
        "scaling_factor": 0.18215,
        "card": {"license": "openrail++", "base_model": "a/b", "tags": ["core-ml"], "library_name": "coreml"},
        "variants": {
            "original/compiled": {"files": 2, "size": 200},
            "original/packages": {"files": 2, "size": 200},
            "original/zip": {"files": 1, "size": 100, "path": files[-1]},
        },
        "files": [{"path": path, "size": 100, "sha256": "0" * 64} for path in files],
        "components": {
            "unet/original": {
                "coreml_name": "Unet", "bits": 6, "size": 400, "weights": {}, "compiler": "portable",
                "verification": {"kind": "weights", "summary": "3 tensors bit-exact"},
                "steps": {"export": STEP, "fill": STEP},
            }
        },
        "command": "hubpub publish a/b",
        "run": {},
    }  # fmt: skip
    return {**manifest, **changes}


def test_front_matter_is_what_was_given() -> None:
    card = render(_manifest())
    assert front_matter(card.encode()) == _manifest()["card"]
    head = card.split("---\n")[1]
    assert yaml.safe_load(head)["license"] == "openrail++"
    assert head.index("license") < head.index("base_model") < head.index("library_name")


def test_the_body_names_what_apps_need() -> None:
    card = render(_manifest())
    for text in (
        "768×512 pixels",
        "`v_prediction`",
        "DDIM",
        "iOS 16 / macOS 13",
        "hubpub fetch me/coreml-b --variant original/compiled",
        "resolve/main/coreml-b_original_compiled.zip",
        "3 tensors bit-exact",
        "├── coreml-b_original_compiled.zip  (100 B)",
        "        └── Stable_Diffusion_version_a_b_unet.mlpackage/  (200 B)",
        "c" * 40,
    ):
        assert text in card, text


def test_what_is_not_there_is_not_named() -> None:
    only = {"original/packages": {"files": 2, "size": 200}}
    card = render(_manifest(variants=only, files=_manifest()["files"][:2]))
    assert "swift" not in card
    assert ".zip" not in card
    unverified = _manifest()
    unverified["components"]["unet/original"]["verification"] = {"kind": "not verified"}
    assert "**not verified**" in render(unverified)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    template = tmp_path / "mine.md.j2"
    template.write_text('# {{ repo_name }}\n{% include "card/devices.md.j2" %}', encoding="utf-8")
    assert "# coreml-b\n" in render(_manifest(), template=template)


@pytest.mark.parametrize(
    "text",
    [
        "{{ nothing }}",
        "{% if %}",
        "{{ ''.__class__.__mro__ }}",
        '{% include "gone" %}',
        "{{ 1 // 0 }}",
        "{{ 'a' + 1 }}",
        "{{ range(10 ** 9) | list }}",
        "{{ '%q' % 1 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    ],
)
def test_a_template_that_does_not_render(tmp_path: Path, text: str) -> None:
    template = tmp_path / "mine.md.j2"
    template.write_text(f"\n{text}\n", encoding="utf-8")
    with pytest.raises(TemplateError, match="does not render"):
        render(_manifest(), template=template)


def test_a_template_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="no template"):
        render(_manifest(), template=tmp_path / "gone.md.j2")
