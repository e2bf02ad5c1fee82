"""Features: a model's declared inputs and outputs, and the checks of input values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hubpub.coreml import schema_pb2 as schema
from hubpub.errors import BadInput, ModelError

Array = npt.NDArray[Any]

# https://apple.github.io/coremltools/mlmodel/Format/FeatureTypes.html
_ARRAY_DTYPES: Mapping[int, np.dtype[Any]] = {
    schema.ArrayFeatureType.FLOAT32: np.dtype(np.float32),
    schema.ArrayFeatureType.DOUBLE: np.dtype(np.float64),
    schema.ArrayFeatureType.INT32: np.dtype(np.int32),
    schema.ArrayFeatureType.INT8: np.dtype(np.int8),
    schema.ArrayFeatureType.FLOAT16: np.dtype(np.float16),
}
_COLOURS = {
    schema.ImageFeatureType.GRAYSCALE: ("gray", 1),
    schema.ImageFeatureType.GRAYSCALE_FLOAT16: ("gray16", 1),
    schema.ImageFeatureType.RGB: ("rgb", 3),
    schema.ImageFeatureType.BGR: ("bgr", 3),
}


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One declared input, output or state.

    `shape` is the declared (for flexible shapes: the default) shape; an output whose shape
    depends on the data has (). `enumerated` and `ranges` hold the other shapes allowed, a
    range being (lowest, highest) per dimension with None for no upper bound. `kind` is
    "array", "image", "dictionary", "string", "int64", "double" or "state"; an image's shape
    is (1, channels, height, width) and `layout` its colour order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str = "array"
    optional: bool = False
    default: float = 0.0
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    layout: str = ""

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether the model declares this input shape."""
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= size and (high is None or size <= high)
                for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape == self.shape or shape in self.enumerated

    def shapes(self) -> str:
        """The allowed shapes as text for a message."""
        if self.ranges:
            sizes = [str(low) if low == high else f"{low}..{'' if high is None else high}" for low, high in self.ranges]
            return f"({', '.join(sizes)})"
        return " or ".join(str(shape) for shape in dict.fromkeys((self.shape, *self.enumerated)))


def feature(description: schema.FeatureDescription) -> Feature:
    """The Feature of a description in the model file; raises ModelError for a kind that ML Programs cannot have."""
    type_ = description.type
    match type_.WhichOneof("Type"):
        case "multiArrayType":
            return _array_feature(description.name, type_.multiArrayType, optional=type_.isOptional)
        case "imageType":
            return _image_feature(description.name, type_.imageType, optional=type_.isOptional)
        case "stateType":
            array = type_.stateType.arrayType
            dtype = _ARRAY_DTYPES.get(array.dataType, np.dtype(np.float16))
            return Feature(name=description.name, shape=tuple(array.shape), dtype=dtype, kind="state")
        case "stringType":
            return Feature(name=description.name, shape=(), dtype=np.dtype(object), kind="string")
        case "int64Type":
            return Feature(name=description.name, shape=(), dtype=np.dtype(np.int64), kind="int64")
        case "doubleType":
            return Feature(name=description.name, shape=(), dtype=np.dtype(np.float64), kind="double")
        case "dictionaryType":
            return Feature(name=description.name, shape=(), dtype=np.dtype(object), kind="dictionary")
        case other:
            raise ModelError(f"Feature {description.name!r} has a type ({other}) that an ML Program cannot have.")


def _array_feature(name: str, array: schema.ArrayFeatureType, *, optional: bool) -> Feature:
    which = array.WhichOneof("defaultOptionalValue")
    ranges = tuple(
        (size.lowerBound, None if size.upperBound < 0 else size.upperBound) for size in array.shapeRange.sizeRanges
    )
    return Feature(
        name=name,
        shape=tuple(array.shape),
        dtype=_ARRAY_DTYPES.get(array.dataType, np.dtype(np.float32)),
        optional=optional,
        default=float(getattr(array, which)) if which else 0.0,
        enumerated=tuple(tuple(shape.shape) for shape in array.enumeratedShapes.shapes),
        ranges=ranges,
    )


