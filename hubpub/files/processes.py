"""Starts other programs. The only module that imports subprocess."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hubpub.errors import StepFailed, ToolMissing

_PORTABLE: Final = "Leave out `--compiler apple`: the portable compiler needs no Mac."

Process = subprocess.Popen[bytes]


def start_module(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
    """Start `python -m module` with this interpreter, with pipes for stdin and stdout, and more environment.

    The process gets its own session, so that Ctrl-C in the terminal reaches only hubpub, which
    stops its workers.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )


def find_coremlcompiler() -> Path:
    """The path of Xcode's Core ML compiler, from `xcrun --find`; raises ToolMissing if there is none."""
    xcrun = shutil.which("xcrun")
    if xcrun is None:
        raise ToolMissing("There is no Xcode on this machine.", hint=_PORTABLE)
    process = subprocess.run([xcrun, "--find", "coremlcompiler"], capture_output=True, text=True, check=False)
    path = Path(process.stdout.strip())
    if process.returncode or not path.is_file():
        reason = _last_line(process.stderr) or f"status {process.returncode}"
        raise ToolMissing(f"Xcode has no coremlcompiler ({reason}).", hint=f"Install the full Xcode. {_PORTABLE}")
    return path


def run_coremlcompiler(package: Path, folder: Path) -> None:
    """Compile `package` with Xcode into `folder/<stem>.mlmodelc`; raises StepFailed with Xcode's output."""
    command = [str(find_coremlcompiler()), "compile", str(package), str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if process.returncode:
        output = "\n".join(part for part in (process.stdout.strip(), process.stderr.strip()) if part)
        reason = _last_line(output) or "no output"
        raise StepFailed(
            f"Xcode's compiler refused {package.name} (status {process.returncode}): {reason}", hint=output[-4000:]
        )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
