"""Network → ML Program, through torch.export and coremltools; the only place that talks to coremltools' converter.

`lower` is for weights that are broadcast views of a few numbers (steps/export.py): it runs the
passes that change something in our networks, looks at one element of a view where coremltools
looks at all, and hands every constant to the caller. `convert` is coremltools' own path with
all its passes, for real weights; a test holds the two together.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hubpub.coreml import schema_pb2 as schema
from hubpub.graph import Reference
from hubpub.nets.attention import split
from hubpub.nets.networks import Network

with contextlib.redirect_stderr(io.StringIO()):  # it warns of libraries that it has not been tested with
    import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.backend.mil.helper import create_file_value_tensor, types_to_proto_primitive
from coremltools.converters.mil.backend.mil.load import MILProtoExporter, create_immediate_value
from coremltools.converters.mil.frontend.torch.ops import _get_inputs
from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY, register_pass

Array = np.ndarray[Any, Any]
Constant = Callable[[str, Array], Reference | None]  # (name, value) → what to write instead; None writes the value

COREMLTOOLS_VERSION: str = ct.__version__
TARGETS = {"macOS13": ct.target.macOS13, "macOS14": ct.target.macOS14, "macOS15": ct.target.macOS15}

# coremltools' default pipeline, less the passes that find nothing in our networks.
PASSES = (
    "common::dead_code_elimination",
    "common::cast_optimization",
    "common::noop_elimination",
    "common::const_elimination",
    "common::sanitize_input_output_names",
    "common::const_deduplication",
    "common::noop_elimination",
    "common::reduce_transposes",
    "common::fuse_elementwise_to_batchnorm",
    "common::merge_consecutive_reshapes",
    "common::merge_consecutive_transposes",
    "common::fuse_transpose_matmul",
    "common::reduce_transposes",
    "common::remove_redundant_ops",
    "common::dedup_op_and_var_names",
    "hubpub::add_fp16_cast",
    "common::add_int16_cast",
    "common::update_output_dtypes",
    "common::guard_negative_gather_indices",
    "common::const_elimination",
    "common::dead_code_elimination",
    "common::cast_optimization",
    "common::dead_code_elimination",
    "common::add_int16_cast",
    "common::const_elimination",
    "common::dead_code_elimination",
    "common::cast_optimization",
    "common::dead_code_elimination",
    "common::const_elimination",
    "common::const_deduplication",
    "common::noop_elimination",
    "common::dedup_op_and_var_names",
    "common::reduce_transposes",
    "common::remove_redundant_ops",
    "common::topological_reorder",
    "common::dead_code_elimination",
    "mil_backend::adjust_io_to_supported_types",
    "common::const_elimination",
    "common::cast_optimization",
    "common::dead_code_elimination",
    "mil_backend::sanitize_name_strings",
    "common::dedup_op_and_var_names",
)

_SINUSOIDS = "sinusoids"
_ARRAY_DTYPES = {schema.FLOAT16: schema.ArrayFeatureType.FLOAT16, schema.FLOAT32: schema.ArrayFeatureType.FLOAT32}
_NUMPY_DTYPES = {"fp16": np.float16, "fp32": np.float32}


@register_torch_op(torch_alias=["hubpub::channel_norm"])
def channel_norm(context: Any, node: Any) -> None:
    """hubpub::channel_norm as one layer_norm over the channels."""
    x, weight, bias, eps = _get_inputs(context, node, expected=4)
    context.add(mb.layer_norm(x=x, axes=[1], gamma=weight, beta=bias, epsilon=eps.val, name=node.name))


@register_torch_op(torch_alias=["hubpub::sinusoids"])
def sinusoids(context: Any, node: Any) -> None:
    """hubpub::sinusoids, its ops named so that they can be told apart."""
    timestep, frequencies, cosine_first = _get_inputs(context, node, expected=3)
    column = mb.expand_dims(x=timestep, axes=[1], name=f"{_SINUSOIDS}_timestep")
    angles = mb.mul(x=column, y=frequencies, name=f"{_SINUSOIDS}_angles")
    halves = [mb.sin(x=angles, name=f"{_SINUSOIDS}_sin"), mb.cos(x=angles, name=f"{_SINUSOIDS}_cos")]
    row = mb.concat(values=halves[::-1] if cosine_first.val else halves, axis=1, name=f"{_SINUSOIDS}_row")
    context.add(mb.expand_dims(x=row, axes=[2, 3], name=_SINUSOIDS), node.name)


@register_torch_op(torch_alias=["hubpub::split_attention"])
def split_attention(context: Any, node: Any) -> None:
    """hubpub::split_attention, head by head and piece by piece."""
    query, key, value, heads, chunk = _get_inputs(context, node, expected=5)
    result = split(MilOperations(), query, key, value, heads=int(heads.val), chunk=int(chunk.val))
    context.add(result, node.name)


class MilOperations:
    """What split attentions are made of, in MIL."""

    def part(self, x: Any, axis: int, start: int, stop: int) -> Any:
        begin, end = [0] * x.rank, list(x.shape)
        begin[axis], end[axis] = start, stop
        return mb.slice_by_index(x=x, begin=begin, end=end)

    def swap(self, x: Any) -> Any:
        return mb.transpose(x=x, perm=[0, 3, 2, 1])

    def einsum(self, equation: str, x: Any, y: Any) -> Any:
        return mb.einsum(values=(x, y), equation=equation)

    def scale(self, x: Any, factor: float) -> Any:
        return mb.mul(x=x, y=np.float32(factor))

    def softmax(self, x: Any, axis: int) -> Any:
        return mb.softmax(x=x, axis=axis)

    def concat(self, values: Sequence[Any], axis: int) -> Any:
        return mb.concat(values=values, axis=axis)


def exported(network: Network) -> torch.export.ExportedProgram:
    """torch's graph of a network whose parameters are real tensors (views will do)."""
    examples = tuple(torch.zeros(feature.shape) for feature in network.inputs)
    with _quiet(), torch.no_grad():
        program = torch.export.export(network.module.eval(), examples, strict=False).run_decompositions({})
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.alias.default:  # does nothing, and coremltools does not know it
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return program


