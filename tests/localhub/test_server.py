"""The embedded Hub over plain HTTP: what a hostile or broken client gets, and what is logged."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hubpub.errors import ConfigError, PreflightError, ToolMissing
from hubpub.localhub import Fault, Faults, Limits, LocalHub, running, serve
from hubpub.localhub.server import listen

LIMITS = Limits(
    object=100_000, json=20_000, commit=50_000, small_file=10_000, multipart_above=5_000, part=2_000, xorb=10_000
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    with running(tmp_path / "hub", limits=LIMITS) as hub:
        hub.storage.create("me/model")
        yield hub


class Answer:
    """What came back: status, headers, body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    hub: LocalHub,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | None = None,
    *,
    token: str | None = "",
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own; `token`: '' is the Hub's own, None none."""
    address = urlsplit(hub.endpoint)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    send = dict(headers or {})
    if token is not None:
        send["Authorization"] = f"Bearer {token or hub.token}"
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    try:
        connection.request(method, path, body=data, headers=send)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def commit_body(*operations: tuple[str, dict[str, Any]], parent: str | None = None) -> bytes:
    header = {"summary": "s", "description": ""} | ({"parentCommit": parent} if parent else {})
    return b"".join(
        json.dumps({"key": key, "value": value}).encode() + b"\n" for key, value in [("header", header), *operations]
    )


def small(path: str, data: bytes = b"x") -> tuple[str, dict[str, Any]]:
    return "file", {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}


def commit(hub: LocalHub, *operations: tuple[str, dict[str, Any]], **options: Any) -> Answer:
    return ask(hub, "POST", "/api/models/me/model/commit/main", commit_body(*operations), **options)


# --- who gets in ---


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil:1", "0.0.0.0", ""]
)
def test_other_host_names_get_nothing(hub: LocalHub, host: str) -> None:
    assert ask(hub, "GET", "/api/models/me/model", headers={"Host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:1", "[::1]:5", "[::1]"])
def test_loopback_host_names(hub: LocalHub, host: str) -> None:
    assert ask(hub, "GET", "/api/models/me/model", headers={"Host": host}).status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_it_listens_on_loopback_only(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        serve(tmp_path / "hub", host=host)


def test_a_taken_port(hub: LocalHub, tmp_path: Path) -> None:
    with (
        pytest.raises(PreflightError, match="cannot listen"),
        running(tmp_path / "two", port=urlsplit(hub.endpoint).port or 0),
    ):
        pass


def test_a_folder_has_a_port_of_its_own(tmp_path: Path) -> None:
    """What clients remember of an address is true of the same folder the next time."""
    with running(tmp_path / "one") as first, running(tmp_path / "one") as beside:
        assert beside.endpoint != first.endpoint, "it was taken"
    with running(tmp_path / "one") as again, running(tmp_path / "two") as other:
        assert again.endpoint == first.endpoint
        assert other.endpoint != again.endpoint


def test_without_starlette_the_error_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hubpub.localhub.app", None)
    with pytest.raises(ToolMissing) as missing, running(tmp_path / "hub"):
        pass
    assert "hubpub[local]" in missing.value.hint


def test_tokens(hub: LocalHub) -> None:
    assert ask(hub, "GET", "/api/whoami-v2").json["auth"]["accessToken"]["role"] == "write"
    assert ask(hub, "GET", "/api/whoami-v2", token=hub.read_token).json["auth"]["accessToken"]["role"] == "read"
    for token in (None, "hf_wrong", hub.token[:-1], hub.token + "x"):
        assert ask(hub, "GET", "/api/whoami-v2", token=token).status == 401
    assert commit(hub, small("a"), token=hub.read_token).status == 403
    assert commit(hub, small("a"), token=None).status == 401
    assert commit(hub, small("a")).status == 200
    for seen in hub.requests:
        assert hub.token not in seen.path + seen.query


# --- paths and bodies ---


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../token", "a/../../b", "a\\b", ".git/hooks/x", "", "a//b", "x\0y", 7, None]
)
def test_no_path_leads_out(hub: LocalHub, path: Any) -> None:
    for operation in (
        ("file", {"path": path, "content": "eA==", "encoding": "base64"}),
        ("deletedFile", {"path": path}),
    ):
        assert commit(hub, operation).status == 400
    assert len(list(hub.storage.repo("me/model").log(hub.storage.repo("me/model").find("main")))) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/..%2f..%2f/x",
        "/api/models/%2e%2e/%2e%2e",
        "/api/models/me/..%2F..%2Ftoken/refs",
        "/..%2F..%2Ftoken/x/resolve/main/a",
        "/me/model/resolve/main/..%2F..%2F..%2Ftoken",
        "/me/model/resolve/..%2F..%2Ftoken/a",
        "/api/models/me/model/tree/main/..%2F..",
        "/cdn/..%2F..%2Ftoken",
        "/lfs/put/..%2Ftoken",
        "/../token",
        "/token",
    ],
)
def test_no_address_leads_out(hub: LocalHub, path: str) -> None:
    answer = ask(hub, "GET", path)
    assert answer.status in (400, 403, 404, 405)
    assert hub.token.encode() not in answer.body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json\n",
        b'{"key": "file", "value": {}}\n',
        b'{"key": "header"}\n',
        b'{"key": "header", "value": []}\n',
        commit_body(("unknown", {})),
        commit_body(("file", {"path": "a"})),
        commit_body(("file", {"path": "a", "content": "***", "encoding": "base64"})),
        commit_body(("lfsFile", {"path": "a", "algo": "sha256", "oid": "0" * 64, "size": 3})),
        commit_body(("lfsFile", {"path": "a", "algo": "md5", "oid": "0" * 64, "size": 3})),
        commit_body(("lfsFile", {"path": "a", "algo": "sha256", "oid": "../../token", "size": 3})),
        commit_body(small("a"), small("a/b")),
        commit_body(small("big", bytes(10_001))),
        b'{"key": "header", "value": {"parentCommit": 3}}\n',
    ],
)
def test_commits_that_are_refused(hub: LocalHub, body: bytes) -> None:
    assert ask(hub, "POST", "/api/models/me/model/commit/main", body).status == 400
    assert set(hub.storage.repo("me/model").refs()) == {"heads/main"}


