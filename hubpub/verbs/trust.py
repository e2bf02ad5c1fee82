"""A repo's manifest as somebody signed it: downloaded, verified and cached. Used by fetch and verify."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hubpub.errors import SignatureInvalid
from hubpub.plan.names import MANIFEST, SIGNATURE
from hubpub.release.release import MAX_MANIFEST_BYTES, RemoteState, parse_manifest
from hubpub.remote import signing
from hubpub.remote.cache import FetchCache
from hubpub.remote.offers import Selection
from hubpub.remote.signing import Signer, Wanted

if TYPE_CHECKING:
    from hubpub.remote.hub import Hub


def signed(state: RemoteState, wanted: Wanted, *, hub: Hub, cache: FetchCache) -> tuple[RemoteState, Signer]:
    """The state with the manifest that was signed in place of the one that was listed, and who signed it.

    SignatureInvalid when the repo has no signature, or not a good one of whom is wanted.
    """
    commit = str(state.commit)
    kept = cache.signed(hub.endpoint, state.repo_id, commit)
    if kept is None:
        if not {MANIFEST, SIGNATURE} <= {file.path for file in state.files}:
            raise SignatureInvalid(
                f"{state.repo_id} at {commit[:12]} is not signed.",
                hint="Leave --verify-signature out, or ask its owner to publish with --sign.",
            )
        kept = (
            hub.read(state.repo_id, commit, MANIFEST, limit=MAX_MANIFEST_BYTES),
            hub.read(state.repo_id, commit, SIGNATURE, limit=signing.MAX_BUNDLE_BYTES),
        )
    signer = signing.verify(*kept, wanted=wanted, offline=hub.offline)
    manifest = parse_manifest(kept[0]) or {}
    meant = str(manifest.get("repo_id"))
    if meant.casefold() != state.repo_id.casefold():  # a release that was signed, taken to another repo
        raise SignatureInvalid(
            f"What {state.repo_id} holds was signed for {meant}.", hint="If the repo was renamed, publish to it again."
        )
    cache.keep_signed(hub.endpoint, state.repo_id, commit, *kept)
    return replace(state, manifest=manifest), signer


def check_covered(selection: Selection) -> None:
    """SignatureInvalid unless the variant was chosen by the manifest: a signature says nothing of other files."""
    if selection.offer.known_from != "manifest":
        raise SignatureInvalid(
            f"{selection.offer.name} of {selection.repo_id} is not in the manifest that was signed.",
            hint="Choose a variant that is, or leave --verify-signature out.",
        )
