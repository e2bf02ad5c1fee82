"""The numeric gate: right programs pass; each planted fault is caught, and of each it is known whether reading the
weights back would have caught it, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.program import main_block
from hubpub.coreml.weight_file import BlobReader
from hubpub.coreml.weight_index import FILE, WEIGHT_FILE
from hubpub.errors import BadPackage, HubpubError, ParityTooLow
from hubpub.networks import Size
from hubpub.steps import measure as measure_step
from hubpub.steps import package as package_step
from tests.support.component_bench import SMALL, Bench

pytest.importorskip("torch", reason="the gate runs components with torch")
pytest.importorskip("diffusers", reason="the gate compares with diffusers' modules")

pytestmark = pytest.mark.slow

FULL = Size(height=64, width=40, batch=2)
MEASURED = Size(height=32, width=32, batch=1)


class Gate(Bench):
    """A bench whose right weights and reference are made once."""

    def __init__(self, root: Path, component: str) -> None:
        super().__init__(root, component)
        self.sixteen, self.six = self.weights(16), self.weights(6)
        self.published = self.six if self.component.palettizes else self.sixteen
        self.expected = self.reference(MEASURED)
        self.attention = "split_einsum_v2" if "attention" in self.component.knobs else None

    def verdict(self, weights: Path | None = None, bits: int = 6) -> dict[str, Any]:
        """What the gate says of these weights (or the right ones), with the programs as they are written now."""
        weights = weights or self.published
        return self.measure(
            package=self.package(weights, attention=self.attention, size=FULL),
            weights=weights,
            expected=self.expected,
            bits=bits if self.component.palettizes else 16,
            attention=self.attention,
            size=MEASURED,
        )

    def changed(self, weights: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
        """A copy of weights in whose index or file `change` has changed something."""
        out = self.folder()
        index = json.loads((weights / FILE).read_text())
        (out / WEIGHT_FILE).write_bytes((weights / WEIGHT_FILE).read_bytes())
        before = json.dumps(index), (out / WEIGHT_FILE).read_bytes()
        change(index, out / WEIGHT_FILE)
        assert (json.dumps(index), (out / WEIGHT_FILE).read_bytes()) != before, "nothing was changed"
        (out / FILE).write_text(json.dumps(index))
        return out


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Gate]:
    made: dict[str, Gate] = {}

    def gate(component: str) -> Gate:
        if component not in made:
            made[component] = Gate(tmp_path_factory.mktemp(component), component)
        return made[component]

    return gate


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder", "vae_encoder", "safety_checker"])
def test_right_programs_pass(gates: Callable[[str], Gate], component: str) -> None:
    gate = gates(component)
    measured = gate.verdict()
    assert measured["psnr_program"] > 80
    assert measured["latent"] == [32, 32]
    if gate.component.palettizes:
        assert 25 < measured["psnr"] < measured["psnr_program"]
        assert f"{measured['psnr']:.1f} dB at 6 bits" in measured["summary"]


def test_fewer_bits_are_worse(gates: Callable[[str], Gate]) -> None:
    gate = gates("unet")
    eight = gate.verdict(gate.weights(8), bits=8)["psnr"]
    six = gate.verdict()["psnr"]
    assert eight > six + 6
    with pytest.raises(ParityTooLow, match="with 2-bit weights"):
        gate.verdict(gate.weights(2), bits=2)


# -- faults in the program -------------------------------------------------------------------------------------

Change = Callable[[schema.Block], int]


def _operations(block: schema.Block, kind: str) -> Iterator[schema.Operation]:
    return (operation for operation in block.operations if operation.type == kind)


def _constants(block: schema.Block) -> dict[str, schema.Value]:
    return {operation.outputs[0].name: operation.attributes["val"] for operation in _operations(block, "const")}


def _argument(operation: schema.Operation, name: str) -> str:
    return str(operation.inputs[name].arguments[0].name)


def _literal(block: schema.Block, name: str, old: str, values: dict[str, Any]) -> str:
    """A new constant like `old` with other values."""
    [template] = [operation for operation in _operations(block, "const") if operation.outputs[0].name == old]
    made = schema.Operation()
    made.CopyFrom(template)
    made.outputs[0].name = name
    made.attributes["name"].immediateValue.tensor.strings.values[0] = name
    tensor = made.attributes["val"].immediateValue.tensor
    for field, content in values.items():
        target = getattr(tensor, field)
        if field == "bytes":
            target.values = content
        else:
            target.values[:] = content
    block.operations.insert(0, made)
    return name


def _turn_softmax(block: schema.Block) -> int:
    constants = _constants(block)
    for number, operation in enumerate(list(_operations(block, "softmax"))):
        old = _argument(operation, "axis")
        axis = constants[old].immediateValue.tensor.ints.values[0]
        other = {-1: -2, 1: 3, 3: 2}[axis]
        operation.inputs["axis"].arguments[0].name = _literal(block, f"turned_{number}", old, {"ints": [other]})
    return 1


def _other_scale(kinds: tuple[str, ...], factor: float) -> Change:
    """Multiply the scalar of the first operations of these kinds."""

    def change(block: schema.Block) -> int:
        constants = _constants(block)
        changed = 0
        for operation in list(block.operations):
            if operation.type in kinds and changed < 3:
                old = _argument(operation, "y")
                tensor = constants[old].immediateValue.tensor if old in constants else None
                if tensor is None or tensor.WhichOneof("value") != "bytes" or len(tensor.bytes.values) != 2:
                    continue
                value = np.frombuffer(tensor.bytes.values, np.float16) * np.float16(factor)
                content = value.astype(np.float16).tobytes()
                operation.inputs["y"].arguments[0].name = _literal(block, f"scaled_{changed}", old, {"bytes": content})
                changed += 1
        return changed

    return change


def _swap_arguments(kind: str, first: str, second: str) -> Change:
    def change(block: schema.Block) -> int:
        changed = 0
        for operation in _operations(block, kind):
            one, two = operation.inputs[first].arguments[0], operation.inputs[second].arguments[0]
            one.name, two.name = two.name, one.name
            changed += 1
        return changed

    return change


def _bypass(kind: str, *, only: int | None = None) -> Change:
    """Let the users of an operation's result use its input instead: the operation is missing."""

    def change(block: schema.Block) -> int:
        targets = [operation for operation in _operations(block, kind)]
        targets = [o for o in targets if "x" in o.inputs][: only or len(targets)]
        names = {operation.outputs[0].name: _argument(operation, "x") for operation in targets}
        for operation in block.operations:
            for given in operation.inputs.values():
                for binding in given.arguments:
                    while binding.name in names and operation.outputs[0].name != binding.name:
                        binding.name = names[binding.name]
        return len(names)

    return change


