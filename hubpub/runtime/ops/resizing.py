"""Image ops on regular grids: resize, upsample, crop and resize.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). All sample the last axes at grid points; `sampling_mode`
sets the positions of the points (see `grid`).
"""

from __future__ import annotations

import torch

from hubpub.runtime.ops.table import Ints, Table, Tensor, keep, wide


def grid(size: float, count: int, mode: str) -> Tensor:
    """Positions of `count` points over `size` pixels with centres 0 … size - 1: fp64 [count], not clamped.

    STRICT_ALIGN_CORNERS: spacing (size-1)/(count-1) from 0. ALIGN_CORNERS: the same, but a single
    point lies in the middle. DEFAULT: spacing size/count from 0. OFFSET_CORNERS: spacing
    max(1, size-1)/count from half of that. UNALIGN_CORNERS: spacing size/count, pixel areas
    aligned. A negative size runs backwards (a crop with swapped corners).
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
    """x at the points of one axis: linear between pixels, clamped to the first and last pixel."""
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
    """The last two axes scaled to ⌊size·factor⌋; place i gets the pixel at ⌊i·size/new size⌋. iOS 15.

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
    """The last two axes resized; place i gets the pixel at ⌊i·size/new size⌋. iOS 15.

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
    """The last two axes scaled to ⌊size·factor⌋, linearly; the factor is recomputed from the sizes.

    align_corners: the first and last pixels coincide; else pixel areas align (half_pixel_centers, iOS 16,
    default: not align_corners), or pixel corners. iOS 15, 16. Reference: iOS16.image_resizing.upsample_bilinear
    """
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    for axis, factor in ((-2, scale_factor_height), (-1, scale_factor_width)):
        size = x.shape[axis]
        x = _interpolated(x, axis, grid(size, _scaled(size, factor), mode))
    return x


def _scaled(size: int, factor: float) -> int:
    # rounding to fp16 or fp32 may have made the factor slightly smaller than the intended fraction
    return int(size * factor + 1e-4)


def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """The last two axes resized linearly. iOS 15. Reference: iOS15.image_resizing.resize_bilinear"""
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
    """The last `resized_dims` axes resized to the last sizes of `shape` (0: unchanged), LINEAR or NEAREST_NEIGHBOR.

    The nearest pixel is the rounded point, halves up. iOS 17. Reference: iOS17.image_resizing.resize
    """
    for axis in range(-resized_dims, 0):
        points = grid(x.shape[axis], shape[axis] or x.shape[axis], sampling_mode)
        if interpolation_mode == "LINEAR":
            resized = _interpolated(x if x.is_floating_point() else x.double(), axis, points)
            x = resized.to(x.dtype)
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

    iOS 15: roi [N, 1, 4 or 5, 1, 1] → [N, B or 1, C, h, w], of five numbers the first is the image; 16 adds
    pad_value for points outside the image (iOS 15 clamps them); 17: boxes [N, 4] and box_indices [N]
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
    for row, image in zip(rows, images, strict=True):
        corners = [value * spatial_scale for value in _corners(row, box_coordinate_mode)]
        if normalized_coordinates:
            corners = [value * (size - 1) for value, size in zip(corners, (height, width, height, width), strict=True)]
        points = [
            _crop_points(corners[i], corners[i + 2], count, sampling_mode)
            for i, count in ((0, target_height), (1, target_width))
        ]
        crop = x[torch.tensor(image, device=x.device)]
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


OPS: Table = {
    "crop_resize": wide(crop_resize),
    "resize": wide(resize, since=17),
    "resize_bilinear": wide(resize_bilinear),
    "resize_nearest_neighbor": keep(resize_nearest_neighbor),
    "upsample_bilinear": wide(upsample_bilinear),
    "upsample_nearest_neighbor": keep(upsample_nearest_neighbor),
}
