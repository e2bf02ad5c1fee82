"""Checks untrusted file names: only names that are safe on every system may become local files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from hubpub.errors import UnsafeArchive

# Device names of Windows.
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_MAX_NAME_BYTES: Final = 255


def check_relative(path: str) -> str:
    """`path`, if it is relative and stays below its folder on every system; else raises UnsafeArchive.

    Refuses absolute paths, `..`, `.` and empty parts, backslashes, drive letters and streams
    (`:`), control characters, device names of Windows, names that end in a dot or a space, and
    names above 255 bytes.
    """
    for part in path.split("/"):
        if (
            part in ("", ".", "..")
            or any(character in part for character in '\\:<>"|?*')
            or any(unicodedata.category(character) in ("Cc", "Cs", "Co", "Cf", "Zl", "Zp") for character in part)
            or part[-1] in ". "
            or _DEVICES.fullmatch(part)
            or len(part.encode("utf-8", "surrogatepass")) > _MAX_NAME_BYTES
        ):
            raise UnsafeArchive(
                f"The file name {path!r} is not safe on every system.", hint="Tell the owner of the repo."
            )
    return path


def is_relative(path: str) -> bool:
    """Whether check_relative accepts the path."""
    try:
        check_relative(path)
    except UnsafeArchive:
        return False
    return True


def check_all(paths: Iterable[str]) -> None:
    """Check every path with check_relative; refuse paths that a file system may treat as one, and files in files."""
    files: dict[str, str] = {}
    for path in paths:
        key = folded(check_relative(path))
        if key in files:
            raise UnsafeArchive(
                f"{path!r} and {files[key]!r} would be the same file here.", hint="Tell the owner of the repo."
            )
        files[key] = path
    for key, path in files.items():
        above = key.rpartition("/")[0]
        while above:
            if above in files:
                raise UnsafeArchive(
                    f"{files[above]!r} is a file, and {path!r} is in it.", hint="Tell the owner of the repo."
                )
            above = above.rpartition("/")[0]


def folded(path: str) -> str:
    """The path as file systems compare it that ignore case and Unicode composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
