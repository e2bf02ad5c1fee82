"""Names of repos of the Hub: OWNER/NAME."""

from __future__ import annotations

import re

from hubpub.errors import ConfigError

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def check_repo_id(repo_id: str) -> str:
    """`repo_id` if it has the Hub's form OWNER/NAME; ConfigError if not."""
    name = repo_id.partition("/")[2]
    if (
        not REPO_ID.fullmatch(repo_id)
        or len(repo_id) > 96
        or "--" in repo_id
        or ".." in repo_id
        or name.endswith(".git")
    ):
        raise ConfigError(
            f"{repo_id!r} is not a repo id.", hint="A repo id is OWNER/NAME, for example prompthero/openjourney-v4."
        )
    return repo_id