def _reverse_concat(block: schema.Block) -> int:
    """The halves of the time embedding (or any two values of one shape) the other way round."""
    for operation in _operations(block, "concat"):
        values = operation.inputs["values"].arguments
        if len(values) == 2:
            values[0].name, values[1].name = values[1].name, values[0].name
            return 1
    return 0


def _another_activation(block: schema.Block) -> int:
    """SiLU where there was GELU, ReLU where there was SiLU or a sigmoid."""
    changed = 0
    for operation in block.operations:
        if operation.type == "gelu":
            operation.type = "silu"
            del operation.inputs["mode"]
            changed += 1
        elif operation.type in ("silu", "sigmoid") and changed < 1:
            operation.type = "relu"
            changed += 1
    return changed


def _drop_last_piece(block: schema.Block) -> int:
    """The last query piece of every attention repeats the one before it."""
    changed = 0
    for operation in _operations(block, "concat"):
        values = operation.inputs["values"].arguments
        if len(values) == 2 and "einsum" in values[0].name:
            values[1].name = values[0].name
            changed += 1
    return changed


def _no_mask(block: schema.Block) -> int:
    """The causal mask of the text encoder is not added."""
    names = {}
    for operation in _operations(block, "add"):
        if "mask" in _argument(operation, "y"):
            names[operation.outputs[0].name] = _argument(operation, "x")
    for operation in block.operations:
        for given in operation.inputs.values():
            for binding in given.arguments:
                binding.name = names.get(binding.name, binding.name)
    return len(names)


