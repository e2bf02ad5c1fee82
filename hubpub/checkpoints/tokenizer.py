"""CLIP's tokenizer as apps need it: a vocab.json and a merges.txt, from whatever files a source has.

Apps split a prompt at spaces, write it in lower case and merge letters by the rules of merges.txt, in their order;
what comes out is looked up in vocab.json (huggingface.co/docs/transformers/model_doc/clip, and Apple's
BPETokenizer.swift in ml-stable-diffusion). Files that were damaged on their way draw pictures that ignore the
prompt, so everything is checked.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from hubpub.errors import BadTokenizer

# Files of a tokenizer's folder that are read, where they are there.
FILES: Final = ("vocab.json", "merges.txt", "tokenizer.json", "added_tokens.json", "tokenizer_config.json")
START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_TOKENS: Final = 49_408
_VERSION = "#version: 0.2"
_MAX_BYTES = 16 << 20
_AGAIN = "Fetch the source again, or save its tokenizer again with transformers."


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """The two files, and what was done to make them."""

    vocab: bytes  # vocab.json
    merges: bytes  # merges.txt: LF, with its first line
    added: tuple[str, ...]  # tokens carried into vocab.json that apps form from a prompt
    unreachable: tuple[str, ...]  # tokens carried into vocab.json that no prompt leads to in apps
    notes: tuple[str, ...]  # a sentence for each thing that was put right


def read_tokenizer(files: Mapping[str, bytes], *, rows: int, folder: str) -> Tokenizer:
    """The tokenizer in `files` (name → content) of the source's `folder`, for an embedding of so many `rows`.

    vocab.json and merges.txt as they are where they are there, else both from tokenizer.json; added tokens come into
    vocab.json under their own numbers. Raises BadTokenizer, naming the file.
    """
    texts = {name: _text(data, f"{folder}/{name}") for name, data in files.items() if name in FILES}
    objects = {name: _object(text, f"{folder}/{name}") for name, text in texts.items() if name.endswith(".json")}
    notes: list[str] = []
    if "vocab.json" in texts and "merges.txt" in texts:
        vocab, rules = objects["vocab.json"], _lines(texts["merges.txt"])
        names = f"{folder}/vocab.json", f"{folder}/merges.txt"
        if b"\r" in files["merges.txt"]:
            notes.append(f"{folder}/merges.txt ends its lines as Windows does; it is released with plain ends.")
    elif "tokenizer.json" in objects:
        vocab, rules = _of_tokenizer_json(objects["tokenizer.json"], f"{folder}/tokenizer.json")
        names = (f"{folder}/tokenizer.json",) * 2
        notes.append(f"vocab.json and merges.txt are made from {folder}/tokenizer.json.")
    else:
        missing = next(name for name in ("vocab.json", "merges.txt") if name not in texts)
        raise BadTokenizer(
            f"The source has no {folder}/{missing}, and no {folder}/tokenizer.json from which to make it.",
            hint="Apps need it; add it to the source.",
        )
    _check_vocabulary(vocab, names[0])
    base = dict(vocab)
    _check_special(base, names[0])
    added = _added(objects, folder)
    _carry(vocab, added, folder)
    _check(vocab, rules, rows=rows, names=names)
    carried = [token for token in added if token not in base]
    formed = {first + second for first, second in rules}
    reached = tuple(token for token in carried if token in formed and token.endswith("</w>"))
    lost = tuple(token for token in carried if token not in reached and token not in (START, END))
    if spare := rows - 1 - max(vocab.values()):
        notes.append(f"The text encoder has {spare} more rows than the tokenizer has tokens; no prompt reaches them.")
    as_it_was = "vocab.json" in texts and vocab == base and not files["vocab.json"].startswith(b"\xef\xbb\xbf")
    return Tokenizer(
        vocab=files["vocab.json"] if as_it_was and "merges.txt" in texts else _vocab_json(vocab),
        merges=_merges_txt(texts.get("merges.txt") if "vocab.json" in texts else None, rules),
        added=reached,
        unreachable=lost,
        notes=tuple(notes),
    )


@cache
def clip_tokenizer() -> Tokenizer:
    """OpenAI's own: 49,408 tokens, which follow from the 48,894 merges that ship with hubpub (MIT)."""
    merges = lzma.decompress(resources.files("hubpub.checkpoints").joinpath("clip_merges.txt.xz").read_bytes())
    rules = _lines(merges.decode())
    letters = [*_letters(), *(f"{letter}</w>" for letter in _letters())]
    entries = [*letters, *(first + second for first, second in rules), START, END]
    vocab = _vocab_json({entry: number for number, entry in enumerate(entries)})
    return Tokenizer(vocab=vocab, merges=merges, added=(), unreachable=(), notes=())


