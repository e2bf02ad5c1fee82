"""The names that apps expect, on disk and in the repo."""

from __future__ import annotations

CARD = "README.md"
MANIFEST = "hubpub.json"
SIGNATURE = "hubpub.json.sigstore.json"  # sigstore's own ending
IMAGES = "images"


def default_destination(owner: str, source_name: str, bits: int) -> str:
    """`<owner>/coreml-<name>-palettized`, without the ending at 16 bits."""
    ending = "" if bits == 16 else "-palettized"
    return f"{owner}/coreml-{source_name.rpartition('/')[2]}{ending}"


def fetch_folder(repo_id: str, variant: str) -> str:
    """The flat folder that `fetch` makes: `<repo>_original_packages`."""
    return f"{repo_id.rpartition('/')[2]}_{variant.replace('/', '_')}"
