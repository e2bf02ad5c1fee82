"""Decides which files the Hub stores as large files: by .gitattributes, size and first bytes."""

from __future__ import annotations

import functools
import re

LARGE = 10 * 1024 * 1024  # bytes; the Hub refuses larger files in plain git

# Patterns in the .gitattributes of a new model repo.
_LARGE_PATTERNS = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx *.ot
*.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz
*.zip *.zst *tfevents*
"""
DEFAULT = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LARGE_PATTERNS.split())


def is_large(path: str, *, size: int, sample: bytes, attributes: str) -> bool:
    """Whether `path` belongs in large-file storage: by pattern, by size, or because its first bytes are not text."""
    if size == 0:
        return False
    return tracked(path, attributes) or size > LARGE or not _is_text(sample)


def tracked(path: str, attributes: str) -> bool:
    """Whether .gitattributes sends `path` to LFS; as in git, the last matching line decides."""
    verdict = False
    for line in attributes.split("\n"):  # and no other separator: paths may hold the rest
        pattern, _, settings = line.strip(" \t\r").partition(" ")
        if not pattern or pattern.startswith("#"):
            continue
        words = settings.split()
        if "filter=lfs" in words and matches(pattern.replace("[[:space:]]", " "), path):
            verdict = True
        elif ("-filter" in words or "!filter" in words) and matches(pattern, path):
            verdict = False
    return verdict


def track(path: str, attributes: str) -> str:
    """.gitattributes with a line for `path`; the Hub adds one for a large file that no pattern matches."""
    head = attributes if not attributes or attributes.endswith("\n") else attributes + "\n"
    escaped = re.sub(r"([*?\[\]\\])|^([#!\"])", r"\\\1\2", path).replace(" ", "[[:space:]]")
    return f"{head}{escaped} filter=lfs diff=lfs merge=lfs -text\n"


def ignored(path: str, gitignore: str) -> bool:
    """Whether a .gitignore excludes `path`; as in git, the last matching line decides."""
    verdict = False
    parts = path.split("/")
    for line in gitignore.split("\n"):
        pattern = line.rstrip(" \t\r")
        if not pattern or pattern.startswith("#"):
            continue
        negated = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        folder_only = pattern.endswith("/")
        pattern = pattern.rstrip("/")
        # a pattern that matches a folder applies to everything below it
        last = len(parts) - 1 if folder_only else len(parts)
        if any(matches(pattern, "/".join(parts[:depth])) for depth in range(1, last + 1)):
            verdict = not negated
    return verdict


def matches(pattern: str, path: str) -> bool:
    """git's pattern language: a pattern without a slash matches the name, one with a slash the whole path."""
    if "/" not in pattern:
        path = path.rpartition("/")[2]
    return _expression(pattern.removeprefix("/")).fullmatch(path) is not None


@functools.lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif pattern[at] == "\\" and at + 1 < len(pattern):
            out, at = out + re.escape(pattern[at + 1]), at + 2
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            body = pattern[at + 1 : end].replace("\\", "\\\\")
            body = "^" + body[1:] if body[0] in "!^" else body
            out, at = out + f"[{body}]", end + 1
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    return re.compile(out)


def _is_text(sample: bytes) -> bool:
    if b"\0" in sample:
        return False
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(sample) - 3  # the sample may end within a character
    return True