def _image_feature(name: str, image: schema.ImageFeatureType, *, optional: bool) -> Feature:
    layout, channels = _COLOURS.get(image.colorSpace, ("rgb", 3))
    flexible: tuple[tuple[int, int | None], ...] = ()
    if image.WhichOneof("SizeFlexibility") == "imageSizeRange":
        height, width = image.imageSizeRange.heightRange, image.imageSizeRange.widthRange
        flexible = ((1, 1), (channels, channels), *((r.lowerBound, _upper(r)) for r in (height, width)))
    return Feature(
        name=name,
        shape=(1, channels, image.height, image.width),
        dtype=np.dtype(np.float16 if layout == "gray16" else np.uint8),
        kind="image",
        optional=optional,
        enumerated=tuple((1, channels, size.height, size.width) for size in image.enumeratedSizes.sizes),
        ranges=flexible,
        layout=layout,
    )


def _upper(size: schema.SizeRange) -> int | None:
    return None if size.upperBound < 0 else size.upperBound


def checked_inputs(features: Iterable[Feature], values: Mapping[str, Any]) -> dict[str, Array]:
    """The values as arrays of the declared dtypes. Raises BadInput for what Core ML refuses too:

    a missing required input, an unknown name, an undeclared shape, elements that are not real
    numbers, or numbers that an integer dtype cannot hold. Any real dtype is converted to the
    declared one, as Core ML does (an integer input truncates fractions).
    """
    declared = {item.name: item for item in features}
    unknown = sorted(set(values) - set(declared))
    missing = sorted(name for name, item in declared.items() if name not in values and not item.optional)
    if unknown or missing:
        problems = [f"{', '.join(unknown)} is not an input of this model"] if unknown else []
        problems += [f"{', '.join(missing)} is missing"] if missing else []
        raise BadInput(f"{'; '.join(problems)}.", hint=f"The model's inputs are {', '.join(declared) or '(none)'}.")
    return {name: _checked(item, values[name]) if name in values else _default(item) for name, item in declared.items()}


def _default(item: Feature) -> Array:
    return np.full(item.shape, item.default, item.dtype)


def _checked(item: Feature, value: Any) -> Array:
    if item.kind == "image":
        array = _pixels(item, value)
    elif item.kind == "array":
        array = _numbers(item, value)
    else:
        raise BadInput(f"Input {item.name} is a {item.kind}; the runtime takes arrays and images.")
    if not item.allows(array.shape):
        raise BadInput(f"Input {item.name} has shape {array.shape}; the model declares {item.shapes()}.")
    return array


def _numbers(item: Feature, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise BadInput(f"Input {item.name} is not an array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise BadInput(f"Input {item.name} has dtype {array.dtype}; the model declares {item.dtype}.")
    if item.dtype.kind in "iu" and array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise BadInput(f"Input {item.name} is declared {item.dtype} but contains NaN or infinity.")
        array = np.trunc(array)
    if item.dtype.kind in "iu" and array.size:
        limits = np.iinfo(item.dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise BadInput(f"Input {item.name} has values outside the range of {item.dtype}.")
    with np.errstate(over="ignore"):  # values outside fp16's range become infinity, as in Core ML
        return array.astype(item.dtype, copy=False)


def _pixels(item: Feature, value: Any) -> Array:
    """A picture (PIL.Image, or an array (H, W) or (H, W, 3)) as (1, C, H, W) in the declared colour order."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3):
        raise BadInput(f"Input {item.name} is an image; pass a PIL.Image or an array (H, W) or (H, W, 3) of pixels.")
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    if item.layout == "bgr":
        array = array[::-1]
    return array[None].astype(item.dtype)
