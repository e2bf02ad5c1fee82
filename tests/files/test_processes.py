"""Xcode's compiler as seen from here: a stand-in `xcrun` that behaves as Apple's is documented to.

The real one needs a Mac; tests/macos/compare_compilers.py runs it there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import hubpub
from hubpub.coreml.compiler import compile_bundle
from hubpub.coreml.package import WEIGHT_BIN
from hubpub.errors import BadPackage, StepFailed, ToolMissing
from hubpub.files.processes import find_coremlcompiler
from tests.support.mil_models import save_package, tiny, weighted_package

# Notes its arguments, then does what coremlcompiler does as far as hubpub can tell: OUT/<stem>.mlmodelc.
COMPILER = """#!{python}
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
(folder / "arguments.json").write_text(json.dumps(sys.argv[1:]))
{body}
"""
WORKS = """
source, target = map(pathlib.Path, sys.argv[2:])
bundle = target / (source.stem + ".mlmodelc")
(bundle / "weights").mkdir(parents=True)
(bundle / "model.mil").write_text(
    'program(1.3)\\n[buildInfo = dict<string, string>({{"coremlc-version", "3.4"}})]\\n'
)
(bundle / "coremldata.bin").write_bytes(b"x")
(bundle / "weights/weight.bin").write_bytes((source / "Data/com.apple.CoreML/weights/weight.bin").read_bytes())
print(bundle / "coremldata.bin")
"""
FAILS = 'print("compiling"); print("error: the model is odd", file=sys.stderr); sys.exit(3)'


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, body: str, xcrun: str | None = None) -> Path:
    """Put a stand-in Xcode first on the PATH."""
    folder.mkdir()
    compiler = folder / "coremlcompiler"
    write(compiler, COMPILER.replace("{python}", sys.executable).replace("{body}", body))
    write(folder / "xcrun", xcrun or f'#!/bin/sh\n[ "$1 $2" = "--find coremlcompiler" ] && echo "{compiler}"\n')
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return compiler


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_xcode_compiles_under_the_name_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = install(tmp_path / "my tools; echo", monkeypatch, body=WORKS)
    package = weighted_package(tmp_path / "a package & more" / "model.mlpackage")
    result = compile_bundle(package, tmp_path / "out" / "model.mlmodelc", stem="Some name", compiler="apple")
    assert result.compiler == "apple"
    assert result.version == "3.4"
    assert result.unverified == ()
    assert (result.bundle / "weights/weight.bin").read_bytes() == (package / WEIGHT_BIN).read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.mlmodelc"]
    command, source, target = json.loads((compiler.parent / "arguments.json").read_text())
    assert command == "compile"
    assert Path(source).name == "Some name.mlpackage"
    assert not Path(target).exists()


def test_the_error_contains_xcodes_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "tools", monkeypatch, body=FAILS)
    package = save_package(tmp_path / "m.mlpackage", tiny())
    with pytest.raises(StepFailed, match=r"refused m\.mlpackage \(status 3\): error: the model is odd") as caught:
        hubpub.compile_package(package, tmp_path / "out", compiler="apple")
    assert caught.value.hint == "compiling\nerror: the model is odd"
    assert list((tmp_path / "out").iterdir()) == []


def test_success_without_a_bundle_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "tools", monkeypatch, body="")
    package = save_package(tmp_path / "m.mlpackage", tiny())
    with pytest.raises(StepFailed, match=r"wrote no m\.mlmodelc"):
        hubpub.compile_package(package, tmp_path / "out", compiler="apple")


def test_a_missing_xcode_is_reported_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="no Xcode") as caught:
        find_coremlcompiler()
    assert "portable" in caught.value.hint
    package = save_package(tmp_path / "m.mlpackage", tiny())
    with pytest.raises(ToolMissing):
        hubpub.compile_package(package, tmp_path / "out", compiler="apple")


def test_command_line_tools_alone_have_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = 'xcrun: error: unable to find utility "coremlcompiler", not a developer tool or in PATH'
    install(tmp_path / "tools", monkeypatch, body="", xcrun=f"#!/bin/sh\necho '{says}' >&2\nexit 72\n")
    with pytest.raises(ToolMissing, match="unable to find utility"):
        find_coremlcompiler()


def test_xcode_is_not_asked_for_what_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = install(tmp_path / "tools", monkeypatch, body=WORKS)
    with pytest.raises(BadPackage):
        hubpub.compile_package(tmp_path / "nothing.mlpackage", tmp_path / "out", compiler="apple")
    assert not (compiler.parent / "arguments.json").exists()


def test_auto_is_portable_also_where_there_is_an_xcode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = install(tmp_path / "tools", monkeypatch, body=FAILS)
    hubpub.compile_package(save_package(tmp_path / "m.mlpackage", tiny()), tmp_path / "out")
    assert not (compiler.parent / "arguments.json").exists()