def test_commits_to_what_is_no_branch(hub: LocalHub) -> None:
    ask(hub, "POST", "/api/models/me/model/tag/main", {"tag": "v1"})
    for revision in ("nowhere", "v1", "refs%2Ftags%2Fv1", "refs%2Fpr%2F9", "0" * 40):
        answer = ask(hub, "POST", f"/api/models/me/model/commit/{revision}", commit_body(small("a")))
        assert (answer.status, answer.headers["X-Error-Code"]) == (404, "RevisionNotFound")


def test_bodies_are_bounded(hub: LocalHub) -> None:
    large = b"x" * 60_000
    assert ask(hub, "POST", "/api/models/me/model/commit/main", large).status == 413
    assert ask(hub, "POST", "/api/validate-yaml", large).status == 413
    assert ask(hub, "POST", "/api/repos/create", headers={"Content-Length": str(1 << 50)}).status == 413
    line = commit_body(small("a", bytes(30_000)))
    assert ask(hub, "POST", "/api/models/me/model/commit/main", line).status == 413
    assert _raw(hub, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000 + b"\r\n\r\n").startswith(
        b"HTTP/1.1 4"
    )


def test_a_chunked_body_is_bounded_too(hub: LocalHub) -> None:
    head = b"POST /api/validate-yaml HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 10
    assert _raw(hub, head + chunks).startswith(b"HTTP/1.1 413")


def _raw(hub: LocalHub, data: bytes) -> bytes:
    address = urlsplit(hub.endpoint)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(data)
        return connection.recv(4096)


# --- large files by LFS ---


def lfs_batch(hub: LocalHub, data: bytes, *, oid: str | None = None) -> dict[str, Any]:
    row = {"oid": oid or hashlib.sha256(data).hexdigest(), "size": len(data)}
    body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [row], "hash_algo": "sha256"}
    answer = ask(hub, "POST", "/me/model.git/info/lfs/objects/batch", body)
    assert answer.status == 200
    return dict(answer.json["objects"][0])


def local(hub: LocalHub, url: str) -> str:
    assert url.startswith(hub.endpoint)
    return url[len(hub.endpoint) :]


def test_an_upload_in_one_piece(hub: LocalHub) -> None:
    data = os.urandom(2_999) + b"?"  # not "!", which stands for a changed last byte below
    actions = lfs_batch(hub, data)["actions"]
    link = local(hub, actions["upload"]["href"])
    assert ask(hub, "PUT", link, data[:-1], token=None).status == 400
    assert ask(hub, "PUT", link, data[:-1] + b"!", token=None).status == 400
    named = {"oid": hashlib.sha256(data).hexdigest(), "size": 3000}
    assert ask(hub, "POST", local(hub, actions["verify"]["href"]), named).status == 404
    assert ask(hub, "PUT", link, data, token=None).status == 200
    assert ask(hub, "POST", local(hub, actions["verify"]["href"]), named).status == 200
    assert "actions" not in lfs_batch(hub, data)
    assert list((hub.root / "tmp").iterdir()) == []
    oid = hashlib.sha256(data).hexdigest()
    assert commit(hub, ("lfsFile", {"path": "w.bin", "algo": "sha256", "oid": oid, "size": 2_999})).status == 400
    assert commit(hub, ("lfsFile", {"path": "w.bin", "algo": "sha256", "oid": oid, "size": 3_000})).status == 200


