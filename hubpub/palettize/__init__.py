"""Palettization: a float16 tensor → a look-up table of 2**bits values, and an index per element.

from hubpub.palettize import palettize
palette = palettize(weight, bits=6)   # Palette(lut, indices)
"""

from __future__ import annotations

from hubpub.palettize.palette import Palette, palettize

__all__ = ["Palette", "palettize"]