def lower(network: Network, target: str, constant: Constant) -> schema.Model:
    """The model of a network with stand-in parameters; `constant` sees every float constant, after fp16."""
    mb.name_count.clear()  # names that coremltools makes up are numbered for the whole process
    with _quiet():
        mil = ct.convert(
            exported(network),
            convert_to="milinternal",
            pass_pipeline=ct.PassPipeline.EMPTY,
            **_interface(network, target),
        )
        for name in PASSES:
            PASS_REGISTRY[name](mil)
        proto = _Exporter(mil, TARGETS[target].value, constant).export()
    mb.name_count.clear()
    model = schema.Model(specificationVersion=TARGETS[target].value)
    model.mlProgram.ParseFromString(proto.SerializeToString(deterministic=True))
    _describe(model, network)
    return model


def convert(network: Network, target: str, package: Path) -> None:
    """Write the package of a network with real weights the way coremltools does it, all passes included."""
    mb.name_count.clear()
    with _quiet():
        model = ct.convert(
            exported(network),
            compute_precision=ct.transform.FP16ComputePrecision(op_selector=_in_half),
            skip_model_load=True,
            **_interface(network, target),
        )
        model.save(str(package))


def compact(value: Array) -> Array:
    """A broadcast view with its repetitions cut to length 1; other arrays as they are."""
    return value[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.strides)]


@register_pass(namespace="hubpub", name="add_fp16_cast")
class CompactFP16Cast(FP16ComputePrecision):
    """coremltools' fp16 pass; of a broadcast constant it looks at the numbers that differ, and keeps it one."""

    def __init__(self) -> None:
        super().__init__(op_selector=_in_half)

    @staticmethod
    def fp16_overflow(op: Any) -> bool:
        """Whether a constant input is beyond fp16."""
        return any(
            var.op is not None
            and var.op.op_type == "const"
            and var.is_tensor_or_scalar_of(dtype="fp32")
            and np.max(np.abs(compact(np.asarray(var.val))), initial=0.0) > np.finfo(np.float16).max
            for inputs in op.inputs.values()
            for var in (inputs if isinstance(inputs, list | tuple) else [inputs])
        )

    def _check_underflow_to_zero(self, new_var: Any, var: Any) -> None:
        if isinstance(var.val, np.ndarray) and 0 in var.val.strides:
            numbers = compact(var.val).astype(np.float16)
            new_var._sym_val.val = np.broadcast_to(numbers, var.val.shape)
        else:
            super()._check_underflow_to_zero(new_var, var)


class _Exporter(MILProtoExporter):
    """Writes no weight file: a constant is what the caller says, or a value in the program."""

    def __init__(self, program: Any, specification_version: int, constant: Constant) -> None:
        super().__init__(prog=program, weights_dir="", specification_version=specification_version)
        self.constant = constant

    def get_milproto_value(self, var: Any) -> Any:
        value = np.asarray(var.val) if var.dtype.__type_info__().name in ("fp16", "fp32") else None
        reference = None if value is None else self.constant(var.name, value)
        if value is None or reference is None:
            return create_immediate_value(var)
        dtype = types_to_proto_primitive(var.sym_type.get_primitive())
        return create_file_value_tensor(file_name=str(reference), offset=0, dim=value.shape, data_type=dtype)


def _interface(network: Network, target: str) -> dict[str, Any]:
    return {
        "minimum_deployment_target": TARGETS[target],
        "inputs": [
            ct.TensorType(name=feature.name, shape=feature.shape, dtype=_NUMPY_DTYPES[feature.dtype])
            for feature in network.inputs
        ],
        "outputs": [ct.TensorType(name=feature.name, dtype=np.float32) for feature in network.outputs],
    }


def _in_half(op: Any) -> bool:
    """Whether an op computes in fp16: all but the sinusoids, whose angles reach 981 rad, where fp16 is off by 0.25."""
    return not str(op.name).startswith(_SINUSOIDS)


def _describe(model: schema.Model, network: Network) -> None:
    """Names, shapes, dtypes and descriptions of what goes in and out."""
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    produced = {output.name: output for operation in block.operations for output in operation.outputs}
    for features, found, described in (
        (network.inputs, {given.name: given for given in function.inputs}, model.description.input),
        (network.outputs, produced, model.description.output),
    ):
        for feature in features:
            tensor = found[feature.name].type.tensorType
            entry = described.add(name=feature.name, shortDescription=feature.description)
            entry.type.multiArrayType.shape.extend(side.constant.size for side in tensor.dimensions)
            entry.type.multiArrayType.dataType = _ARRAY_DTYPES[tensor.dataType]
    model.description.metadata.shortDescription = network.description


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and progress bars of libraries; a step prints nothing."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