def test_an_upload_in_parts(hub: LocalHub) -> None:
    data = os.urandom(7_001)
    upload = lfs_batch(hub, data)["actions"]["upload"]
    header = upload["header"]
    assert (header["chunk_size"], sorted(set(header) - {"chunk_size"})) == ("2000", ["1", "2", "3", "4"])
    tags = []
    for number in (1, 2, 3, 4):
        part = data[2000 * (number - 1) : 2000 * number]
        assert ask(hub, "PUT", local(hub, header[str(number)]), part + b"!", token=None).status in (400, 413)
        answer = ask(hub, "PUT", local(hub, header[str(number)]), part, token=None)
        assert answer.status == 200
        tags.append({"partNumber": number, "etag": answer.headers["ETag"]})
    finish = local(hub, upload["href"])
    oid = hashlib.sha256(data).hexdigest()
    wrong = [*tags[:3], {"partNumber": 4, "etag": '"0"'}]
    for parts in (tags[:3], wrong, list(reversed(tags))):
        assert ask(hub, "POST", finish, {"oid": oid, "parts": parts}, token=None).status == 400
    assert ask(hub, "POST", finish, {"oid": oid, "parts": tags}, token=None).status == 200
    assert hub.storage.objects.lfs_path(oid).read_bytes() == data
    assert ask(hub, "POST", finish, {"oid": oid, "parts": tags}, token=None).status == 200  # its answer was lost
    assert list((hub.root / "parts").iterdir()) == []


def test_links_cannot_be_made_up(hub: LocalHub) -> None:
    data = os.urandom(3_000)
    link = local(hub, lfs_batch(hub, data)["actions"]["upload"]["href"])
    path, _, query = link.partition("?")
    forged = [
        path,
        path + "?size=3000&expires=9999999999&signature=00",
        link.replace("size=3000", "size=4000"),
        path.replace(hashlib.sha256(data).hexdigest(), "0" * 64) + "?" + query,
        re.sub(r"expires=\d+", "expires=9999999999", link),
        re.sub(r"expires=\d+", "expires=", link),
        link.replace("/lfs/put/", "/cdn/"),
    ]
    for address in forged:
        assert ask(hub, "GET" if "/cdn/" in address else "PUT", address, data, token=None).status in (403, 404)


def test_an_object_that_is_too_large(hub: LocalHub) -> None:
    row = {"oid": "0" * 64, "size": 100_001}
    body = {"operation": "upload", "objects": [row], "hash_algo": "sha256"}
    answer = ask(hub, "POST", "/me/model.git/info/lfs/objects/batch", body)
    assert answer.json["objects"][0]["error"]["code"] == 413


# --- the xet store ---


def test_the_xet_store_asks_for_a_pass(hub: LocalHub) -> None:
    answer = ask(hub, "GET", "/api/models/me/model/xet-read-token/main", token=None)
    reads = answer.json["accessToken"]
    store = local(hub, answer.json["casUrl"])
    assert answer.headers["X-Xet-Cas-Url"] == answer.json["casUrl"]
    assert ask(hub, "GET", "/api/models/me/model/xet-write-token/main", token=hub.read_token).status == 403
    writes = ask(hub, "GET", "/api/models/me/model/xet-write-token/main").json["accessToken"]
    xorb = f"{store}/v1/xorbs/default/{'0' * 64}"
    for token, status in (
        (None, 401),
        ("x", 401),
        (hub.token, 401),
        (reads, 403),
        (writes.replace("write", "read"), 401),
    ):
        assert ask(hub, "POST", xorb, b"body", token=token).status == status
    assert ask(hub, "POST", xorb, b"body", token=writes).status == 400
    assert ask(hub, "POST", f"{store}/v1/xorbs/default/..%2F..%2Ftoken", b"body", token=writes).status == 400
    assert ask(hub, "POST", xorb, b"x" * 20_000, token=writes).status == 413
    assert ask(hub, "POST", f"{store}/v1/shards", b"body", token=writes).status == 400
    assert ask(hub, "POST", re.sub("/cas/[0-9a-f]+", "/cas/other", xorb), b"body", token=writes).status == 404
    assert ask(hub, "GET", f"{store}/v1/reconstructions/{'0' * 64}", token=reads).status == 404
    assert ask(hub, "GET", f"{store}/data/{'0' * 64}", token=writes).status == 403


# --- faults and the log ---


def test_the_log_counts_bytes(hub: LocalHub) -> None:
    body = commit_body(small("a", b"x" * 500))
    ask(hub, "POST", "/api/models/me/model/commit/main?x=1", body)
    answer = ask(hub, "GET", "/me/model/resolve/main/a")
    posted, got = hub.requests[-2:]
    assert (posted.method, posted.status, posted.received, posted.query) == ("POST", 200, len(body), "x=1")
    assert (got.path, got.sent, len(answer.body)) == ("/me/model/resolve/main/a", 500, 500)
    assert hub.received("commit") == len(body)


