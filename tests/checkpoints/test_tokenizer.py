"""Tokenizer files: transformers' CLIPTokenizer is the oracle for what they mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubpub.checkpoints.tokenizer import FILES, clip_tokenizer, read_tokenizer
from hubpub.errors import BadTokenizer
from tests.support.sources import write_tokenizer

ROWS = 1024
# Of the file in openai/clip-vit-large-patch14, with one final line end.
MERGES_SHA256 = "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"
PROMPTS = ("a photo of an astronaut riding a horse on mars", "Ünïcode, 日本 & 🐱!", "it's 1234  spaces\nand lines", "")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    write_tokenizer(tmp_path / "tokenizer", ROWS)
    return {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir() if path.name in FILES}


def _read(files: dict[str, bytes], rows: int = ROWS) -> Any:
    return read_tokenizer(files, rows=rows, folder="tokenizer")


def test_what_is_right_stays_as_it_is(files: dict[str, bytes]) -> None:
    made = _read(files)
    assert made.vocab == files["vocab.json"]
    assert made.merges == files["merges.txt"]
    assert made.notes == ()
    assert (made.added, made.unreachable) == ((), ())


def test_clips_own_tokenizer(tmp_path: Path) -> None:
    made = clip_tokenizer()
    assert len(made.merges) == 524_619
    assert hashlib.sha256(made.merges).hexdigest() == MERGES_SHA256
    vocab = json.loads(made.vocab)
    assert len(vocab) == 49_408
    assert vocab["<|endoftext|>"] == 49_407
    # Facts of OpenAI's vocabulary: https://huggingface.co/openai/clip-vit-large-patch14/raw/main/vocab.json
    known = {"!": 0, "a</w>": 320, "the</w>": 518, "photo</w>": 1125, "cat</w>": 2368, "<|startoftext|>": 49_406}
    assert {token: vocab[token] for token in known} == known
    again = read_tokenizer({"vocab.json": made.vocab, "merges.txt": made.merges}, rows=49_408, folder="tokenizer")
    assert (again.vocab, again.merges, again.notes) == (made.vocab, made.merges, ())


def test_transformers_reads_it_as_clips(tmp_path: Path) -> None:
    """The ids of the paper's example, which every CLIP gives."""
    transformers = pytest.importorskip("transformers")
    made = clip_tokenizer()
    (tmp_path / "vocab.json").write_bytes(made.vocab)
    (tmp_path / "merges.txt").write_bytes(made.merges)
    clip = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    ids = clip("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize("spelling", ["pairs", "lines"])
def test_tokenizer_json_alone_is_enough(spelling: str, files: dict[str, bytes], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "tokenizer"
    before = transformers.CLIPTokenizer.from_pretrained(folder)
    ids = [before(prompt).input_ids for prompt in PROMPTS]
    for path in folder.iterdir():
        path.unlink()
    before.save_pretrained(folder)
    held = json.loads((folder / "tokenizer.json").read_bytes())
    pairs = [rule.split(" ") if isinstance(rule, str) else rule for rule in held["model"]["merges"]]
    held["model"]["merges"] = pairs if spelling == "pairs" else [" ".join(pair) for pair in pairs]
    saved = {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists() and "." in name}
    saved["tokenizer.json"] = json.dumps(held).encode()
    saved.pop("vocab.json", None), saved.pop("merges.txt", None)
    made = _read(saved)
    assert json.loads(made.vocab) == json.loads(files["vocab.json"])
    assert made.merges == files["merges.txt"]
    (tmp_path / "vocab.json").write_bytes(made.vocab)
    (tmp_path / "merges.txt").write_bytes(made.merges)
    again = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert [again(prompt).input_ids for prompt in PROMPTS] == ids


def test_line_ends_of_windows_are_put_right(files: dict[str, bytes]) -> None:
    made = _read(files | {"merges.txt": files["merges.txt"].replace(b"\n", b"\r\n")})
    assert made.merges == files["merges.txt"]
    assert "merges.txt" in made.notes[0]


def test_a_byte_order_mark_goes(files: dict[str, bytes]) -> None:
    made = _read({name: b"\xef\xbb\xbf" + data for name, data in files.items()})
    assert json.loads(made.vocab) == json.loads(files["vocab.json"])
    assert made.merges == files["merges.txt"]


def test_a_first_line_is_added(files: dict[str, bytes]) -> None:
    made = _read(files | {"merges.txt": files["merges.txt"].partition(b"\n")[2]})
    assert made.merges == files["merges.txt"]


@pytest.mark.parametrize(
    "more",
    [
        {"added_tokens.json": {"<cat-toy>": ROWS}},
        {"tokenizer_config.json": {"added_tokens_decoder": {str(ROWS): {"content": "<cat-toy>"}}}},
    ],
)
def test_added_tokens_are_carried_and_named(more: dict[str, Any], files: dict[str, bytes]) -> None:
    made = _read(files | {name: json.dumps(value).encode() for name, value in more.items()}, rows=ROWS + 1)
    assert json.loads(made.vocab)["<cat-toy>"] == ROWS
    assert made.unreachable == ("<cat-toy>",)
    assert made.merges == files["merges.txt"]


def test_rows_without_a_token_are_said(files: dict[str, bytes]) -> None:
    [note] = _read(files, rows=ROWS + 5).notes
    assert "5 more rows" in note


def _vocab(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def spoil(files: dict[str, bytes]) -> dict[str, bytes]:
        vocab = json.loads(files["vocab.json"])
        changed = change(vocab)
        return files | {"vocab.json": json.dumps(vocab if changed is None else changed).encode()}

    return spoil


def _file(name: str, data: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: files | {name: data}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_file("vocab.json", b""), "vocab.json is empty"),
        (_file("merges.txt", b" \n"), "merges.txt is empty"),
        (_file("merges.txt", b"<!DOCTYPE html><html>"), "merges.txt is a web page"),
        (_file("vocab.json", b"version https://git-lfs.github.com/spec/v1\n"), "vocab.json is a git-LFS pointer"),
        (_file("vocab.json", '{"a": 1}'.encode("utf-16")), "vocab.json is text in UTF-16"),
        (_file("merges.txt", b"#version: 0.2\ni n\n\xff\xfa"), "merges.txt is not text in UTF-8"),
        (_file("vocab.json", b'{"a": 1'), "vocab.json is no JSON object"),
        (_file("vocab.json", b"[" * 100_000), "vocab.json is no JSON object"),
        (_file("vocab.json", b"[1]"), "vocab.json is no JSON object"),
        (_file("merges.txt", b"#version: 0.2\n"), "merges.txt holds no rules"),
        (_file("merges.txt", b"#version: 0.2\ni n g\n"), "merges.txt has a line that is no rule"),
        (_file("merges.txt", b"#version: 0.2\nalone\n"), "merges.txt has a line that is no rule"),
        (_file("merges.txt", b"#version: 0.2\nzz qq\n"), "merges.txt forms"),
        (_file("added_tokens.json", b'{"<x>": 3}'), "do not agree"),
        (_file("added_tokens.json", b'{"<x>": "3"}'), "added_tokens.json names an added token that is none"),
        (_file("added_tokens.json", b'{"<x>": -3}'), "added_tokens.json names an added token that is none"),
        (_file("added_tokens.json", b'{"<x>": 1024}'), "the number 1,024"),
        (_vocab(lambda vocab: vocab.pop("<|endoftext|>") and None), r"lacks <\|endoftext\|>"),
        (_vocab(lambda vocab: vocab.update({"<|endoftext|>": 3, "$": ROWS - 1}) and None), "gives .* the number 3"),
        (_vocab(lambda vocab: vocab.update({"!": 1}) and None), "one number to several"),
        (_vocab(lambda vocab: vocab.update({"!": "0"}) and None), "no table of tokens"),
        (_vocab(lambda vocab: {}), "no table of tokens"),
        (lambda files: {"vocab.json": files["vocab.json"]}, "no tokenizer/merges.txt"),
        (lambda files: {"tokenizer_config.json": b"{}"}, "no tokenizer/vocab.json"),
        (lambda files: {"tokenizer.json": b'{"model": {"type": "WordPiece", "vocab": {}}}'}, "no CLIP tokenizer"),
        (_file("merges.txt", b"x" * ((16 << 20) + 1)), "too many for a tokenizer"),
    ],
    ids=map(str, range(26)),
)
def test_a_damaged_file_is_refused_by_name(spoil: Any, named: str, files: dict[str, bytes]) -> None:
    with pytest.raises(BadTokenizer, match=named) as caught:
        _read(spoil(files))
    assert caught.value.hint


def test_noise_is_refused_or_right(files: dict[str, bytes]) -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        name = ("vocab.json", "merges.txt")[random.integers(2)]
        data = bytearray(files[name])
        for place in random.integers(len(data), size=random.integers(1, 4)):
            data[place] = random.integers(256)
        cut = len(data) if random.integers(2) else int(random.integers(len(data)))
        with suppress(BadTokenizer):  # any other exception fails the test
            made = _read(files | {name: bytes(data[:cut])})
            vocab = json.loads(made.vocab)
            rules = made.merges.decode().splitlines()[1:]
            assert all("".join(rule.split(" ")) in vocab for rule in rules)
