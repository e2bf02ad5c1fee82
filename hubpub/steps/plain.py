"""plain: weights + config → a graph with weights of its own, converted by torch and coremltools.

The way for a network whose graph cannot be proven: the real weights go through torch and
coremltools, and what those make of them is taken apart again into a graph and a weight
file, which every later step treats like any other graph and source. It costs minutes and
about sixteen bytes of memory for each weight.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from hubpub.checkpoints.weights import Weights, fitting_names, open_weights
from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import read_model, weights_folder
from hubpub.coreml.values import dimensions, encode
from hubpub.coreml.weight_file import BlobReader
from hubpub.graph import Graph, GraphInfo, Reference, constants, main_block
from hubpub.nets.lowering import convert
from hubpub.nets.networks import Network, build, load
from hubpub.nets.weightless import built_with

KIND = "plain"
VERSION = 1

WEIGHTS = "weights.safetensors"

Array = npt.NDArray[Any]


def run(params: Mapping[str, Any], inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write graph.mlmodel, graph.json and weights.safetensors (float16) into `out`.

    params: `graph` (what export was given), `reason` (why this way), `weights` (file names
    in the source folder). inputs: `source` (the component's folder). Measurements: the
    `reason`, the numbers of `tensors` in the source and of those among the constants that
    are `unchanged`. Raises BadWeights where source and config do not fit.
    """
    given, package = params["graph"], out / "plain.mlpackage"
    network = build(given)
    with open_weights([inputs["source"] / name for name in params["weights"]]) as weights:
        names = _load(network, weights, given["component"])
        convert(network, given["target"], package)
        tensors: dict[bytes, list[str]] = {}
        for name, held in names.items():
            tensors.setdefault(_digest(weights.float16(held)), []).append(name)
    model = read_model(package)
    moved = _taken_apart(model, weights_folder(package), tensors, network)
    save_file(moved, out / WEIGHTS)
    proof = {"unproven": params["reason"]}
    info = GraphInfo(component=given["component"], params=given, proof=proof, built_with=built_with())
    Graph(model=model, info=info).save(out)
    shutil.rmtree(package)
    return {"reason": params["reason"], "tensors": len(names), "unchanged": len(moved.keys() & names.keys())}


def _load(network: Network, weights: Weights, component: str) -> dict[str, str]:
    """Give the network its weights; returns its names of them → the source's."""
    names = fitting_names(
        weights.names(), list(network.module.state_dict()), ignored=network.ignored, component=component
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes
        load(network, {name: torch.from_numpy(weights.float16(held)) for name, held in names.items()})
    return names


def _taken_apart(
    model: schema.Model, folder: Path, tensors: Mapping[bytes, list[str]], network: Network
) -> dict[str, Array]:
    """Move the weights out of the program; returns them by the names that it now gives them. All else is a literal.

    A weight is what has the bytes of a tensor of the source, whose name it gets; or a float16
    constant of two axes and more that is none of the network's own, which keeps its name.
    """
    blobs = BlobReader(folder / "weight.bin")
    literals = {_digest(np.asarray(buffer).astype(np.float16)) for _, buffer in network.module.named_buffers()}
    moved: dict[str, Array] = {}
    for operation in constants(main_block(model)):
        value = operation.attributes["val"]
        if value.WhichOneof("value") != "blobFileValue":
            continue
        dtype, shape = value.type.tensorType.dataType, dimensions(value.type.tensorType)
        array = blobs.array(value.blobFileValue.offset)
        digest = _digest(array)
        if names := tensors.get(digest):
            name = names.pop()
        elif dtype == schema.FLOAT16 and len(shape) > 1 and digest not in literals:
            name = operation.outputs[0].name
        else:
            value.immediateValue.tensor.CopyFrom(encode(array.tolist(), dtype))
            continue
        moved[name] = array.reshape([side or 0 for side in shape])
        value.blobFileValue.fileName, value.blobFileValue.offset = str(Reference(tensor=name)), 0
    return moved


def _digest(array: Array) -> bytes:
    """What tells one tensor's content from another's, whatever axes of length 1 it has."""
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()
