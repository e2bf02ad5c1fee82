"""`python -m tests.fuzz.run TARGET [libFuzzer's options]`: one target under atheris; without TARGET, their names.

An input that ends in an error which is not ours is written to crash-* here, and the run stops.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Mutate the seeds of a target until time is up (-max_total_time=SECONDS) or something falls out."""
    if len(sys.argv) < 2:
        from tests.fuzz.targets import TARGETS

        print("\n".join(TARGETS))
        return
    import atheris

    with atheris.instrument_imports(include=["hubpub", "yaml", "tomllib", "zipfile"]):
        from tests.fuzz.targets import TARGETS, attempt

    target = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory(prefix="hubpub-corpus-") as corpus:
        for number, seed in enumerate(target.seeds()):
            Path(corpus, f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:], corpus], lambda data: attempt(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