def test_the_socket_names_its_protocol_so_that_asyncio_sets_tcp_nodelay() -> None:
    with listen("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_faults(tmp_path: Path) -> None:
    faults = Faults()
    with running(tmp_path / "hub", faults=faults) as hub:
        hub.storage.create("me/model")
        commit(hub, small("a", b"abcdef" * 1000))
        file = "/me/model/resolve/main/a"
        faults.add(Fault(kind="status", status=429, retry_after=7))
        limited = ask(hub, "GET", file)
        assert (limited.status, limited.headers["Retry-After"]) == (429, "7")
        faults.add(Fault(kind="refuse"))
        with pytest.raises(ConnectionError):
            ask(hub, "GET", file)
        faults.add(Fault(kind="truncate", at=10))
        with pytest.raises(http.client.IncompleteRead) as cut:
            ask(hub, "GET", file)
        assert cut.value.partial == b"abcdefabcd"
        faults.add(Fault(kind="reset", at=10))
        with pytest.raises(ConnectionResetError):
            ask(hub, "GET", file)
        faults.add(Fault(kind="corrupt", at=2))
        assert ask(hub, "GET", file).body[:4] == b"abbd"
        faults.add(Fault(kind="delay", seconds=0.3))
        began = time.monotonic()
        assert ask(hub, "GET", file).status == 200
        assert time.monotonic() - began >= 0.3
        faults.add(Fault(kind="throttle", rate=20_000))
        began = time.monotonic()
        assert len(ask(hub, "GET", file).body) == 6000
        assert time.monotonic() - began >= 0.3
        heard: list[tuple[int, bool]] = []
        faults.add(Fault(kind="watch", on_piece=lambda size, is_last: heard.append((size, is_last))))
        assert ask(hub, "GET", file).status == 200
        assert sum(size for size, _ in heard) == 6000
        assert [ends for _, ends in heard].count(True) == 1
        faults.add(Fault(kind="lost", path="/commit/"))
        with pytest.raises(ConnectionError):
            commit(hub, small("b"))
        assert ask(hub, "GET", "/me/model/resolve/main/b").status == 200
        head = ask(hub, "GET", "/api/models/me/model").json["sha"]
        faults.add(Fault(kind="stale", path="/commit/"))
        body = commit_body(small("c"), parent=head)
        assert ask(hub, "POST", "/api/models/me/model/commit/main", body).status == 412
        assert [seen.fault for seen in hub.requests if seen.fault] == [
            "status",
            "refuse",
            "truncate",
            "reset",
            "corrupt",
            "delay",
            "throttle",
            "watch",
            "lost",
            "stale",
        ]


# --- starting and stopping ---


def test_it_stops_in_good_time(tmp_path: Path) -> None:
    """Also with a connection that is kept open and one that hangs in the middle of a request."""
    before = threading.active_count()
    with running(tmp_path / "hub") as hub:
        address = urlsplit(hub.endpoint)
        idle = socket.create_connection((address.hostname, address.port))
        time.monotonic()
    idle.close()
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    assert threading.active_count() <= before + 1


_SERVE = """
import sys
from pathlib import Path
from hubpub.localhub import serve
serve(Path(sys.argv[1]), port=0, ready=lambda hub: print(hub.endpoint, hub.token, flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
def test_serve_until_interrupted(tmp_path: Path) -> None:
    """Two processes serve one data folder: what one takes in, the other shows."""
    servers = [
        subprocess.Popen([sys.executable, "-c", _SERVE, str(tmp_path / "hub")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        hubs = []
        for server in servers:
            assert server.stdout is not None
            endpoint, token = server.stdout.readline().split()
            hubs.append((urlsplit(endpoint), token))
        assert hubs[0][1] == hubs[1][1]

        def request(at: int, method: str, path: str, body: bytes | None = None) -> Answer:
            connection = http.client.HTTPConnection(hubs[at][0].hostname or "", hubs[at][0].port, timeout=20)
            try:
                connection.request(method, path, body, {"Authorization": f"Bearer {hubs[at][1]}"})
                return Answer(connection.getresponse())
            finally:
                connection.close()

        assert request(0, "POST", "/api/repos/create", b'{"name": "model", "organization": "me"}').status == 200
        assert request(1, "POST", "/api/models/me/model/commit/main", commit_body(small("a", b"by one"))).status == 200
        assert request(0, "GET", "/me/model/resolve/main/a").body == b"by one"
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
        codes = [server.wait(20) for server in servers]
        for server in servers:
            if server.stdout is not None:
                server.stdout.close()
    assert all(code in (0, 130, -signal.SIGINT) for code in codes)
