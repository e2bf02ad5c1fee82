"""tokenizer: the two files that apps read prompts with, from whatever a source has of CLIP's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from hubpub.checkpoints.tokenizer import CLIP_TOKENS, clip_tokenizer, read_tokenizer
from hubpub.errors import BadTokenizer
from hubpub.steps.step import Step

VOCABULARY: Final = "vocab.json"
MERGES: Final = "merges.txt"


@dataclass(frozen=True, kw_only=True)
class Tokenizer(Step):
    """Write `out/vocab.json` and `out/merges.txt`.

    inputs: `source` (the tokenizer's folder), or none where the source is a single file, which
    has CLIP's own. Raises BadTokenizer for a file that is damaged, or does not fit the text encoder.
    """

    VERSION: ClassVar[int] = 1

    rows: int  # of the text encoder's embedding
    folder: str  # in the source, for messages
    files: Sequence[str]  # names in that folder

    @property
    def label(self) -> str:
        return "tokenizer"

    def run(self, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
        if inputs:
            files = {name: (inputs["source"] / name).read_bytes() for name in self.files}
            made = read_tokenizer(files, rows=self.rows, folder=self.folder)
        else:
            made = clip_tokenizer()
            check_rows(self.rows)
        (out / VOCABULARY).write_bytes(made.vocab)
        (out / MERGES).write_bytes(made.merges)
        return {"added": list(made.added), "unreachable": list(made.unreachable)}


def check_rows(rows: int) -> None:
    """Raise BadTokenizer where a single file's text encoder was not trained with CLIP's vocabulary."""
    if rows < CLIP_TOKENS:
        raise BadTokenizer(
            f"The text encoder knows {rows:,} tokens, and CLIP's tokenizer, which a single file leaves to the reader, "
            f"has {CLIP_TOKENS:,}.",
            hint="Use the model's diffusers folder, which has its own tokenizer.",
        )
