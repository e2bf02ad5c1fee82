"""Image ops: resize, upsample, crop and resize, resample, affine.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). All interpolate between grid points along the last
axes; `sampling_mode` says where the points lie (see `grid`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Ints, Table, Tensor, keep, wide

SAMPLING_MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def grid(size: float, count: int, mode: str) -> Tensor:
    """`count` points over `size` pixels whose centres are 0 … size - 1, fp64, not yet clamped.

    STRICT_ALIGN_CORNERS spaces them by (size-1)/(count-1); ALIGN_CORNERS too, but a single
    point lies in the middle; DEFAULT by size/count from 0; OFFSET_CORNERS by
    max(1, size-1)/count from half of that; UNALIGN_CORNERS by size/count, pixel areas aligned.
    A negative size runs backwards (a crop whose corners are swapped).
    """
    steps = torch.arange(count, dtype=torch.float64)
    last = size - 1 if size > 0 else size + 1
    match mode:
        case "STRICT_ALIGN_CORNERS" | "ALIGN_CORNERS":
            if count == 1:
                return torch.tensor([last / 2 if mode == "ALIGN_CORNERS" else 0.0], dtype=torch.float64)
            return steps * (last / (count - 1))
        case "DEFAULT":
            return steps * (size / count)
        case "OFFSET_CORNERS":
            delta = max(1.0, last) / count if size > 0 else min(-1.0, last) / count
            return (steps + 0.5) * delta
        case "UNALIGN_CORNERS":
            return (steps + 0.5) * (size / count) - (0.5 if size > 0 else -0.5)
    raise ValueError(f"there is no sampling_mode {mode!r}")


def _interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """x at the points along one axis, linearly between pixels, clamped to the first and last one."""
    points = points.clamp(0, x.shape[axis] - 1)
    below = points.floor().to(torch.int64)
    above = (below + 1).clamp(max=x.shape[axis] - 1)
    share = (points - below).to(x.dtype).to(x.device)
    shape = [1] * x.ndim
    shape[axis] = -1
    low, high = (x.index_select(axis, places.to(x.device)) for places in (below, above))
    return low + (high - low) * share.reshape(shape)


def _nearest(x: Tensor, axis: int, points: Tensor) -> Tensor:
    places = points.to(torch.int64).clamp(0, x.shape[axis] - 1)
    return x.index_select(axis, places.to(x.device))


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0) -> Tensor:
    """The last two axes times a factor, ⌊size·factor⌋, each place taking the pixel at ⌊place·size/new size⌋. iOS 15.

    Reference: iOS15.image_resizing.upsample_nearest_neighbor
    """
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        if factor == int(factor):
            x = x.repeat_interleave(int(factor), axis) if factor > 1 else x
        else:
            x = _nearest(x, axis, grid(size, _scaled(size, factor), "DEFAULT").floor())
    return x


def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """The last two axes to a size, each place taking the pixel at ⌊place·size/new size⌋. iOS 15.

    Reference: iOS15.image_resizing.resize_nearest_neighbor
    """
    for axis, target in ((-2, target_size_height), (-1, target_size_width)):
        x = _nearest(x, axis, grid(x.shape[axis], target, "DEFAULT").floor())
    return x


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """The last two axes times a factor, ⌊size·factor⌋, linearly; the factor is recomputed from the sizes.

    align_corners: first and last pixels meet; else pixel areas align (half_pixel_centers, iOS 16, default:
    not align_corners) or pixel corners do. iOS 15, 16. Reference: iOS16.image_resizing.upsample_bilinear
    """
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        x = _interpolated(x, axis, grid(size, _scaled(size, factor), mode))
    return x


def _scaled(size: int, factor: float) -> int:
    # a factor stored in fp16 or fp32 may lie a hair below the fraction that was meant
    return int(size * factor + 1e-4)


def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """The last two axes to a size, linearly. iOS 15. Reference: iOS15.image_resizing.resize_bilinear"""
    for axis, target in ((-2, target_size_height), (-1, target_size_width)):
        x = _interpolated(x, axis, grid(x.shape[axis], target, sampling_mode))
    return x


def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes to the last sizes of `shape` (0 keeps one), LINEAR or NEAREST_NEIGHBOR.

    The nearest pixel is the one that the point rounds to, halves up. iOS 17. Reference: iOS17.image_resizing.resize
    """
    for axis in range(-resized_dims, 0):
        points = grid(x.shape[axis], shape[axis] or x.shape[axis], sampling_mode)
        if interpolation_mode == "LINEAR":
            wanted = _interpolated(x if x.is_floating_point() else x.double(), axis, points)
            x = wanted.to(x.dtype)
        elif interpolation_mode == "NEAREST_NEIGHBOR":
            x = _nearest(x, axis, (points + 0.5).floor())
        else:
            raise ValueError(f"there is no interpolation_mode {interpolation_mode!r}")
    return x


