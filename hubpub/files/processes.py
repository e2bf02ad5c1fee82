"""Other programs: found beforehand, called with argument lists, their exit status checked.

The only module that imports subprocess.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from hubpub.errors import StepFailed, ToolMissing

_PORTABLE: Final = "Leave out `--compiler apple`: the portable compiler needs no Mac."

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


def find_coremlcompiler() -> Path:
    """Xcode's Core ML compiler, as `xcrun --find` says; raises ToolMissing where there is none."""
    xcrun = shutil.which("xcrun")
    if xcrun is None:
        raise ToolMissing("There is no Xcode on this machine.", hint=_PORTABLE)
    found = subprocess.run([xcrun, "--find", "coremlcompiler"], capture_output=True, text=True, check=False)
    path = Path(found.stdout.strip())
    if found.returncode or not path.is_file():
        said = _last_line(found.stderr) or f"status {found.returncode}"
        raise ToolMissing(f"Xcode has no coremlcompiler ({said}).", hint=f"Install Xcode itself. {_PORTABLE}")
    return path


def run_coremlcompiler(package: Path, folder: Path) -> None:
    """Let Xcode compile `package` into `folder/<stem>.mlmodelc`; raises StepFailed with what it said."""
    command = [str(find_coremlcompiler()), "compile", str(package), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        output = "\n".join(part for part in (done.stdout.strip(), done.stderr.strip()) if part)
        said = _last_line(output) or "it said nothing"
        raise StepFailed(
            f"Xcode's compiler refused {package.name} (status {done.returncode}): {said}", hint=output[-4000:]
        )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
