"""`load` reads a package from disk; `Model.predict` runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

try:
    import torch
except ModuleNotFoundError as error:
    from hubpub.errors import ToolMissing

    raise ToolMissing(
        "Running a model needs torch, which is not installed.", hint="Install it with: pip install 'hubpub[numeric]'"
    ) from error

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import read_model, weights_folder
from hubpub.errors import BadInput, BadPackage, ConfigError, ModelError, ToolMissing
from hubpub.runtime.binder import bind
from hubpub.runtime.constants import Blobs, Weights
from hubpub.runtime.features import Feature, checked_inputs, feature
from hubpub.runtime.interpreter import Interpreter, Watch
from hubpub.runtime.ops.control import Cell
from hubpub.runtime.program import Input, Numerics, Program, constant_shape, names

Array = npt.NDArray[Any]

# Operations whose result has the same elements: indices stay indices of the same table.
_SAME_ELEMENTS = ("cast", "identity", "reshape", "squeeze", "expand_dims", "add", "select", "greater_equal")


@dataclass(frozen=True, kw_only=True)
class State:
    """The values of a model's states; every `predict` call that gets this object changes them."""

    cells: Mapping[str, Cell]

    def read(self, name: str) -> Array:
        """A copy of a state's value. Raises BadInput for an unknown name."""
        if name not in self.cells:
            raise BadInput(f"{name} is not a state of this model.", hint=f"Its states are {', '.join(self.cells)}.")
        return self.cells[name].value.cpu().numpy().copy()

    def write(self, name: str, value: npt.ArrayLike) -> None:
        """Replace a state's value. Raises BadInput for a shape that differs from the declared one."""
        old = self.read(name)
        new = np.asarray(value)
        if new.shape != old.shape or new.dtype.kind not in "biuf":
            raise BadInput(f"The state {name} has shape {old.shape}; the value given is {new.dtype} {new.shape}.")
        cell = self.cells[name]
        cell.value = torch.from_numpy(np.array(new, dtype=old.dtype)).to(cell.value.device)