def _letters() -> Iterator[str]:
    """A letter for each byte, in the order of OpenAI's bytes_to_unicode: printable ones first, as themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    yield from map(chr, printable)
    yield from (chr(0x100 + number) for number in range(256 - len(printable)))


# -- files -----------------------------------------------------------------------------------------------------


def _text(data: bytes, path: str) -> str:
    """The text of a file, without a mark of its byte order. BadTokenizer for what is no text in UTF-8."""
    if len(data) > _MAX_BYTES:
        raise BadTokenizer(f"The source's {path} has {len(data)} bytes, too many for a tokenizer.", hint=_AGAIN)
    what = None
    if not data.strip():
        what = "is empty"
    elif data.startswith(b"version https://git-lfs"):
        what = "is a git-LFS pointer, not the file it points to"
    elif data.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        what = "is a web page"
    elif data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:64]:
        what = "is text in UTF-16, not UTF-8"
    if what is None:
        try:
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError:
            what = "is not text in UTF-8"
    raise BadTokenizer(f"The source's {path} {what}.", hint=_AGAIN)


def _object(text: str, path: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadTokenizer(f"The source's {path} is no JSON object; it is damaged.", hint=_AGAIN)
    return value


def _lines(text: str) -> list[tuple[str, str]]:
    """The rules of a merges.txt; one that is not two symbols has an empty second one, which is refused later."""
    rules = []
    for number, line in enumerate(text.split("\n")):
        if line.strip() and not (number == 0 and line.startswith("#version")):
            first, _, second = line.rstrip("\r").partition(" ")
            rules.append((first, second.strip(" ")))
    return rules


def _of_tokenizer_json(held: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Vocabulary and rules, which are pairs in today's files and lines in older ones."""
    model = held.get("model")
    if isinstance(model, dict) and isinstance(model.get("vocab"), dict) and isinstance(model.get("merges"), list):
        pairs = [rule.split(" ") if isinstance(rule, str) else rule for rule in model["merges"]]
        if all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair) for pair in pairs):
            return dict(model["vocab"]), [(first, second) for first, second in pairs]
    raise BadTokenizer(f"The source's {path} holds no vocabulary and merges; it is no CLIP tokenizer.", hint=_AGAIN)


def _added(objects: Mapping[str, Mapping[str, Any]], folder: str) -> dict[str, int]:
    """Tokens that were added to the vocabulary, and their numbers, from all files that name some."""
    found: dict[str, int] = {}
    for path, token, number in _named(objects):
        if not isinstance(token, str) or not token or type(number) is not int or number < 0:
            raise BadTokenizer(f"The source's {folder}/{path} names an added token that is none.", hint=_AGAIN)
        if found.setdefault(token, number) != number:
            raise BadTokenizer(
                f"The files in {folder} give the token {token} two numbers, {found[token]} and {number}.", hint=_AGAIN
            )
    return found


