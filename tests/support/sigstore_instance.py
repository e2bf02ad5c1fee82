"""A sigstore instance of our own on loopback: a CA, a certificate log and a transparency log with keys made here.

sigstore's real client signs and verifies against it, as against the public instance; what
it answers is built after the same formats (RFC 6962 for certificates, Rekor's v1 API).
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = "https://issuer.example"
WORKFLOW = "https://github.com/me/models/.github/workflows/publish.yml@refs/heads/main"
_ORIGIN = "log.example"


def token(identity: str = WORKFLOW, *, issuer: str = ISSUER, lives: int = 600) -> str:
    """An identity token; nobody but the CA reads it, and ours believes it."""
    now = int(time.time())
    claims = {"aud": "sigstore", "sub": identity, "iss": issuer, "iat": now, "exp": now + lives}
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


class Instance:
    """The keys, and what each service answers."""

    def __init__(self) -> None:
        self.ca, self.certificates_log, self.log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.root = self._root()
        self.url = ""
        self.refuses = False

    def trust_config(self) -> dict[str, Any]:
        """What a client must know to use this instance and no other."""
        always = {"start": "2020-01-01T00:00:00Z"}
        service = {"url": self.url, "majorApiVersion": 1, "validFor": always, "operator": "tests"}
        certificates = [{"rawBytes": _b64(self.root.public_bytes(serialization.Encoding.DER))}]
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [self._log_entry(self.log, always)],
                "ctlogs": [self._log_entry(self.certificates_log, always)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "tests", "commonName": "root"},
                        "uri": self.url,
                        "certChain": {"certificates": certificates},
                        "validFor": always,
                    }
                ],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "tsaUrls": [],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaConfig": {"selector": "ANY"},
            },
        }

    def certify(self, body: dict[str, Any], token: str) -> dict[str, Any]:
        """A certificate for the key of a request, with the identity of its token."""
        request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
        claims = jwt.decode(token, options={"verify_signature": False})
        chain = [self._leaf(request.public_key(), claims), self.root]
        pems = [one.public_bytes(serialization.Encoding.PEM).decode() for one in chain]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": pems}}}

    def record(self, entry: dict[str, Any]) -> dict[str, Any]:
        """An entry of the log, which has no other."""
        body = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        root = hashlib.sha256(b"\0" + body).digest()
        key_id = _key_id(self.log)
        note = f"{_ORIGIN}\n1\n{_b64(root)}\n"
        signature = _b64(key_id[:4] + self._signed(self.log, note.encode()))
        told = {"body": _b64(body), "integratedTime": int(time.time()), "logID": key_id.hex(), "logIndex": 0}
        promise = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        proof = {
            "checkpoint": f"{note}\n— {_ORIGIN} {signature}\n",
            "hashes": [],
            "logIndex": 0,
            "rootHash": root.hex(),
            "treeSize": 1,
        }
        verification = {"inclusionProof": proof, "signedEntryTimestamp": _b64(self._signed(self.log, promise))}
        return {"0" * 64: {**told, "verification": verification}}

    def _root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root of the tests")])
        builder = self._builder(name, name, self.ca.public_key(), days=3650)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        usage = _usage(digital_signature=False, key_cert_sign=True)
        return builder.add_extension(usage, critical=True).sign(self.ca, hashes.SHA256())

    def _leaf(self, key: Any, claims: dict[str, Any]) -> x509.Certificate:
        identity = str(claims["sub"])
        name = x509.UniformResourceIdentifier(identity) if "://" in identity else x509.RFC822Name(identity)
        builder = self._builder(x509.Name([]), self.root.subject, key, days=0)
        builder = builder.add_extension(_usage(digital_signature=True, key_cert_sign=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key())
        builder = builder.add_extension(authority, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), critical=True)
        issuer = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
        builder = builder.add_extension(x509.UnrecognizedExtension(issuer, str(claims["iss"]).encode()), critical=False)
        before = builder.sign(self.ca, hashes.SHA256())
        stamp = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), self._stamp(before))
        return builder.add_extension(stamp, critical=False).sign(self.ca, hashes.SHA256())

    def _stamp(self, before: x509.Certificate) -> bytes:
        """The certificate log's promise (an SCT), made of the certificate as it is without one."""
        now = int(time.time() * 1000)
        tbs = before.tbs_certificate_bytes
        entry = _key_id(self.ca) + len(tbs).to_bytes(3, "big") + tbs
        signature = self._signed(self.certificates_log, struct.pack("!BBQH", 0, 0, now, 1) + entry + b"\0\0")
        sct = struct.pack("!B32sQH", 0, _key_id(self.certificates_log), now, 0)
        sct += struct.pack("!BBH", 4, 3, len(signature)) + signature
        listed = struct.pack("!H", len(sct)) + sct
        text = struct.pack("!H", len(listed)) + listed
        assert len(text) < 256
        return (b"\x04" + bytes([len(text)]) if len(text) < 128 else b"\x04\x81" + bytes([len(text)])) + text

    def _builder(self, subject: x509.Name, issuer: x509.Name, key: Any, *, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1, days=days))
            .not_valid_after(now + timedelta(minutes=10, days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    def _log_entry(self, key: ec.EllipticCurvePrivateKey, always: dict[str, str]) -> dict[str, Any]:
        return {
            "baseUrl": self.url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": _b64(_der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": always},
            "logId": {"keyId": _b64(_key_id(key))},
        }

    def _signed(self, key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
        return key.sign(data, ec.ECDSA(hashes.SHA256()))


@contextmanager
def running(folder: Path) -> Iterator[tuple[Instance, Path]]:
    """An instance that answers on loopback, and the file of its trust config."""
    instance = Instance()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Logging in: whoever comes is let in, and sent back with a code."""
            address = urlsplit(self.path)
            if address.path == "/.well-known/openid-configuration":
                endpoints = {f"{name}_endpoint": f"{instance.url}/{name}" for name in ("authorization", "token")}
                self._answer(200, endpoints)
                return
            asked = parse_qs(address.query)
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri'][0]}?code=1&state={asked['state'][0]}")
            self.end_headers()

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/token":
                self._answer(200, {"access_token": token("me@example.org")})
                return
            body = json.loads(data)
            if instance.refuses:
                status, told = 503, {"code": 503, "message": "closed today"}
            elif self.path == "/api/v2/signingCert":
                status, told = 200, instance.certify(body, self.headers["Authorization"].removeprefix("Bearer "))
            else:
                assert self.path == "/api/v1/log/entries"
                status, told = 201, instance.record(body)
            self._answer(status, told)

        def _answer(self, status: int, told: dict[str, Any]) -> None:
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        instance.url = f"http://127.0.0.1:{server.server_port}"
        config = folder / "trust.json"
        config.write_text(json.dumps(instance.trust_config()), encoding="utf-8")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield instance, config
        finally:
            server.shutdown()
            thread.join()


def _usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature, key_cert_sign=key_cert_sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, crl_sign=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_der(key)).digest()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
