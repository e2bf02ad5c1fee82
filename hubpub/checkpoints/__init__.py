"""Where weights are read: names → tensors, mapped, and never executed.

In: `.safetensors` and `.bin` files. Out: a Checkpoint, whose tensors are read as float16, a piece at a time.
"""

from __future__ import annotations

from hubpub.checkpoints.checkpoint import Checkpoint, open_checkpoint
from hubpub.checkpoints.names import Fit, fit, match_names
from hubpub.checkpoints.selection import choose
from hubpub.checkpoints.tensors import TensorInfo

__all__ = ["Checkpoint", "Fit", "TensorInfo", "choose", "fit", "match_names", "open_checkpoint"]