def _other_epsilon(block: schema.Block) -> int:
    """Group norms with an epsilon of 0.05: add(variance, epsilon) before sqrt."""
    constants = _constants(block)
    roots = {_argument(operation, "x") for operation in _operations(block, "sqrt")}
    changed = 0
    for operation in list(_operations(block, "add")):
        if operation.outputs[0].name in roots:
            old = _argument(operation, "y")
            assert old in constants
            content = np.float16(0.05).tobytes()
            operation.inputs["y"].arguments[0].name = _literal(block, f"epsilon_{changed}", old, {"bytes": content})
            changed += 1
    return changed


PROGRAM_FAULTS: dict[str, tuple[str, Change]] = {
    "softmax over another axis (unet)": ("unet", _turn_softmax),
    "softmax over another axis (text encoder)": ("text_encoder", _turn_softmax),
    "attention scores not scaled (unet)": ("unet", _other_scale(("mul",), 4.0)),
    "attention scores not scaled (text encoder)": ("text_encoder", _other_scale(("mul",), 4.0)),
    "cosines before sines in the time embedding": ("unet", _reverse_concat),
    "another activation (unet)": ("unet", _another_activation),
    "another activation (text encoder)": ("text_encoder", _another_activation),
    "a missing activation (vae decoder)": ("vae_decoder", _bypass("silu", only=1)),
    "the last query piece dropped": ("unet", _drop_last_piece),
    "group norms with another epsilon (unet)": ("unet", _other_epsilon),
    "group norms with another epsilon (vae encoder)": ("vae_encoder", _other_epsilon),
    "no causal mask": ("text_encoder", _no_mask),
}


