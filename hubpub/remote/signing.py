"""Keyless signatures of manifests with sigstore: who published a release, for all to check, without a key to keep.

The signer's identity (an e-mail address, or a workflow of a CI) is vouched for by an OIDC
issuer, certified for minutes, and written with the manifest's digest into a public log.
The only module that imports sigstore, an optional extra.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hubpub.errors import ConfigError, HubpubError, SignatureInvalid, SigningFailed, ToolMissing
from hubpub.plan.names import MANIFEST

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken

# An identity token, where neither a CI nor a person at a terminal gives one.
TOKEN: Final = "SIGSTORE_ID_TOKEN"
# The trust config of a sigstore instance of one's own; by default the public one is used.
TRUST: Final = "HUBPUB_SIGSTORE"
# A bundle has some ten thousand bytes.
MAX_BUNDLE_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signed: `identity` is an e-mail address or a workflow's address, `issuer` who vouched for it."""

    identity: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.identity} (vouched for by {self.issuer})"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The required signer; None accepts anybody."""

    identity: str | None = None
    issuer: str | None = None


class _Anybody:
    """A sigstore policy that accepts any signer; the result names the signer."""

    def verify(self, cert: Certificate) -> None:
        """Nothing."""


def check() -> None:
    """Find out before any work whether `sign` can begin. ToolMissing without sigstore; SigningFailed without identity.

    The identity is asked for again when it is used: it is good for minutes only.
    """
    _need_library()
    if not sys.stdin.isatty():
        _ambient()


def sign(data: bytes) -> tuple[str, Signer]:
    """The signature of `data` by whoever runs this (a sigstore bundle, as JSON, that has been verified), and who it is.

    The identity is SIGSTORE_ID_TOKEN, else that of the CI job, else that of a person who
    logs in with a browser. Raises SigningFailed, or ToolMissing without sigstore.
    """
    _need_library()
    from sigstore.sign import SigningContext

    with _translated(SigningFailed, "The manifest could not be signed", "Run the same command again."):
        config = _trust(offline=False)
        with SigningContext.from_trust_config(config).signer(_identity(config)) as signer:
            bundle = signer.sign_artifact(data).to_json()
    return bundle, verify(data, bundle.encode(), wanted=Wanted())


def demanded(always: bool, identity: str | None, issuer: str | None) -> Wanted | None:
    """The required signer; None if no signature is required."""
    return Wanted(identity=identity, issuer=issuer) if always or identity or issuer else None


def verify(data: bytes, bundle: bytes, *, wanted: Wanted, offline: bool = False) -> Signer:
    """Who signed `data`, by a bundle that somebody published beside it.

    `offline` trusts the keys that this machine has, else they are refreshed first.

    Raises SignatureInvalid when the signature is not good or not theirs, ToolMissing without sigstore.
    """
    _need_library()
    from sigstore.models import Bundle
    from sigstore.verify import Verifier, policy

    if wanted.issuer is not None and wanted.identity is None:
        raise ConfigError("An issuer alone says little of who signed.", hint="Name the signer with --identity, too.")
    who = policy.Identity(identity=wanted.identity, issuer=wanted.issuer) if wanted.identity else _Anybody()
    with _translated(SigningFailed, "sigstore's trusted keys cannot be had", "Set HF_HUB_OFFLINE=1 to use those here."):
        verifier = Verifier(trusted_root=_trust(offline=offline).trusted_root)
    with _translated(SignatureInvalid, f"The signature of {MANIFEST} is not good", "Do not use this release."):
        parsed = Bundle.from_json(bundle)
        verifier.verify_artifact(data, parsed, who)
        return _signer(parsed.signing_certificate)


def _need_library() -> None:
    if find_spec("sigstore") is None:
        raise ToolMissing(
            "Signatures need sigstore, which is not installed.", hint="Install it with `pip install 'hubpub[sign]'`."
        )


def _trust(*, offline: bool) -> ClientTrustConfig:
    """The signing services and their keys."""
    from sigstore.models import ClientTrustConfig

    path = os.environ.get(TRUST)
    if not path:
        return ClientTrustConfig.production(offline=offline)
    try:
        return ClientTrustConfig.from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{TRUST} names {path}, which is no trust config: {_short(error)}.",
            hint=f"Unset {TRUST} to use sigstore's public instance.",
        ) from None


def _identity(config: ClientTrustConfig) -> IdentityToken:
    from sigstore.oidc import IdentityToken, Issuer

    if not sys.stdin.isatty() or os.environ.get(TOKEN):
        return IdentityToken(_ambient())
    return Issuer(config.signing_config.get_oidc_url()).identity_token()


def _ambient() -> str:
    """An identity token from the environment (CI), without a prompt."""
    from sigstore.oidc import IdentityError, detect_credential

    try:
        token = os.environ.get(TOKEN) or detect_credential()
    except IdentityError as error:
        raise SigningFailed(
            f"This CI job gives no identity to sign with: {_short(error)}.",
            hint="On GitHub, give the job `permissions: id-token: write`.",
        ) from None
    if not token:
        raise SigningFailed(
            "There is no identity to sign with: this is no CI job, and nobody is at a terminal.",
            hint=f"Sign in a CI job, in a terminal, or set {TOKEN} to an OIDC identity token for sigstore.",
        )
    return token


def _signer(certificate: Certificate) -> Signer:
    """The signer that a sigstore certificate names."""
    from cryptography.x509 import ObjectIdentifier, SubjectAlternativeName

    names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    issuer = certificate.extensions.get_extension_for_oid(ObjectIdentifier("1.3.6.1.4.1.57264.1.1")).value
    identity = next((str(name.value) for name in names), "somebody without a name")
    return Signer(identity=identity, issuer=issuer.public_bytes().decode("utf-8", "replace"))


@contextmanager
def _translated(kind: type[HubpubError], what: str, hint: str) -> Iterator[None]:
    """Converts errors of sigstore and of its libraries to a HubpubError; their texts hold no token."""
    import requests
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import ExtensionNotFound
    from sigstore._internal.fulcio.client import ExpiredCertificate, FulcioClientError
    from sigstore._internal.rekor import RekorClientError
    from sigstore.errors import Error
    from sigstore.oidc import ExpiredIdentity, IssuerError

    foreign = (
        Error, FulcioClientError, RekorClientError, IssuerError, ExpiredCertificate, ExpiredIdentity,
        ExtensionNotFound, UnsupportedAlgorithm, requests.RequestException, struct.error, ValueError, KeyError, OSError,
    )  # fmt: skip
    try:
        yield
    except foreign as error:
        raise kind(f"{what}: {_short(error)}.", hint=hint) from None


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
