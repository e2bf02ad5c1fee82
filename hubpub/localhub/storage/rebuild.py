"""Rebuilds plain files from xet chunks, for downloads without xet."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from hubpub.errors import ToolMissing
from hubpub.localhub.call import Hub
from hubpub.localhub.refused import Refused, entry_not_found
from hubpub.localhub.storage import atomic
from hubpub.localhub.storage.git import Entry
from hubpub.localhub.tickets import issue

_BLOCK = 1 << 20


def rebuilt(hub: Hub, entry: Entry) -> Path:
    """The file with a large entry's bytes; rebuilt from its chunks if necessary, and checked against its sha256."""
    objects = hub.storage.objects
    sha256 = str(entry.sha256)
    with hub.rebuilding:
        path = objects.plain_path(entry)
        if path is not None:
            return path
        name = objects.xet.named(sha256)
        if name is None:
            raise entry_not_found(sha256)
        with atomic.temporary(objects.scratch) as (temporary, file):
            _fetch(hub, name.hash, name.size, temporary)
            with temporary.open("rb") as stream:
                actual = hashlib.file_digest(stream, "sha256").hexdigest()
            if actual != sha256:
                raise Refused(500, f"The chunks of {sha256} make a file with sha256 {actual}")
            atomic.publish(file, temporary, objects.rebuilt_path(sha256))
    return objects.rebuilt_path(sha256)


def _fetch(hub: Hub, name: str, size: int, dest: Path) -> None:
    """Download the file from this server with hf-xet, which can unpack chunks."""
    try:
        import hf_xet
    except ImportError as error:
        raise ToolMissing("Files uploaded by xet need hf-xet to be read.", hint="pip install hf-xet") from error
    ticket = issue(hub, writes=False, now=time.time())
    session = hf_xet.XetSession()
    with session.new_file_download_group(
        endpoint=ticket.url,
        token=ticket.token,
        token_expiry_unix_secs=ticket.expires,
        token_refresh_url=None,
        token_refresh_headers=None,
        custom_headers={},
        progress_callback=None,
    ) as group:
        group.start_download_file(hf_xet.XetFileInfo(name, size), str(dest))
