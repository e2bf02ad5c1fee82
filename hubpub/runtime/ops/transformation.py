"""Ops that rearrange elements: reshape, transpose, blocks and windows.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). All take floats, integers and bools; iOS 17 adds 8-bit
and 16-bit integers to most. They move elements and compute nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Bools, Ints, Table, Tensor, Tensors, keep


def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    """Axes of size 1 inserted; axes count in the result. iOS 15, 17.

    Reference: iOS15.tensor_transformation.expand_dims
    """
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Axes of size 1 removed (default: all of them); other sizes stay. iOS 15, 17.

    Reference: iOS15.tensor_transformation.squeeze
    """
    return x.squeeze() if axes is None else x.squeeze(axes)


def reshape(x: Tensor, shape: Ints, opset: int) -> Tensor:
    """The same elements in another shape; one size may be -1 (computed from the rest).

    A size of 0 copies a size of x: up to iOS 16 that of the same axis (both ranks must be
    equal); since iOS 17 counted from the last axis, or 1 if x has no such axis.
    Reference: iOS15.tensor_transformation.reshape, iOS17.tensor_transformation.reshape
    """
    if 0 in shape and x.numel() > 0:
        offset = len(shape) - x.ndim
        if opset < 17 and offset:
            raise ValueError(f"reshape to {shape} copies sizes of {tuple(x.shape)}, which has a different rank")
        shape = tuple(size if size else (x.shape[i - offset] if i >= offset else 1) for i, size in enumerate(shape))
    return x.reshape(shape)


def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Ints, ends: Ints, end_masks: Bools) -> Tensor:
    """Reshaped to the joined slices [begin:end] (or [begin:] where masked) of the references' shapes. iOS 16, 17.

    Reference: iOS16.tensor_transformation.reshape_like
    """
    shape: list[int] = []
    for reference, begin, end, masked in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += reference.shape[begin:] if masked else reference.shape[begin:end]
    return x.reshape(shape)


def transpose(x: Tensor, perm: Ints) -> Tensor:
    """Axes permuted. iOS 15, 17. Reference: iOS15.tensor_transformation.transpose"""
    return x.permute(perm)


def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Two axes: those before `axis`, and the rest. iOS 15. Reference: iOS15.tensor_operation.flatten2d"""
    if axis < 0:
        axis += x.ndim
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Elements in reverse order along axes (default: all). iOS 15, 17.

    Reference: iOS15.tensor_transformation.reverse
    """
    return x.flip(tuple(range(x.ndim)) if axes is None else axes)


def reverse_sequence(x: Tensor, lengths: Ints, seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Per entry i of batch_axis, the first lengths[i] elements of seq_axis reversed. iOS 15, 17.

    Reference: iOS15.tensor_transformation.reverse_sequence
    """
    result = x.clone()
    for i, length in enumerate(lengths):
        source = x.select(batch_axis, i)
        axis = seq_axis % x.ndim - (batch_axis % x.ndim < seq_axis % x.ndim)
        result.select(batch_axis, i).narrow(axis, 0, length).copy_(source.narrow(axis, 0, length).flip(axis))
    return result


def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """[n, b²·C, H, W] → [n, C, H·b, W·b]; block positions are the outer part of the channels. iOS 15.

    Reference: iOS15.tensor_transformation.depth_to_space
    """
    n, channels, height, width = x.shape
    b = block_size
    blocks = x.reshape(n, b, b, channels // (b * b), height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, channels // (b * b), height * b, width * b)


def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """[n, C, H·b, W·b] → [n, b²·C, H, W]; the inverse of depth_to_space. iOS 15.

    Reference: iOS15.tensor_transformation.space_to_depth
    """
    n, channels, height, width = x.shape
    b = block_size
    blocks = x.reshape(n, channels, height // b, b, width // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, channels * b * b, height // b, width // b)


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """[n, C·f², H, W] → [n, C, H·f, W·f]; positions are the inner part of the channels, as in PyTorch. iOS 15.

    Reference: iOS15.tensor_transformation.pixel_shuffle
    """
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """[n, C, H·f, W·f] → [n, C·f², H, W]; the inverse of pixel_shuffle. iOS 16.

    Reference: iOS16.tensor_transformation.pixel_unshuffle
    """
    return F.pixel_unshuffle(x, downscale_factor)


def space_to_batch(x: Tensor, block_shape: Ints, paddings: Ints) -> Tensor:
    """Spatial blocks become batch entries: [n, C, H, W] → [n·b0·b1, C, …].

    `paddings` [[top, bottom], [left, right]]: zeros added first.
    iOS 15. Reference: iOS15.tensor_transformation.space_to_batch
    """
    (b0, b1), (top, bottom, left, right) = block_shape, paddings
    x = F.pad(x, (left, right, top, bottom))
    n, channels, height, width = x.shape
    blocks = x.reshape(n, channels, height // b0, b0, width // b1, b1)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(n * b0 * b1, channels, height // b0, width // b1)


def batch_to_space(x: Tensor, block_shape: Ints, crops: Ints) -> Tensor:
    """The inverse of space_to_batch: batch entries become spatial blocks.

    `crops` [[top, bottom], [left, right]]: elements removed from the result.
    iOS 15. Reference: iOS15.tensor_transformation.batch_to_space
    """
    (b0, b1), (top, bottom, left, right) = block_shape, crops
    batch, channels, height, width = x.shape
    n = batch // (b0 * b1)
    blocks = x.reshape(b0, b1, n, channels, height, width).permute(2, 3, 4, 0, 5, 1)
    whole = blocks.reshape(n, channels, height * b0, width * b1)
    return whole[:, :, top : height * b0 - bottom, left : width * b1 - right]


def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """All windows of `size` along axis; a new axis after it holds their elements. iOS 15, 17.

    Reference: iOS15.tensor_transformation.sliding_windows
    """
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)


def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    """Joined along an axis; interleaved (equal shapes only): one slice of each in turn. Scalars give a vector. iOS 15.

    Reference: iOS15.tensor_operation.concat
    """
    if values[0].ndim == 0:
        return torch.stack(values)
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].ndim
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> Tensors:
    """Cut along an axis into num_splits equal parts, or into parts of split_sizes. iOS 15.

    Reference: iOS15.tensor_operation.split
    """
    if split_sizes is not None:
        return tuple(torch.split(x, split_sizes, axis))
    if num_splits is None:
        raise ValueError("split needs num_splits or split_sizes")
    return tuple(torch.split(x, x.shape[axis] // num_splits, axis))


def stack(values: Tensors, axis: int) -> Tensor:
    """Joined along a new axis. iOS 15. Reference: iOS15.tensor_operation.stack"""
    return torch.stack(values, axis)


OPS: Table = {
    "batch_to_space": keep(batch_to_space),
    "concat": keep(concat),
    "depth_to_space": keep(depth_to_space),
    "expand_dims": keep(expand_dims),
    "flatten2d": keep(flatten2d),
    "pixel_shuffle": keep(pixel_shuffle),
    "pixel_unshuffle": keep(pixel_unshuffle, since=16),
    "reshape": keep(reshape),
    "reshape_like": keep(reshape_like, since=16),
    "reverse": keep(reverse),
    "reverse_sequence": keep(reverse_sequence),
    "sliding_windows": keep(sliding_windows),
    "space_to_batch": keep(space_to_batch),
    "space_to_depth": keep(space_to_depth),
    "split": keep(split),
    "squeeze": keep(squeeze),
    "stack": keep(stack),
    "transpose": keep(transpose),
}
