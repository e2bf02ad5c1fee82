"""Runs ML Programs on torch: `load(package).predict(inputs)`, on any machine.

    model = hubpub.runtime.load("Unet.mlpackage", device="cpu", precision="fp16")
    model.inputs, model.outputs          # name → Feature: shape, dtype, as Core ML declares them
    model.predict({"sample": array, ...})  # {"noise_pred": array}

torch is imported by the first `load`, not by this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubpub.runtime.features import Feature as Feature
    from hubpub.runtime.measure import psnr as psnr
    from hubpub.runtime.model import Model as Model
    from hubpub.runtime.model import State as State
    from hubpub.runtime.model import load as load

__all__ = ["Feature", "Model", "State", "load", "psnr"]

_HOMES = {
    "Feature": "features",
    "Model": "model",
    "State": "model",
    "load": "model",
    "psnr": "measure",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
