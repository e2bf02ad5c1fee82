"""The digits that the demo's model is trained on and judged by: pictures, captions, and what is read off a picture.

The data are the 1,797 handwritten digits of 8×8 cells that scikit-learn bundles, the test set of "Optical Recognition
of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, doi:10.24432/C50P49).
Every random choice is drawn from a generator that the caller seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

IMAGE_SIZE = 128
# The 8×8 cells cover this many pixels; the rest is margin, so that a turned digit stays on the paper.
DIGIT_SIZE = 104
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# {a} is "a" or "an", {n} the number as a word or as a figure.
TEMPLATES = (
    "a handwritten {n}",
    "handwritten {n}",
    "the digit {n}",
    "the handwritten digit {n}",
    "the number {n}",
    "{a} {n}",
    "{n}",
    "{a} {n} in black ink",
    "a handwritten {n} on white paper",
    "a drawing of {a} {n}",
    "a picture of the digit {n}",
)
SPLIT_SEED = 0

Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Cells (n, 8, 8) float32 in [0, 1] with 1 for ink, and their labels (n,) 0 to 9; the two halves share no digit."""

    train_cells: npt.NDArray[np.float32]
    train_labels: Labels
    test_cells: npt.NDArray[np.float32]
    test_labels: Labels


def load() -> Digits:
    """1,437 digits to train on and 360 held out, each class in its share."""
    bundled = load_digits()
    cells = (bundled.images / 16.0).astype(np.float32)
    train_cells, test_cells, train_labels, test_labels = train_test_split(
        cells, bundled.target.astype(np.int64), test_size=360, stratify=bundled.target, random_state=SPLIT_SEED
    )
    return Digits(train_cells=train_cells, train_labels=train_labels, test_cells=test_cells, test_labels=test_labels)


def render(cells: npt.NDArray[np.float32], rng: np.random.Generator | None = None) -> Pictures:
    """Grey pictures (n, 128, 128), white paper and dark ink, of cells (n, 8, 8).

    The cells are interpolated by cubic splines and steepened, so that strokes have edges. With `rng`, each digit is
    turned by up to 8°, scaled by up to 7 % and moved by up to 4 pixels.
    """
    pictures = np.empty((len(cells), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    # Empty cells around the digit, so that a stroke which touches the edge ends round.
    for index, cell in enumerate(np.pad(cells, ((0, 0), (2, 2), (2, 2)))):
        angle, scale, shift = 0.0, 1.0, np.zeros(2)
        if rng is not None:
            angle = np.deg2rad(rng.uniform(-8, 8))
            scale = rng.uniform(0.93, 1.07)
            shift = rng.uniform(-4, 4, size=2)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix *= 8 / (DIGIT_SIZE * scale)
        offset = 5.5 - matrix @ ((IMAGE_SIZE - 1) / 2 + shift)
        soft = ndimage.affine_transform(cell, matrix, offset, (IMAGE_SIZE, IMAGE_SIZE), order=3, mode="constant")
        ramp = np.clip((soft - 0.3) / 0.6, 0, 1)
        pictures[index] = np.rint(255 - 235 * ramp * ramp * (3 - 2 * ramp))
    return pictures


def features(pictures: Pictures) -> Features:
    """Ink of grey (n, 128, 128) or RGB (n, 128, 128, 3) pictures, averaged over 16×16 squares: (n, 256) in [0, 1]."""
    grey = pictures.astype(np.float32) if pictures.ndim == 3 else pictures.astype(np.float32).mean(axis=-1)
    side = IMAGE_SIZE // 16
    return (1 - grey.reshape(-1, 16, side, 16, side).mean(axis=(2, 4)) / 255).reshape(-1, 256)


def caption(digit: int, template: str, *, figure: bool = False) -> str:
    """A caption of a digit, as a word or as a figure: "an eight in black ink", "the digit 8"."""
    return template.format(a="an" if digit == 8 else "a", n=digit if figure else NUMBERS[digit])


def captions(digit: int) -> tuple[str, ...]:
    """All captions of a digit."""
    return tuple(caption(digit, template, figure=figure) for template in TEMPLATES for figure in (False, True))
