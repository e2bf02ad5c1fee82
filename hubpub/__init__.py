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
    from hubpub.verbs.convert import convert
    from hubpub.verbs.fetch import fetch
    from hubpub.verbs.publish import publish
    from hubpub.verbs.verify import verify

__version__ = "0.1.0"

# public name → (module, name in it; "" for the module itself)
_PUBLIC = {
    "compile_package": ("hubpub.coreml.compiler", "compile_package"),
    "convert": ("hubpub.verbs.convert", "convert"),
    "fetch": ("hubpub.verbs.fetch", "fetch"),
    "palettize": ("hubpub.palettize", ""),
    "publish": ("hubpub.verbs.publish", "publish"),
    "runtime": ("hubpub.runtime", ""),
    "verify": ("hubpub.verbs.verify", "verify"),
}

__all__ = ["__version__", "compile_package", "convert", "fetch", "palettize", "publish", "runtime", "verify"]


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
