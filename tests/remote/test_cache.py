"""What was learnt of repos and folders, and when it is forgotten."""

from __future__ import annotations

import math
import os
from pathlib import Path

from hubpub.release.release import RemoteState
from hubpub.remote.cache import Remembered

COMMIT = "0" * 40


def test_what_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path)
    for number in range(3):
        state = RemoteState(repo_id="me/model", commit=COMMIT, files=())
        remembered.keep_state(f"http://127.0.0.1:{number}", state, None)
    for folder in (tmp_path / "repos").iterdir():
        os.utime(folder, (1000, 1000))
    assert remembered.state("http://127.0.0.1:1", "me/model", COMMIT) is not None  # asked for now
    assert remembered.prune(before=2000) == 2
    assert remembered.state("http://127.0.0.1:0", "me/model", COMMIT) is None
    assert remembered.state("http://127.0.0.1:1", "me/model", COMMIT) is not None
    assert remembered.prune(before=math.inf) == 1


def test_folders_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path / "store")
    here, gone = tmp_path / "here", tmp_path / "gone"
    for folder in (here, gone):
        folder.mkdir()
        remembered.keep_fetched(folder, {"repo_id": "me/model", "files": []})
    gone.rmdir()
    assert remembered.prune(before=0) == 1
    assert remembered.fetched(gone) is None
    known = remembered.fetched(here)
    assert known is not None
    assert known["repo_id"] == "me/model"
