"""What was learnt of repos and folders, and when it is forgotten."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hubpub.release.release import RemoteState
from hubpub.remote.cache import FetchCache

COMMIT = "0" * 40


def test_what_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    cache = FetchCache(tmp_path)
    for number in range(3):
        state = RemoteState(repo_id="me/model", commit=COMMIT, files=())
        cache.keep_state(f"http://127.0.0.1:{number}", state, None)
    for folder in (tmp_path / "repos").iterdir():
        os.utime(folder, (1000, 1000))
    assert cache.state("http://127.0.0.1:1", "me/model", COMMIT) is not None  # asked for now
    assert cache.prune(before=2000) == 2
    assert cache.state("http://127.0.0.1:0", "me/model", COMMIT) is None
    assert cache.state("http://127.0.0.1:1", "me/model", COMMIT) is not None
    assert cache.prune(before=math.inf) == 1


def test_folders_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    cache = FetchCache(tmp_path / "store")
    here, gone = tmp_path / "here", tmp_path / "gone"
    for folder in (here, gone):
        folder.mkdir()
        cache.keep_fetched(folder, {"repo_id": "me/model", "files": []})
    gone.rmdir()
    assert cache.prune(before=0) == 1
    assert cache.fetched(gone) is None
    known = cache.fetched(here)
    assert known is not None
    assert known["repo_id"] == "me/model"
