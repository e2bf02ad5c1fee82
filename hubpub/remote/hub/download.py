"""Downloads: one file with resume across processes, and a source's files into the client's cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from huggingface_hub import constants, get_session, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils.tqdm import tqdm as hub_tqdm

from hubpub.errors import BadWeights, DigestMismatch
from hubpub.files.digest import FileRef
from hubpub.files.digests import Digests
from hubpub.remote.hub import session
from hubpub.sources.source import Snapshot

if TYPE_CHECKING:
    from hubpub.remote.hub.client import Hub, Progress


def resume(hub: Hub, url: str, partial: Path, size: int, got: Callable[[int], None]) -> None:
    """Bring a file to `partial`, going on where it ends; `got` receives the size of every block (negative: discarded).

    Gives up when no byte arrives for session.PATIENCE seconds. Raises DigestMismatch when
    the server offers another number of bytes; the caller checks the digest.
    """
    pause, last_byte = 1.0, time.monotonic()
    while True:
        have = partial.stat().st_size if partial.exists() else 0
        if have > size:
            partial.unlink()
            got(-have)
            have = 0
        try:
            _receive(hub, url, partial, have, size, got)
            return
        except (HfHubHTTPError, httpx2.TransportError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code == 416 and have:
                partial.unlink()  # the server has less than we do: not the same bytes
                got(-have)
                continue
            now = partial.stat().st_size if partial.exists() else 0
            if now > have:
                pause, last_byte = 1.0, time.monotonic()
            wait = session.wait_before_retry(error, pause)
            if wait is None or time.monotonic() + wait > last_byte + session.bounded(session.PATIENCE):
                raise
        time.sleep(wait)
        pause = min(2 * pause, 20.0)


def _receive(hub: Hub, url: str, partial: Path, have: int, size: int, got: Callable[[int], None]) -> None:
    """Append what is missing; raise RemoteProtocolError when the connection ends too early."""
    if have == size and partial.exists():
        return
    headers = {**hub.headers(), "Accept-Encoding": "identity"}  # a compressed stream cannot be resumed
    if have:
        headers["Range"] = f"bytes={have}-"
    # seconds without a byte, as for the client's own downloads
    patience = httpx2.Timeout(connect=15, read=max(constants.HF_HUB_DOWNLOAD_TIMEOUT, 1), write=15, pool=120)
    with get_session().stream("GET", url, headers=headers, timeout=patience) as response:
        hf_raise_for_status(response)
        if have and response.status_code == 200:  # the server ignores Range
            partial.unlink()
            got(-have)
            have = 0
        offered = response.headers.get("Content-Length", "")
        if offered.isdigit() and int(offered) != size - have:
            raise DigestMismatch(
                f"The answer for a file of {size} bytes has {have + int(offered)}.",
                hint="Is there a proxy or a login page between here and the Hub?",
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for")
        with partial.open("ab") as target:
            for block in response.iter_raw():  # as it comes: what is held back is lost when the connection breaks
                have += len(block)
                if have > size:
                    break
                target.write(block)
                got(len(block))
    if have > size:
        raise DigestMismatch(
            "The Hub sends more bytes than the file has.", hint="Run again; if it stays, tell the repo's owner."
        )
    if have < size:
        raise httpx2.RemoteProtocolError("the connection ended too early")


def snapshot(
    hub: Hub,
    snapshot: Snapshot,
    wanted: Sequence[FileRef],
    *,
    digests: Digests | None,
    progress: Progress | None,
    jobs: int,
) -> Path:
    """Files of a source in the client's cache, each checked; a wrong one is downloaded once more."""
    total = sum(file.size for file in wanted)
    arguments: dict[str, Any] = {"endpoint": hub.endpoint, "token": hub.api.token, "library_name": "hubpub"}
    repo_id = snapshot.source.location
    folder = session.patiently(
        lambda: Path(
            snapshot_download(
                repo_id,
                revision=snapshot.commit,
                allow_patterns=[escape(file.path) for file in wanted],
                max_workers=jobs,
                tqdm_class=_bar(progress, total, f"downloading {repo_id}"),
                **arguments,
            )
        )
    )
    for file in wanted:
        # the client's cache has links
        if file.is_at((folder / file.path).resolve(), digests):
            continue
        hf_hub_download(repo_id, file.path, revision=snapshot.commit, force_download=True, **arguments)
        if not file.is_at((folder / file.path).resolve(), digests):
            raise BadWeights(
                f"{file.path} of {repo_id} did not arrive as the Hub lists it, twice.",
                hint="Check the network and the disk, then run again.",
            )
    if digests is not None:
        digests.save()
    if progress is not None:
        progress(total, total, f"downloading {repo_id}")
    return folder


def _bar(progress: Progress | None, total: int, label: str) -> type[Any]:
    """A progress bar class, as the client wants one, that tells `progress` instead of drawing."""

    class Bar(hub_tqdm):
        """Only the bar of finished bytes counts; the client makes one of received bytes and one of files, too."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.counts = options.get("name") == "huggingface_hub.snapshot_download"
            self.done = 0
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            if progress is not None and self.counts:
                progress(min(self.done, total), total, label)

    return Bar
