"""weights.json: where each tensor of a component lies in its weight file, and how it is stored there.

    {"format": 1, "bits": 6, "sha256": "…",
     "tensors": {"conv_in.weight": {"shape": [320, 4, 3, 3], "bits": 6,
                                    "indices": 64, "indices_bytes": 8640, "lut": 8832},
                 "conv_in.bias":   {"shape": [320], "offset": 9088},
                 "l2_normalize(concept_embeds)": {…}},
     "literals": {"fp16 <sha256>": 12345}}

Offsets are those of records (weight_file.py). A palette of 1 or 2 bits, and a tensor of
fewer than 10 elements, have their values here and stay in the program. Every attention,
size and target of a component is a program over the same file, because a program asks
this index for the places of its constants.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.coreml.constants import Dense, Inline, Palette
from hubpub.errors import BadPackage

FILE = "weights.json"
WEIGHT_FILE = "weight.bin"
FORMAT = 1

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class WeightIndex:
    """The index of one weight file; answers a program's questions for its constants (coreml.constants.Constants)."""

    bits: int  # of palettized tensors; 16 where there are none
    sha256: str  # of all blobs and values, in order
    tensors: Mapping[str, Mapping[str, Any]]
    literals: Mapping[str, int]

    @classmethod
    def load(cls, folder: Path) -> WeightIndex:
        """Read `folder/weights.json`; raises BadPackage when it is not one."""
        try:
            data = json.loads((folder / FILE).read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**data)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadPackage(f"{folder / FILE} is not an index of weights: {error}.") from error

    def save(self, folder: Path) -> None:
        """Write `folder/weights.json`; the same index gives the same bytes."""
        data = {
            "format": FORMAT,
            "bits": self.bits,
            "sha256": self.sha256,
            "tensors": self.tensors,
            "literals": self.literals,
        }
        (folder / FILE).write_text(json.dumps(data, indent=0) + "\n", encoding="utf-8")

    def weight(self, tensor: str, transform: str, shape: tuple[int, ...], dtype: str) -> Dense | Palette | Inline:
        """Where a program finds a tensor; BadPackage for one that the file does not hold."""
        name = tensor_key(tensor, transform)
        entry = self.tensors.get(name)
        if entry is None:
            raise BadPackage(f"The weight file holds no {name}.", hint="Run `hubpub cache verify`.")
        if "values" in entry:
            return Inline(values=np.array(entry["values"], np.float16).reshape(shape))
        if "bits" not in entry:
            return Dense(offset=entry["offset"])
        lut = entry["lut"]
        return Palette(
            bits=entry["bits"],
            indices=entry["indices"],
            indices_bytes=entry["indices_bytes"],
            lut=np.array(lut, np.float16) if isinstance(lut, list) else lut,
        )

    def literal(self, values: Array, dtype: str) -> Dense | Inline:
        """Where a program finds an array of its own; one that the file does not hold stays in the program."""
        offset = self.literals.get(literal_key(values, dtype))
        return Inline(values=values) if offset is None else Dense(offset=offset)


def tensor_key(tensor: str, transform: str) -> str:
    """A tensor's name in the index."""
    return f"{transform}({tensor})" if transform else tensor


def literal_key(values: Array, dtype: str) -> str:
    """A literal's name in the index: its dtype and the digest of its bytes, whatever its shape."""
    return f"{dtype} {hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()}"
