"""hubpub: Stable Diffusion to the Hugging Face Hub as Core ML, from any machine.

The public names are bound on first use, so that `import hubpub` loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import hubpub.palettize as palettize
    import hubpub.runtime as runtime
    from hubpub.coreml.compiler import compile_package
    from hubpub.verbs.audit import audit
    from hubpub.verbs.card import card
    from hubpub.verbs.convert import convert
    from hubpub.verbs.fetch import fetch, variants
    from hubpub.verbs.generate import generate
    from hubpub.verbs.publish import publish
    from hubpub.verbs.report import report
    from hubpub.verbs.restore import restore
    from hubpub.verbs.verify import verify

__version__ = "0.1.0"

# public name → (module, name in it; "" for the module itself)
_PUBLIC = {
    "audit": ("hubpub.verbs.audit", "audit"),
    "card": ("hubpub.verbs.card", "card"),
    "compile_package": ("hubpub.coreml.compiler", "compile_package"),
    "convert": ("hubpub.verbs.convert", "convert"),
    "fetch": ("hubpub.verbs.fetch", "fetch"),
    "generate": ("hubpub.verbs.generate", "generate"),
    "palettize": ("hubpub.palettize", ""),
    "publish": ("hubpub.verbs.publish", "publish"),
    "report": ("hubpub.verbs.report", "report"),
    "restore": ("hubpub.verbs.restore", "restore"),
    "runtime": ("hubpub.runtime", ""),
    "variants": ("hubpub.verbs.fetch", "variants"),
    "verify": ("hubpub.verbs.verify", "verify"),
}

__all__ = [
    "__version__",
    "audit",
    "card",
    "compile_package",
    "convert",
    "fetch",
    "generate",
    "palettize",
    "publish",
    "report",
    "restore",
    "runtime",
    "variants",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hubpub' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value: Any = import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
