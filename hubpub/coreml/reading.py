"""A second opinion on a program: coremltools reads it, and infers every type again.

Its loader refuses wrong declared types, missing required and unknown arguments, values of
another dtype, use before definition, and names used twice. It accepts missing optional
arguments, inline values and a missing `name` attribute: for these it cannot vouch.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import serialize
from hubpub.coreml.program import main_block
from hubpub.coreml.values import dimensions

_MOST = 5
_DTYPES = {schema.FLOAT16: "fp16", schema.FLOAT32: "fp32", schema.INT32: "int32", schema.BOOL: "bool"}


def independent_types(model: schema.Model) -> list[str]:
    """Where coremltools infers another type than the program declares, or cannot read it; the first few.

    Weights are not read. Needs coremltools.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("coremltools").setLevel(logging.ERROR)
        from coremltools.converters.mil.frontend.milproto import load as loader
        from coremltools.converters.mil.mil import types
        from coremltools.proto import Model_pb2

        spec = Model_pb2.Model()
        spec.ParseFromString(serialize(model))
        read = loader._load_value
        loader._load_value = lambda context, value: _without_weights(read, context, value)
        try:
            program = loader.load(spec, specification_version=spec.specificationVersion, file_weights_dir="")
        except Exception as error:  # of a library that raises what it likes; the sentence is what counts
            return [f"coremltools cannot read it: {error}"]
        finally:
            loader._load_value = read
    declared = {output.name: output.type for operation in main_block(model).operations for output in operation.outputs}
    wrong = []
    for operation in program.functions["main"].operations:
        for output in operation.outputs:
            if output.name not in declared:
                continue
            tensor = declared[output.name].tensorType
            shape, dtype = tuple(int(side) for side in output.shape), types.builtin_to_string(output.dtype)
            expected = _DTYPES.get(tensor.dataType, dtype)
            if shape != dimensions(tensor) or dtype != expected:
                wrong.append(
                    f"{output.name} is declared {expected} {dimensions(tensor)}, coremltools infers {dtype} {shape}"
                )
    return wrong[:_MOST]


def _without_weights(read: Any, context: Any, value: Any) -> Any:
    """coremltools' own reading of a value; of one in the weight file an array of that type, which takes no memory."""
    import numpy as np

    if value.WhichOneof("value") != "blobFileValue":
        return read(context, value)
    from hubpub.coreml.weight_file import NUMPY_DTYPES

    tensor = value.type.tensorType
    dtype = np.dtype(NUMPY_DTYPES.get(tensor.dataType, np.uint8))
    shape = [side.constant.size for side in tensor.dimensions]
    filler = 0.5 if dtype.kind == "f" else 0
    return np.broadcast_to(np.array(filler, dtype), shape)
