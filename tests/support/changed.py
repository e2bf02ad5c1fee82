"""The test folders of the packages that have changed: `python -m tests.support.changed [COMMIT]`, for `make quick`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = ("tests/test_light.py", "tests/test_errors.py")


def changed_files(since: str) -> set[str]:
    """Files that differ from a commit, and new ones."""
    listed = ("git", "ls-files", "--others", "--exclude-standard")
    commands = (("git", "diff", "--name-only", since), listed)
    return {
        name
        for command in commands
        for name in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    }


def test_paths(files: set[str]) -> list[str]:
    """Tests that mirror these files: of `hubpub/plan/x.py` the folder `tests/plan`, of a test the test itself."""
    paths = set(ALWAYS)
    for name in files:
        top, _, rest = name.partition("/")
        package = rest.partition("/")[0]
        if top == "hubpub" and (ROOT / "tests" / package).is_dir():
            paths.add(f"tests/{package}")
        elif name.startswith("tests/") and Path(name).name.startswith("test_") and (ROOT / name).is_file():
            paths.add(name)
    return sorted(paths)


if __name__ == "__main__":
    print(*test_paths(changed_files(sys.argv[1] if len(sys.argv) > 1 else "HEAD")))