def _named(objects: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """(file, token, number) of each added token."""
    for token, number in objects.get("added_tokens.json", {}).items():
        yield "added_tokens.json", token, number
    listed = objects.get("tokenizer.json", {}).get("added_tokens")
    for one in listed if isinstance(listed, list) else ():
        held = one if isinstance(one, dict) else {}
        yield "tokenizer.json", held.get("content"), held.get("id")
    decoder = objects.get("tokenizer_config.json", {}).get("added_tokens_decoder")
    for number, one in decoder.items() if isinstance(decoder, dict) else ():
        content = one.get("content") if isinstance(one, dict) else None
        yield "tokenizer_config.json", content, int(number) if number.isdecimal() and len(number) < 10 else None


def _carry(vocab: dict[str, Any], added: Mapping[str, int], folder: str) -> None:
    """Put added tokens into the vocabulary under their numbers."""
    numbers = {number: token for token, number in vocab.items()}
    for token, number in added.items():
        if vocab.get(token, number) != number or numbers.get(number, token) != token:
            raise BadTokenizer(
                f"The files in {folder} do not agree: the added token {token} has the number {number}, and "
                "vocab.json says otherwise.",
                hint=_AGAIN,
            )
        vocab[token] = number


def _check_vocabulary(vocab: Mapping[str, Any], path: str) -> None:
    numbers = list(vocab.values())
    if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
        raise BadTokenizer(f"The source's {path} is no table of tokens and their numbers.", hint=_AGAIN)
    if len(set(numbers)) != len(numbers):
        raise BadTokenizer(f"The source's {path} gives one number to several tokens.", hint=_AGAIN)


def _check_special(vocab: Mapping[str, int], path: str) -> None:
    """CLIP's two special tokens are the last of its vocabulary: where a text ends is found by that number."""
    for token in (START, END):
        if token not in vocab:
            raise BadTokenizer(f"The source's {path} lacks {token}: it is no CLIP tokenizer.", hint=_AGAIN)
    last = CLIP_TOKENS - 1 if len(vocab) >= CLIP_TOKENS else max(vocab.values())
    for token, number in ((START, last - 1), (END, last)):
        if vocab[token] != number:
            raise BadTokenizer(
                f"The source's {path} gives {token} the number {vocab[token]:,}, and CLIP's is {number:,}.", hint=_AGAIN
            )


def _check(vocab: Mapping[str, int], rules: list[tuple[str, str]], *, rows: int, names: tuple[str, str]) -> None:
    """The vocabulary fits the embedding and has CLIP's special tokens; every rule makes a token of it from two."""
    if (largest := max(vocab.values())) >= rows:
        raise BadTokenizer(
            f"The source's {names[0]} has a token with the number {largest:,}, and its text encoder {rows:,} rows.",
            hint="The tokenizer and the text encoder are not of the same model.",
        )
    if not rules:
        raise BadTokenizer(f"The source's {names[1]} holds no rules.", hint=_AGAIN)
    for first, second in rules:
        if not first or not second or " " in second:
            raise BadTokenizer(
                f"The source's {names[1]} has a line that is no rule: {f'{first} {second}'.strip()[:40]!r}.",
                hint=_AGAIN,
            )
        for symbol in (first, second, first + second):
            if symbol not in vocab:
                raise BadTokenizer(
                    f"The source's {names[1]} forms {symbol[:40]!r}, which {names[0]} does not know.",
                    hint="The two files are not of the same tokenizer.",
                )


def _vocab_json(vocab: Mapping[str, int]) -> bytes:
    """As transformers writes it: in the order of the numbers."""
    return json.dumps(dict(sorted(vocab.items(), key=lambda item: item[1])), ensure_ascii=False).encode()


def _merges_txt(text: str | None, rules: list[tuple[str, str]]) -> bytes:
    """The source's own text where it has its first line, which readers skip; else the rules below one."""
    if text is not None and text.startswith("#version"):
        return text.replace("\r", "").encode()
    return "\n".join([_VERSION, *(f"{first} {second}" for first, second in rules), ""]).encode()
