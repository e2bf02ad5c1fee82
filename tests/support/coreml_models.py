"""Packages made by coremltools, one per form that an ML Program can take. Needs coremltools, but no Mac."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

_RANDOM = np.random.default_rng(0)
_CONV = _RANDOM.standard_normal((8, 8, 1, 1)).astype(np.float16)
_LINEAR = _RANDOM.standard_normal((64, 64)).astype(np.float16)
_BIAS = _RANDOM.standard_normal(64).astype(np.float16)


def attention(target: Any) -> Any:
    """A convolution and one head of split attention, as in a UNet."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8, 1, 16), dtype=types.fp16)], opset_version=target)
    def program(x: Any) -> Any:
        h = mb.conv(x=x, weight=_CONV)
        keys = mb.transpose(x=h, perm=[0, 3, 2, 1])
        weights = mb.softmax(x=mb.einsum(values=(keys, h), equation="bkhc,bchq->bkhq"), axis=1)
        out = mb.einsum(values=(h, weights), equation="bchk,bkhq->bchq")
        return mb.concat(values=(mb.gelu(x=out, mode="EXACT"), mb.pad(x=h, pad=[0, 0])), axis=1, name="y")

    return _convert(program, target)


def linear(target: Any) -> Any:
    """Two linear layers, enough weight for every way of compressing it."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64), dtype=types.fp16)], opset_version=target)
    def program(x: Any) -> Any:
        h = mb.relu(x=mb.linear(x=x, weight=_LINEAR, bias=_BIAS))
        return mb.linear(x=h, weight=_LINEAR.T.copy(), bias=_BIAS, name="y")

    return _convert(program, target)


def half_precision(target: Any) -> Any:
    """The types that iOS 15 allows at the border: fp32 in, fp32 out."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 64))], opset_version=target)
    def program(x: Any) -> Any:
        h = mb.cast(x=x, dtype="fp16")
        return mb.cast(x=mb.linear(x=h, weight=_LINEAR, bias=_BIAS), dtype="fp32", name="y")

    return _convert(program, target)


def flexible() -> Any:
    """An input whose first size may be 1 to 8."""
    import torch

    layer = torch.nn.Linear(4, 4).eval()
    torch.manual_seed(0)
    traced = torch.jit.trace(layer, torch.zeros(2, 4))
    rows = ct.RangeDim(1, 8, default=2)
    return ct.convert(
        traced, inputs=[ct.TensorType(name="x", shape=(rows, 4))], minimum_deployment_target=ct.target.iOS17
    )


def nested() -> Any:
    """A loop and a choice, each with blocks inside."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4))], opset_version=ct.target.iOS16)
    def program(x: Any) -> Any:
        _, doubled = mb.while_loop(
            _cond=lambda i, a: mb.less(x=i, y=np.float32(3)),
            _body=lambda i, a: (mb.add(x=i, y=np.float32(1)), mb.mul(x=a, y=np.float32(2))),
            loop_vars=(np.float32(0), x),
        )
        positive = mb.greater(x=mb.reduce_sum(x=x), y=np.float32(0))
        return mb.cond(
            pred=positive,
            _true_fn=lambda: mb.add(x=doubled, y=np.float32(1)),
            _false_fn=lambda: mb.sub(x=doubled, y=np.float32(1)),
            name="y",
        )

    return _convert(program, ct.target.iOS16)


def palettized(target: Any, bits: int) -> Any:
    """`linear` with palettes."""
    config = cto.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=0)
    return cto.palettize_weights(linear(target), cto.OptimizationConfig(global_config=config))


def quantized(target: Any, **options: Any) -> Any:
    """`linear` with quantized weights."""
    config = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0, **options)
    return cto.linear_quantize_weights(linear(target), cto.OptimizationConfig(global_config=config))


def pruned(target: Any) -> Any:
    """`linear` with half of its weights zero."""
    config = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=0)
    return cto.prune_weights(linear(target), cto.OptimizationConfig(global_config=config))


MODELS: Mapping[str, Callable[[], Any]] = {
    "attention_ios16": lambda: attention(ct.target.iOS16),
    "linear_ios15": lambda: half_precision(ct.target.iOS15),
    "linear_ios16": lambda: linear(ct.target.iOS16),
    "linear_ios17": lambda: linear(ct.target.iOS17),
    "linear_ios18": lambda: linear(ct.target.iOS18),
    "palette_6bit_ios16": lambda: palettized(ct.target.iOS16, 6),
    "palette_1bit_ios16": lambda: palettized(ct.target.iOS16, 1),
    "palette_4bit_ios18": lambda: palettized(ct.target.iOS18, 4),
    "palette_3bit_ios18": lambda: palettized(ct.target.iOS18, 3),
    "int8_ios16": lambda: quantized(ct.target.iOS16, dtype="int8"),
    "int4_ios18": lambda: quantized(ct.target.iOS18, dtype="int4", granularity="per_block", block_size=32),
    "sparse_ios16": lambda: pruned(ct.target.iOS16),
    "sparse_ios18": lambda: pruned(ct.target.iOS18),
    "flexible_ios17": flexible,
    "nested_ios16": nested,
}


def save(name: str, folder: Path) -> Path:
    """Write one of MODELS, or `functions`, as `folder/<name>.mlpackage`."""
    package = folder / f"{name}.mlpackage"
    if name != "functions_ios18":
        MODELS[name]().save(str(package))
        return package
    one = save("linear_ios18", folder)
    descriptor = ct.utils.MultiFunctionDescriptor()
    for function in ("first", "second"):
        descriptor.add_function(str(one), src_function_name="main", target_function_name=function)
    descriptor.default_function_name = "second"
    ct.utils.save_multifunction(descriptor, str(package))
    return package


def _convert(program: Any, target: Any) -> Any:
    return ct.convert(
        program,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,  # as the program says: no casts added
        skip_model_load=True,
    )