@pytest.mark.parametrize("fault", PROGRAM_FAULTS)
def test_a_fault_in_the_program_is_caught(
    gates: Callable[[str], Gate], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading weights back would miss all of these: the weights are right."""
    component, change = PROGRAM_FAULTS[fault]
    gate = gates(component)
    write = package_step.write

    def faulty(*arguments: Any, **options: Any) -> schema.Model:
        model = write(*arguments, **options)
        assert change(main_block(model)), "nothing was changed"
        return model

    monkeypatch.setattr(package_step, "write", faulty)
    monkeypatch.setattr(measure_step, "write", faulty)
    gate.readback(gate.package(gate.published, attention=gate.attention, size=FULL), bits=6)
    with pytest.raises((ParityTooLow, BadPackage)) as caught:
        gate.verdict()
    if isinstance(caught.value, ParityTooLow) and caught.value.measured is not None:
        assert caught.value.measured < 58, "far below the floor, so that catching it does not depend on luck"


@pytest.mark.parametrize("change", [_turn_softmax, _other_epsilon, _drop_last_piece], ids=lambda one: one.__name__)
def test_a_fault_in_the_published_program_alone_is_caught(
    gates: Callable[[str], Gate], change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small program that runs is right; the large one that is published is not the same but for sizes."""
    gate = gates("unet")
    write = package_step.write

    def faulty(*arguments: Any, **options: Any) -> schema.Model:
        model = write(*arguments, **options)
        assert change(main_block(model)), "nothing was changed"
        return model

    with monkeypatch.context() as wrong:
        wrong.setattr(package_step, "write", faulty)
        published = gate.package(gate.six, attention=gate.attention, size=FULL)
    with pytest.raises(BadPackage, match="is not the one that was measured"):
        gate.measure(
            package=published,
            weights=gate.six,
            expected=gate.expected,
            attention=gate.attention,
            size=MEASURED,
        )


# -- faults in the weights -------------------------------------------------------------------------------------


def _swap(first: str, second: str) -> Callable[[dict[str, Any], Path], None]:
    """Exchange the places of all tensors whose names differ in this part alone, where their shapes are the same."""

    def change(index: dict[str, Any], file: Path) -> None:
        tensors = index["tensors"]
        for name in [name for name in tensors if first in name]:
            other = name.replace(first, second)
            if other in tensors and tensors[other]["shape"] == tensors[name]["shape"]:
                tensors[name], tensors[other] = tensors[other], tensors[name]

    return change


def _edit(part: str, edit: Callable[[Any], Any], *, only: int = 1) -> Callable[[dict[str, Any], Path], None]:
    """Change the 16-bit values of the first tensors whose name contains `part`."""

    def change(index: dict[str, Any], file: Path) -> None:
        reader = BlobReader(file)
        content = bytearray(file.read_bytes())
        edited = 0
        for name, entry in index["tensors"].items():
            if part in name and "offset" in entry and edited < only:
                _, size, start = reader.record(entry["offset"])
                values = np.frombuffer(bytes(content[start : start + size]), np.float16).reshape(entry["shape"])
                content[start : start + size] = np.ascontiguousarray(edit(values), np.float16).tobytes()
                edited += 1
        reader.close()
        file.write_bytes(content)

    return change


def _transposed(values: Any) -> Any:
    rows, columns = values.shape[:2]
    assert rows == columns, "only a square matrix can be transposed unseen"
    return values.swapaxes(0, 1)


WEIGHT_FAULTS: dict[str, tuple[str, Callable[[dict[str, Any], Path], None]]] = {
    "queries and keys exchanged (unet)": ("unet", _swap("attn1.to_q", "attn1.to_k")),
    "queries and keys exchanged (text encoder)": ("text_encoder", _swap("q_proj", "k_proj")),
    "two convolutions of one shape exchanged": ("vae_decoder", _swap("mid_block.resnets.0", "mid_block.resnets.1")),
    "one transposed linear": ("text_encoder", _edit("out_proj.weight", _transposed)),
    "a missing bias": ("unet", _edit("conv_in.bias", np.zeros_like)),
    "a norm without its scale": ("vae_encoder", _edit("conv_norm_out.weight", np.ones_like)),
    "half of a tensor of zeros": ("safety_checker", _edit("visual_projection.weight", lambda v: v * (v > 0))),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_a_fault_in_the_weights_is_caught_by_both(gates: Callable[[str], Gate], fault: str) -> None:
    component, change = WEIGHT_FAULTS[fault]
    gate = gates(component)
    sixteen = gate.changed(gate.sixteen, change)
    with pytest.raises(HubpubError):
        gate.readback(gate.package(sixteen, attention=gate.attention, size=SMALL), bits=16)
    with pytest.raises(ParityTooLow, match="in fp32"):
        gate.verdict(sixteen, bits=16)


def test_a_damaged_table_is_caught_by_both(gates: Callable[[str], Gate]) -> None:
    gate = gates("unet")

    def roll(index: dict[str, Any], file: Path) -> None:
        tables = [entry["lut"] + 64 for entry in index["tensors"].values() if "lut" in entry]
        data = np.fromfile(file, np.uint8)
        for start in tables[len(tables) // 2 :][:3]:
            data[start : start + 128] = np.roll(data[start : start + 128], 64)
        data.tofile(file)

    six = gate.changed(gate.six, roll)
    with pytest.raises(ParityTooLow, match="6-bit weights") as caught:
        gate.verdict(six)
    assert "Most is lost in" in caught.value.message
    with pytest.raises(ParityTooLow, match="too far from its source"):
        gate.readback(gate.package(six, attention=gate.attention), bits=6)


def test_a_single_flipped_bit_is_caught_by_reading_back(gates: Callable[[str], Gate]) -> None:
    gate = gates("unet")
    gate.readback(gate.package(gate.sixteen), bits=16)

    def flip(index: dict[str, Any], file: Path) -> None:
        data = np.fromfile(file, np.uint8)
        place = index["tensors"]["mid_block.resnets.0.conv1.weight"]["offset"] + 64 + 1000
        data[place] ^= 1
        data.tofile(file)

    with pytest.raises(ParityTooLow, match="is not the source's tensor"):
        gate.readback(gate.package(gate.changed(gate.sixteen, flip)), bits=16)


def test_packages_over_different_files_are_caught_by_reading_back(gates: Callable[[str], Gate]) -> None:
    gate = gates("unet")
    first, second = (gate.package(gate.six, attention=one) for one in ("original", "split_einsum_v2"))
    gate.readback(first, second, bits=6)
    swapped = gate.changed(gate.six, _swap("attn1.to_q", "attn1.to_k"))
    with pytest.raises(BadPackage, match="is not where the other packages have it"):
        gate.readback(first, gate.package(swapped, attention="split_einsum_v2"), bits=6)
