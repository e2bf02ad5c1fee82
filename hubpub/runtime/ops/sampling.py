"""Image ops at given coordinates: resample and affine.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Table, Tensor, wide


def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x [B, C, H, W] at coordinates [B, h, w, 2] in order (x, y) → [B, C, h, w].

    sampling_mode bilinear or nearest; padding_mode constant, border, reflection (edge not repeated), symmetric
    (edge repeated); coordinates_mode unnormalized, normalized_minus_one_to_one, normalized_zero_to_one.
    iOS 15; 16 adds fp16 coordinates, 17 8-bit and 16-bit integers. Reference: iOS15.image_resizing.resample
    """
    places = coordinates.to(torch.float32)
    height, width = x.shape[-2:]
    across = _pixels(places[..., 0], width, coordinates_mode, align_corners=align_corners)
    down = _pixels(places[..., 1], height, coordinates_mode, align_corners=align_corners)
    read = _reader(x, padding_mode, padding_value)
    if sampling_mode == "nearest":  # as PyTorch: reflect, then round, halves to the even pixel
        return read(_reflected(down, height, padding_mode).round(), _reflected(across, width, padding_mode).round())
    if sampling_mode != "bilinear":
        raise ValueError(f"there is no sampling_mode {sampling_mode!r}")
    top, left = down.floor(), across.floor()
    lower, right = (down - top)[:, None], (across - left)[:, None]
    upper_row = read(top, left) * (1 - right) + read(top, left + 1) * right
    lower_row = read(top + 1, left) * (1 - right) + read(top + 1, left + 1) * right
    return upper_row * (1 - lower) + lower_row * lower


def _pixels(places: Tensor, size: int, mode: str, *, align_corners: bool) -> Tensor:
    match mode:
        case "unnormalized":
            return places
        case "normalized_minus_one_to_one":
            unit = (places + 1) / 2
        case "normalized_zero_to_one":
            unit = places
        case _:
            raise ValueError(f"there is no coordinates_mode {mode!r}")
    return unit * (size - 1) if align_corners else unit * size - 0.5


def _reader(x: Tensor, mode: str, value: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that reads pixels: integer rows and columns [B, h, w] → [B, C, h, w], with padding."""
    height, width = x.shape[-2:]
    batch = torch.arange(x.shape[0], device=x.device)[:, None, None]

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        pixels = x[batch, :, _folded(rows, height, mode), _folded(columns, width, mode)].movedim(-1, 1)
        if mode != "constant":
            return pixels
        return torch.where(inside[:, None], pixels, torch.full((), value, dtype=x.dtype, device=x.device))

    return read


def _reflected(places: Tensor, size: int, mode: str) -> Tensor:
    """Coordinates mirrored into the image by the padding modes reflection and symmetric; else unchanged."""
    if mode == "reflection":
        period = max(1, 2 * (size - 1))
        inner = torch.remainder(places, period)
        return torch.where(inner > size - 1, period - inner, inner)
    if mode == "symmetric":
        inner = torch.remainder(places + 0.5, 2 * size)
        return (torch.where(inner > size, 2 * size - inner, inner) - 0.5).clamp(0, size - 1)
    return places


def _folded(places: Tensor, size: int, mode: str) -> Tensor:
    """Integer coordinates mapped into 0 … size - 1 by a padding mode."""
    whole = places.to(torch.int64)
    match mode:
        case "constant" | "border":
            return whole.clamp(0, size - 1)
        case "reflection":
            period = max(1, 2 * (size - 1))
            inner = torch.remainder(whole, period)
            return torch.where(inner >= size, period - inner, inner)
        case "symmetric":
            inner = torch.remainder(whole, 2 * size)
            return torch.where(inner >= size, 2 * size - 1 - inner, inner)
    raise ValueError(f"there is no padding_mode {mode!r}")


def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """x sampled at (a0·x + a1·y + a2, b0·x + b1·y + b2) for each output position; matrix [B or 1, 6]; iOS 15.

    Core ML supports only bilinear sampling, constant zero padding, -1 … 1 coordinates and aligned corners.
    Reference: iOS15.image_resizing.affine
    """
    matrix = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    size = [x.shape[0], x.shape[1], output_height, output_width]
    places = F.affine_grid(matrix, size, align_corners=True)
    return resample(x, places, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


OPS: Table = {
    "affine": wide(affine),
    "resample": wide(resample),
}