class Model:
    """A loaded model. `inputs`, `outputs` (by name) and `states` are as Core ML declares them."""

    def __init__(
        self,
        *,
        function: str,
        description: schema.ModelDescription | schema.FunctionDescription,
        program: Program,
        numerics: Numerics,
        weights: Blobs,
    ) -> None:
        self.function = function
        self.inputs: Mapping[str, Feature] = {item.name: feature(item) for item in description.input}
        self.outputs: Mapping[str, Feature] = {item.name: feature(item) for item in description.output}
        self.states: tuple[Feature, ...] = tuple(feature(item) for item in description.state)
        self.opset = program.opset
        self._program = program
        self._numerics = numerics
        self._weights = weights
        missing = self.outputs.keys() - set(program.outputs)
        if missing:
            raise BadPackage(f"The program does not compute the declared output {', '.join(sorted(missing))}.")

    def make_state(self) -> State:
        """Fresh states, all zeros."""
        device = self._numerics.device
        return State(
            cells={
                item.name: Cell(value=torch.zeros(item.shape, dtype=item.dtype, device=device))
                for item in self._program.inputs
                if item.state
            }
        )

    def predict(
        self, inputs: Mapping[str, Any], *, state: State | None = None, watch: Watch | None = None
    ) -> dict[str, Array]:
        """The outputs by name, in the declared dtypes; a scalar output has shape (1,).

        `inputs` maps each declared name to an array (or, for an image, a PIL.Image); see
        features.checked_inputs for the checks. A model with states needs a `state` of
        make_state() and changes it. `watch(name, tensor)` is called with every intermediate
        tensor and must not change it. Raises BadInput; ModelError if an operation fails.
        """
        arrays = checked_inputs(tuple(self.inputs.values()), inputs)
        if any(item.state for item in self._program.inputs) and state is None:
            raise BadInput("This model has states.", hint="Pass state=model.make_state() to predict.")
        env: dict[str, Any] = {}
        for item in self._program.inputs:
            if item.state:
                assert state is not None
                env[item.name] = state.cells[item.name]
            else:
                env[item.name] = self._placed(item, arrays[item.name])
        interpreter = Interpreter(numerics=self._numerics, watch=watch)
        with torch.inference_mode(), _whole_products(self._numerics.device):
            results = dict(zip(self._program.outputs, interpreter.run(self._program.block, env), strict=True))
        return {item.name: _declared(item, results[item.name]) for item in self.outputs.values()}

    def operations(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """The operations in order: the name of the first result, the op, and the names of its operands."""
        steps = (part for step in self._program.block.steps for part in step.parts or (step,))
        return [(step.outputs[0].name, step.type, tuple(names(step))) for step in steps if step.outputs]

    def table_sizes(self, name: str) -> list[int]:
        """Row counts of the tables that the input `name` indexes (by gather, directly or after a cast)."""
        reached = {name}
        sizes: list[int] = []
        for step in self._program.block.steps:
            used = reached.intersection(names(step))
            if not used:
                continue
            if step.type == "gather":
                sizes += constant_shape(step, "x")[:1]
            elif step.type in _SAME_ELEMENTS:
                reached |= {output.name for output in step.outputs}
        return sizes

    def _placed(self, item: Input, array: Array) -> torch.Tensor:
        """An input as a tensor on the device, in the dtype and rank that the program declares."""
        shape = array.shape if len(array.shape) == len(item.shape) else item.shape
        value = torch.from_numpy(np.array(array)).reshape(shape)
        return value.to(self._numerics.device, item.dtype)

    def close(self) -> None:
        """Release the weight files."""
        self._weights.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _whole_products(device: torch.device) -> Iterator[None]:
    """On CUDA: switches off TF32 and partial sums in fp16 inside the block; restores the caller's settings."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_tf32 = matmul.allow_fp16_reduced_precision_reduction = False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32, matmul.allow_fp16_reduced_precision_reduction = before


def _declared(item: Feature, value: Any) -> Any:
    """An output in its declared dtype; an image as (H, W) or (H, W, 3) pixels in RGB order."""
    if not isinstance(value, torch.Tensor):
        return value
    array = value.cpu().numpy()
    if item.kind == "image":
        pixels = array[0] if item.layout != "bgr" else array[0, ::-1]
        if item.dtype == np.uint8:
            pixels = np.clip(np.rint(pixels), 0, 255)
        pixels = np.moveaxis(pixels, 0, -1) if pixels.shape[0] > 1 else pixels[0]
        return np.ascontiguousarray(pixels).astype(item.dtype)
    with np.errstate(over="ignore"):
        return np.atleast_1d(array.astype(item.dtype))


def load(
    path: str | Path,
    *,
    device: Literal["cpu", "cuda"] | str = "cpu",
    precision: Literal["fp16", "fp32"] | str = "fp16",
    function: str | None = None,
) -> Model:
    """Load the ML Program of an .mlpackage.

        model = load("Unet.mlpackage", device="cuda", precision="fp16")

    `precision="fp16"` computes each fp16 operation as a device does: fp16 storage, fp32
    accumulation, the result rounded to fp16. "fp32" is the reference: the same program with
    all floats in fp32. `function` selects a function of the package (default: the package's
    default function, else "main").

    The weight files are memory-mapped, and weights are uncompressed one operation at a time;
    the package must not change on disk while the model is in use. Raises BadPackage,
    UnsupportedOps (lists all missing operations), ModelError for other kinds of model,
    ConfigError for an unknown precision or device, ToolMissing without a CUDA device.
    """
    package = Path(path)
    model = read_model(package)
    weights = Weights(weights_folder(package).parent)
    return load_model(model, weights, name=str(package), device=device, precision=precision, function=function)


def load_model(
    model: schema.Model,
    weights: Blobs,
    *,
    name: str,
    device: str = "cpu",
    precision: str = "fp16",
    function: str | None = None,
) -> Model:
    """As `load`, of a model in memory whose weights are read from `weights`; `name` is for errors."""
    if precision not in ("fp16", "fp32"):
        raise ConfigError(f"{precision!r} is not a precision.", hint="Use fp16 or fp32.")
    numerics = Numerics(device=_device(device), half=precision == "fp16")
    package, kind = name, model.WhichOneof("Type")
    if kind != "mlProgram":
        raise ModelError(
            f"{package} holds a model of kind {kind}; hubpub runs ML Programs.",
            hint="Convert it again with convert_to='mlprogram'.",
        )
    name, description = _description(model, function, package)
    if name not in model.mlProgram.functions:
        raise BadPackage(f"{package} has no function {name!r} in its program.")
    program = bind(model.mlProgram.functions[name], weights, numerics)
    return Model(function=name, description=description, program=program, numerics=numerics, weights=weights)


def _device(device: str) -> torch.device:
    if device == "cpu":
        return torch.device("cpu")
    if device == "cuda" or device.startswith("cuda:"):
        if not torch.cuda.is_available():
            raise ToolMissing("This machine has no CUDA device that torch can use.", hint="Use device='cpu'.")
        return torch.device(device)
    raise ConfigError(f"{device!r} is not a device.", hint="Use cpu or cuda.")


def _description(
    model: schema.Model, function: str | None, package: str
) -> tuple[str, schema.ModelDescription | schema.FunctionDescription]:
    """The selected function's name and description."""
    description = model.description
    if not description.functions:
        if function not in (None, "main"):
            raise ModelError(f"{package} has no function {function!r}.", hint="It has one function: main.")
        return "main", description
    named = {item.name: item for item in description.functions}
    name = function or description.defaultFunctionName or "main"
    if name not in named:
        raise ModelError(f"{package} has no function {name!r}.", hint=f"It has {', '.join(sorted(named))}.")
    return name, named[name]
