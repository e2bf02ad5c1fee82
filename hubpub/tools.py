"""Other programs: found beforehand, called with argument lists, their exit status checked.

The only module that imports subprocess.
"""

from __future__ import annotations

import subprocess
import sys

Process = subprocess.Popen[bytes]


def start_module(module: str, *arguments: str) -> Process:
    """Start `python -m module` of this interpreter with pipes to its stdin and stdout.

    It gets a session of its own, so that a Ctrl-C in the terminal reaches hubpub alone,
    which then decides what to stop.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
