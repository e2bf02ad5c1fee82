"""Names of operations in `metadata.json`, with the operation set to which Apple assigns an operation.

A histogram key is the operation in camel case, prefixed with the operation set that
last redefined it, if that is newer than iOS 15: `SliceByIndex`, but `Ios16.conv`, in a
program of iOS 16. Apps read these keys (Mochi Diffusion treats a UNet with `Ios16.einsum`
as split attention). coremltools' registry does not predict them. The table below comes from
`metadata.json` files and from dumps of MLComputePlan, which names operations the same way
(`ios18.reduce_mean`).
"""

from __future__ import annotations

from collections.abc import Mapping

_NUMBERS = {"ios15": 15, "ios16": 16, "ios17": 17, "ios18": 18}

# operation → the operation set in its key, in a program of iOS 16, 17 and 18;
# 15: no prefix; 0: not seen in Apple's output.
_SEEN: Mapping[str, tuple[int, int, int]] = {
    "abs": (0, 17, 0),
    "add": (16, 17, 18),
    "atan": (0, 17, 0),
    "avg_pool": (0, 16, 0),
    "batch_norm": (16, 17, 18),
    "cast": (16, 17, 18),
    "clip": (16, 0, 0),
    "concat": (15, 17, 18),
    "constexpr_affine_dequantize": (16, 16, 0),
    "constexpr_blockwise_shift_scale": (0, 0, 18),
    "constexpr_lut_to_dense": (16, 16, 18),
    "constexpr_sparse_to_dense": (16, 16, 0),
    "conv": (16, 17, 18),
    "conv_transpose": (16, 0, 0),
    "cos": (16, 0, 0),
    "cumsum": (0, 16, 0),
    "einsum": (16, 0, 16),
    "equal": (0, 17, 18),
    "expand_dims": (15, 17, 18),
    "fill": (0, 0, 15),
    "fill_like": (0, 16, 0),
    "floor_div": (0, 17, 0),
    "gather": (16, 17, 18),
    "gather_along_axis": (16, 17, 0),
    "gelu": (16, 16, 18),
    "greater": (0, 17, 0),
    "greater_equal": (0, 17, 18),
    "instance_norm": (0, 17, 0),
    "layer_norm": (16, 17, 18),
    "leaky_relu": (16, 0, 0),
    "less": (0, 17, 0),
    "linear": (16, 17, 18),
    "logical_and": (0, 17, 0),
    "logical_not": (0, 17, 0),
    "lstm": (16, 17, 18),
    "matmul": (16, 17, 18),
    "max_pool": (16, 0, 0),
    "maximum": (0, 17, 0),
    "minimum": (0, 17, 0),
    "mul": (16, 17, 18),
    "pad": (15, 15, 15),
    "pow": (16, 17, 18),
    "range_1d": (0, 0, 15),
    "real_div": (16, 17, 18),
    "reduce_argmax": (0, 17, 0),
    "reduce_mean": (16, 0, 16),
    "reduce_sum": (16, 0, 0),
    "relu": (16, 16, 18),
    "reshape": (16, 17, 18),
    "rsqrt": (16, 0, 18),
    "scaled_dot_product_attention": (0, 0, 18),
    "select": (0, 15, 15),
    "shape": (0, 0, 15),
    "sigmoid": (16, 16, 18),
    "silu": (16, 16, 18),
    "sin": (16, 17, 18),
    "slice_by_index": (15, 17, 18),
    "softmax": (16, 16, 18),
    "split": (15, 15, 15),
    "sqrt": (16, 17, 0),
    "square": (16, 17, 0),
    "squeeze": (15, 17, 18),
    "stack": (0, 15, 0),
    "sub": (16, 17, 18),
    "tanh": (0, 17, 18),
    "tile": (15, 15, 15),
    "topk": (16, 17, 18),
    "transpose": (15, 17, 18),
    "upsample_bilinear": (16, 16, 16),
    "upsample_nearest_neighbor": (15, 15, 0),
}


def histogram_key(operation: str, opset: str) -> tuple[str, bool]:
    """The key of an operation type in a function of operation set `opset` (ios15 … ios18), and whether it is known.

    >>> histogram_key("slice_by_index", "ios16"), histogram_key("einsum", "ios17")
    (('SliceByIndex', True), ('Ios16.einsum', True))
    """
    number = _NUMBERS[opset]
    if number == 15:
        return _camel(operation, upper=True), True
    version, known = _version(_SEEN.get(operation, (0, 0, 0)), number)
    if version == 15:
        return _camel(operation, upper=True), known
    return f"Ios{version}.{_camel(operation, upper=False)}", known


def histogram(operations: Mapping[str, int], opset: str) -> dict[str, int]:
    """Counts by key, sorted by key, from counts by operation type."""
    return dict(sorted((histogram_key(kind, opset)[0], count) for kind, count in operations.items()))


def guessed(operations: Mapping[str, int], opset: str) -> list[str]:
    """The keys of those operations that were never seen in Apple's output."""
    return sorted(key for key, seen in (histogram_key(kind, opset) for kind in operations) if not seen)


def _version(row: tuple[int, int, int], number: int) -> tuple[int, bool]:
    """The newest set up to `number` that redefined an operation, and whether it was seen in Apple's output."""
    if row[number - 16]:
        return row[number - 16], True
    later = [version for version in row[number - 15 :] if version]
    if later and later[0] < number:
        return later[0], True  # a later set uses the older definition, so no set in between redefined it
    if number == 18 and row[1] == 15:
        return 15, False  # no operation is known that iOS 18 redefined but iOS 17 did not
    return number, False


def _camel(operation: str, *, upper: bool) -> str:
    first, *rest = operation.split("_")
    return (first.capitalize() if upper else first) + "".join(part.capitalize() for part in rest)
