"""The Hub: everything hubpub asks of one. The only package that imports huggingface_hub."""

from __future__ import annotations

from hubpub.remote.hub.client import Account, Hub, Progress

__all__ = ["Account", "Hub", "Progress"]