def crop_resize(
    x: Tensor,
    opset: int,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: Ints | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Boxes of x [B, C, H, W], each resized linearly to target_height × target_width.

    iOS 15: roi [N, 1, 4 or 5, 1, 1] → [N, B or 1, C, h, w], the fifth number (first) being the image; 16 adds
    pad_value for points outside the image (before, they are clamped); 17: boxes [N, 4] and box_indices [N]
    → [N, C, h, w]. Reference: iOS17.image_resizing.crop_resize
    """
    height, width = x.shape[-2:]
    crops = []
    if roi is not None:
        rows = roi.reshape(roi.shape[0], -1).tolist()
        images = [[int(row[0])] if len(row) == 5 else list(range(x.shape[0])) for row in rows]
        rows = [row[-4:] for row in rows]
    elif boxes is not None:
        rows = boxes.to(torch.float64).tolist()
        images = [[i] for i in (box_indices if box_indices is not None else range(len(rows)))]
    else:
        raise ValueError("crop_resize needs roi or boxes")
    for row, chosen in zip(rows, images, strict=True):
        corners = [value * spatial_scale for value in _corners(row, box_coordinate_mode)]
        if normalized_coordinates:
            corners = [value * (size - 1) for value, size in zip(corners, (height, width, height, width), strict=True)]
        points = [
            _crop_points(corners[i], corners[i + 2], count, sampling_mode)
            for i, count in ((0, target_height), (1, target_width))
        ]
        crop = x[torch.tensor(chosen, device=x.device)]
        for axis, place in zip((-2, -1), points, strict=True):
            crop = _interpolated(crop, axis, place)
        if opset >= 16:
            crop = _outside_padded(crop, points, (height, width), pad_value)
        crops.append(crop if roi is not None else crop[0])
    return torch.stack(crops)


def _corners(row: list[float], mode: str) -> list[float]:
    """The box as [top, left, bottom, right]."""
    match mode:
        case "CORNERS_HEIGHT_FIRST":
            return row
        case "CORNERS_WIDTH_FIRST":
            return [row[1], row[0], row[3], row[2]]
        case "CENTER_SIZE_HEIGHT_FIRST":
            y, x, h, w = row
        case "CENTER_SIZE_WIDTH_FIRST":
            x, y, w, h = row
        case _:
            raise ValueError(f"there is no box_coordinate_mode {mode!r}")
    return [y - h / 2, x - w / 2, y + h / 2, x + w / 2]


def _crop_points(first: float, last: float, count: int, mode: str) -> Tensor:
    size = last - first + 1 if last >= first else last - first - 1
    points = grid(size, count, mode)
    low, high = sorted((0.0, last - first))
    return first + points.clamp(low, high)


def _outside_padded(crop: Tensor, points: list[Tensor], sizes: tuple[int, int], value: float) -> Tensor:
    inside = [(place >= 0) & (place <= size - 1) for place, size in zip(points, sizes, strict=True)]
    mask = (inside[0][:, None] & inside[1][None, :]).to(crop.device)
    return torch.where(mask, crop, torch.full((), value, dtype=crop.dtype, device=crop.device))


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
    if sampling_mode == "nearest":  # reflected first, rounded then, halves to the even pixel, as PyTorch does
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
    """A function from whole rows and columns [B, h, w] to the pixels there, padding applied."""
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
    """Places brought back between the edges by the two padding modes that reflect."""
    if mode == "reflection":
        period = max(1, 2 * (size - 1))
        inner = torch.remainder(places, period)
        return torch.where(inner > size - 1, period - inner, inner)
    if mode == "symmetric":
        inner = torch.remainder(places + 0.5, 2 * size)
        return (torch.where(inner > size, 2 * size - inner, inner) - 0.5).clamp(0, size - 1)
    return places


def _folded(places: Tensor, size: int, mode: str) -> Tensor:
    """Whole places brought inside 0 … size - 1 by a padding mode."""
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
    """x sampled at (a0·x + a1·y + a2, b0·x + b1·y + b2) for each output place; matrix [B or 1, 6]; iOS 15.

    Only bilinear, constant zero padding, -1 … 1 coordinates and aligned corners exist, as Core ML documents.
    Reference: iOS15.image_resizing.affine
    """
    matrix = transform_matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    size = [x.shape[0], x.shape[1], output_height, output_width]
    places = F.affine_grid(matrix, size, align_corners=True)
    return resample(x, places, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


OPS: Table = {
    "affine": wide(affine),
    "crop_resize": wide(crop_resize),
    "resample": wide(resample),
    "resize": wide(resize, since=17),
    "resize_bilinear": wide(resize_bilinear),
    "resize_nearest_neighbor": keep(resize_nearest_neighbor),
    "upsample_bilinear": wide(upsample_bilinear),
    "upsample_nearest_neighbor": keep(upsample_nearest_neighbor),
}
