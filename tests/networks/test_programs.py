"""Programs: the recorded structures, the same bytes every time, and types that coremltools infers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.coreml import schema_pb2 as schema
from hubpub.coreml.package import serialize
from hubpub.coreml.program import PROGRAM_VERSION, constants_of, main_block, write
from hubpub.coreml.reading import independent_types
from hubpub.errors import BadPackage
from hubpub.networks import Scope, Size
from tests.support.golden_programs import RECORDS, network_of, title
from tests.support.program_digests import operation_counts, output_digests

FILE = Path(__file__).parent / "serialized_digests.json"
SD15 = [record for record in RECORDS if "1024" not in title(record).rpartition(",")[2] and "32×32" not in title(record)]


def _record(component: str, width: int) -> dict[str, Any]:
    return next(r for r in RECORDS if r["params"]["component"] == component and title(r).endswith(f", {width}"))


PARTS = {
    "text_encoder": _record("text_encoder", 768)["params"],
    "unet": _record("unet", 768)["params"],
    "vae_decoder": _record("vae_decoder", 128)["params"],
    "vae_encoder": _record("vae_encoder", 128)["params"],
    "safety_checker": _record("safety_checker", 1024)["params"],
}
TINY = {"unet": _record("unet", 64)["params"], "text_encoder": _record("text_encoder", 64)["params"]}


@pytest.mark.parametrize("record", RECORDS, ids=title)
def test_the_structure_is_that_of_the_traced_networks(record: dict[str, Any]) -> None:
    """The records were made from programs that coremltools converted from traces of these networks."""
    model = write(network_of(record["params"]), target=record["params"]["target"])
    assert operation_counts(model) == record["operations"]
    assert output_digests(model) == record["outputs"]


def _serialized() -> dict[str, str]:
    """sha256 of the bytes of one program for each network, attention and target."""
    digests = {}
    for component, params in PARTS.items():
        for target in ("macOS13", "macOS14", "macOS15"):
            for attention in ("original", "split_einsum", "split_einsum_v2") if component == "unet" else ("original",):
                model = write(network_of(params, attention=attention), target=target)
                name = f"{component} {attention} {target}"
                digests[name] = hashlib.sha256(serialize(model)).hexdigest()
    return digests


def test_a_change_of_bytes_has_a_new_version() -> None:
    """Stores know packages by PROGRAM_VERSION: two programs of one version must be the same bytes.

    Where a change is meant, raise PROGRAM_VERSION and write the file anew:
    python -m tests.networks.test_programs
    """
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    assert stored["version"] == PROGRAM_VERSION
    assert stored["digests"] == _serialized()


# -- coremltools -----------------------------------------------------------------------------------------------

SIZES = (Size(height=64, width=64, batch=2), Size(height=40, width=24, batch=1))


@pytest.mark.parametrize("target", ["macOS13", "macOS14", "macOS15"])
@pytest.mark.parametrize("component", PARTS)
def test_coremltools_infers_the_declared_types(component: str, target: str) -> None:
    pytest.importorskip("coremltools")
    forms = ("original", "split_einsum", "split_einsum_v2") if component == "unet" else ("original",)
    params = TINY.get(component, PARTS[component])
    for attention in forms:
        for size in SIZES:
            model = write(network_of(params, size=size, attention=attention), target=target)
            assert independent_types(model) == []


def test_coremltools_infers_the_declared_types_of_a_whole_unet() -> None:
    pytest.importorskip("coremltools")
    model = write(network_of(PARTS["unet"], attention="split_einsum_v2"), target="macOS13")
    assert independent_types(model) == []


def _wrong_shape(block: schema.Block) -> None:
    next(one for one in block.operations if one.type == "silu").outputs[0].type.tensorType.dimensions[
        1
    ].constant.size = 7


def _missing_argument(block: schema.Block) -> None:
    del next(one for one in block.operations if one.type == "conv").inputs["weight"]


def _unknown_argument(block: schema.Block) -> None:
    operation = next(one for one in block.operations if one.type == "silu")
    operation.inputs["z"].arguments.add(name=operation.inputs["x"].arguments[0].name)


def _name_twice(block: schema.Block) -> None:
    first, second, *_ = (one for one in block.operations if one.type == "silu")
    second.outputs[0].name = first.outputs[0].name


@pytest.mark.parametrize("fault", [_wrong_shape, _missing_argument, _unknown_argument, _name_twice])
def test_coremltools_notices_a_wrong_program(fault: Any) -> None:
    pytest.importorskip("coremltools")
    model = write(network_of(TINY["unet"]), target="macOS13")
    fault(main_block(model))
    assert independent_types(model)


# -- targets ---------------------------------------------------------------------------------------------------


def test_ios_targets_are_those_of_their_year() -> None:
    network = network_of(TINY["text_encoder"])
    for ios, macos in (("iOS16", "macOS13"), ("iOS17", "macOS14"), ("iOS18", "macOS15")):
        assert serialize(write(network, target=ios)) == serialize(write(network, target=macos))


def test_macos_14_says_that_indices_are_not_checked_and_macos_15_fuses_attention() -> None:
    network = network_of(TINY["text_encoder"])
    models = {target: main_block(write(network, target=target)) for target in ("macOS13", "macOS14", "macOS15")}
    checked = {
        target: {"validate_indices" in one.inputs for one in block.operations if one.type in ("gather", "gather_nd")}
        for target, block in models.items()
    }
    assert checked == {"macOS13": {False}, "macOS14": {True}, "macOS15": {True}}
    fused = {
        target: any(one.type == "scaled_dot_product_attention" for one in block.operations)
        for target, block in models.items()
    }
    assert fused == {"macOS13": False, "macOS14": False, "macOS15": True}
    unet = main_block(write(network_of(TINY["unet"]), target="macOS15"))
    assert not any(one.type == "scaled_dot_product_attention" for one in unet.operations)


# -- constants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", PARTS)
def test_the_constants_do_not_depend_on_attention_size_or_batch(component: str) -> None:
    params = TINY.get(component, PARTS[component])
    tensors, literals = constants_of(network_of(params, attention="original"))
    assert len({tensor.name for tensor in tensors}) == len(tensors)
    for attention in ("split_einsum", "split_einsum_v2"):
        for size in SIZES:
            others, more = constants_of(network_of(params, size=size, attention=attention))
            assert others == tensors
            assert [one.values.tobytes() for one in more] == [one.values.tobytes() for one in literals]


def test_only_the_token_table_is_gathered() -> None:
    tensors, _ = constants_of(network_of(PARTS["text_encoder"]))
    assert [tensor.name for tensor in tensors if tensor.gathered] == ["embeddings.token_embedding.weight"]


def test_a_tensor_is_used_once() -> None:
    def network(at: Scope) -> None:
        x = at.input("x", (1, 4, 8, 8))
        at.output("y", at.conv("a", at.conv("a", x, 4), 4))

    with pytest.raises(BadPackage, match=r"a\.weight twice"):
        write(network, target="macOS13")


def test_values_that_do_not_fit_are_refused_where_they_are_written() -> None:
    def network(at: Scope) -> None:
        x = at.input("x", (1, 4, 8, 8))
        at.output("y", (at / "deep" / "inside").reshape(x, 1, 5))

    with pytest.raises(BadPackage, match=r"in deep\.inside"):
        write(network, target="macOS13")


def test_scalars_are_rounded_as_coremltools_rounds_them() -> None:
    def network(at: Scope) -> None:
        x = at.input("x", (1, 4))
        at.output("y", at.add(at.add(x, 1e-6), 1e-9))

    constants = [
        np.frombuffer(one.attributes["val"].immediateValue.tensor.bytes.values, np.float16)[0]
        for one in main_block(write(network, target="macOS13")).operations
        if one.type == "const" and one.outputs[0].name.startswith("half")
    ]
    assert [float(one) for one in constants] == [pytest.approx(1.0133e-6, rel=1e-4), 2.0**-24]


if __name__ == "__main__":
    text = json.dumps({"version": PROGRAM_VERSION, "digests": _serialized()}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")
