"""The embedded Hub's pure parts: names, paths, trees, patterns, card checks, fault rules, xet formats."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubpub.localhub import Fault, Faults, cards
from hubpub.localhub.refused import Refused
from hubpub.localhub.storage import attributes, changes, git
from hubpub.localhub.storage.changes import Delete, Put
from hubpub.localhub.storage.git import Entry
from hubpub.localhub.storage.xet_format import Malformed, dedup_shard, hex_hash, parse_shard, scan_xorb
from hubpub.localhub.storage.xet_store import XetStore

names = st.text(
    st.characters(categories=["L", "N"], include_characters=' ._-#*[]?!&"\u2028\u00a0'), min_size=1, max_size=8
)
paths = st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


def entry(text: str) -> Entry:
    return Entry(oid=git.blob_id(text.encode()), size=len(text))


def test_importing_it_imports_no_server() -> None:
    heavy = ("starlette", "uvicorn", "huggingface_hub")
    code = f"import sys, hubpub.localhub; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- git's names ---


def test_known_git_ids() -> None:
    assert git.blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git.tree_ids({}) == {"": "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_ids_are_those_of_git(tmp_path: Path) -> None:
    """A tree with names that sort differently as files and as folders, and a commit on it, as git itself names them."""
    files = {"a": "1", "a.b": "2", "a-b/c": "3", "ab/a": "4", "ab/a.x/y": "5", "ab.c/é": "6", "x y/z": "7"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def run(*arguments: str, **extra: str) -> str:
        environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path), **extra}
        command = ["git", "-c", "core.autocrlf=false", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    run("init", "-q")
    run("add", "--", *files)
    tree = {name: entry(text) for name, text in files.items()}
    ids = git.tree_ids(tree)
    assert ids[""] == run("write-tree")
    assert ids["ab"] == run("rev-parse", f"{ids['']}:ab")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    known = {"NAME": "me", "EMAIL": "me@localhost", "DATE": f"{int(moment.timestamp())} +0000"}
    stamps = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in known.items()}
    theirs = run("commit-tree", ids[""], "-m", "Title", "-m", "Body", **stamps)
    assert git.commit_id(tree=ids[""], parents=(), author="me", date=moment, title="Title", message="Body") == theirs


# --- paths and trees ---


@given(st.text(max_size=40))
def test_a_path_that_is_let_in_stays_inside(text: str) -> None:
    try:
        path = changes.check_path(text)
    except Refused:
        return
    pure = PurePosixPath(path)
    assert not pure.is_absolute()
    assert str(pure) == path
    assert not {"..", ".", ".git"} & set(pure.parts)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a\\..\\b",
        ".git/config",
        "a/.GIT/x",
        "a\nb",
        "",
        None,
        "x" * 300,
    ],
)
def test_paths_that_are_not_let_in(path: object) -> None:
    with pytest.raises(Refused):
        changes.check_path(path)


def test_changes_are_applied_in_order() -> None:
    tree = {"a": entry("a"), "d/x": entry("x"), "d/e/y": entry("y")}
    result = changes.apply(
        tree, [Delete(path="d", folder=True), Put(path="d/new", entry=entry("n")), Delete(path="a", folder=False)]
    )
    assert result == {"d/new": entry("n")}
    assert len(tree) == 3
    for wrong in (Delete(path="d", folder=False), Delete(path="nothing", folder=True)):
        with pytest.raises(Refused) as refused:
            changes.apply(tree, [wrong])
        assert refused.value.code == "EntryNotFound"
    with pytest.raises(Refused, match="file and a folder"):
        changes.apply(tree, [Put(path="a/b", entry=entry("b"))])


@given(st.dictionaries(paths, names), st.dictionaries(paths, names), st.dictionaries(paths, names))
def test_merge(base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Every path ends up as one of the two sides has it; conflicts are where all three differ."""
    b, o, t = ({path: entry(text) for path, text in side.items()} for side in (base, ours, theirs))
    merged, conflicts = changes.merge(b, o, t)
    for path in b.keys() | o.keys() | t.keys():
        if o.get(path) == b.get(path):
            assert merged.get(path) == t.get(path)
        else:
            assert merged.get(path) == o.get(path)
        assert (path in conflicts) == (o.get(path) != b.get(path) != t.get(path) != o.get(path))


# --- which files are large ---


@pytest.mark.parametrize(
    ("path", "size", "sample", "large"),
    [
        ("a/weight.bin", 10, b"text", True),
        ("model.mlmodel", 10, b"text", True),
        ("x.zip", 10, b"text", True),
        ("saved_model/a/b.txt", 10, b"text", True),
        ("vocab.json", 900_000, b"{", False),
        ("vocab.json", 11 << 20, b"{", True),
        ("picture.png", 10, b"\x89PNG\0", True),
        ("merges.txt", 10, "größ".encode()[:-1], False),
        ("latin1.txt", 600, b"\xe4" * 512, True),
        ("empty.bin", 0, b"", False),
        (".gitattributes", 100, b"*.bin", False),
    ],
)
def test_which_files_are_large(path: str, size: int, sample: bytes, large: bool) -> None:
    assert attributes.is_large(path, size=size, sample=sample, attributes=attributes.DEFAULT) is large


@given(paths)
def test_a_tracked_path_is_tracked(path: str) -> None:
    text = attributes.track(path, attributes.DEFAULT)
    assert attributes.tracked(path, text)
    assert not attributes.tracked("some/other/file.txt", text)


@pytest.mark.parametrize(
    ("gitignore", "path", "ignored"),
    [
        ("*.log", "a/b.log", True),
        ("build/", "build/x/y", True),
        ("build/", "build", False),
        ("/top", "sub/top", False),
        ("/top", "top", True),
        ("a/**/z", "a/b/c/z", True),
        ("*.log\n!keep.log", "keep.log", False),
        ("# comment\n\n", "# comment", False),
        ("[ab].txt", "a.txt", True),
        ("[!ab].txt", "a.txt", False),
    ],
)
def test_gitignore(gitignore: str, path: str, ignored: bool) -> None:
    assert attributes.ignored(path, gitignore) is ignored


# --- cards ---


@pytest.mark.parametrize(
    ("card", "errors", "warnings"),
    [
        ("---\nlicense: mit\n---\n", 0, 0),
        ("---\r\nlicense: mit\r\n---\r\ntext", 0, 0),
        ("# nothing", 0, 1),
        ("---\n---\n", 0, 1),
        ("---\ntags: [a]\n---\n", 0, 0),
        ("---\nlicense: mitt\n---\n", 1, 0),
        ("---\nlicense: [mit, gpl]\n---\n", 0, 0),
        ("---\nlicense: other\n---\n", 0, 2),
        ("---\nlicense: other\nlicense_name: x\nlicense_link: LICENSE\n---\n", 0, 0),
        ("---\nlicense: mit\nbase_model: a/b\nbase_model_relation: quantized\n---\n", 0, 0),
        ("---\nlicense: mit\nbase_model: a/b/c\n---\n", 1, 0),
        ("---\nlicense: mit\nbase_model: [a/b, 3]\n---\n", 1, 0),
        ("---\nlicense: mit\nbase_model: a/b\nbase_model_relation: cousin\n---\n", 1, 0),
        ("---\nlicense: mit\nbase_model_relation: quantized\n---\n", 1, 0),
        ("---\nlicense: mit\ntags: core-ml\nlanguage: English\n---\n", 2, 0),
        ("---\nlicense: mit\npipeline_tag: [x]\nlibrary_name: 3\n---\n", 2, 0),
        ("---\nlicense: [unclosed\n---\n", 1, 0),
        ("---\n- a\n- list\n---\n", 1, 0),
        ("---\nlicense: mit\nmodel-index: x\n---\n", 1, 0),
    ],
)
def test_cards(card: str, errors: int, warnings: int) -> None:
    findings = cards.validate(card)
    assert (len(findings.errors), len(findings.warnings)) == (errors, warnings)


# --- faults ---


def test_fault_rules_count_and_skip() -> None:
    faults = Faults(Fault(kind="status", method="POST", path=r"/commit/", skip=1, times=2))
    assert faults.pick("GET", "/api/models/a/b/commit/main") is None
    hits = [faults.pick("POST", "/api/models/a/b/commit/main") is not None for _ in range(5)]
    assert hits == [False, True, True, False, False]
    assert len(faults.fired) == 2
    faults.add(Fault(kind="refuse", times=None))
    assert all(faults.pick("GET", "/") for _ in range(10))
    faults.clear()
    assert faults.pick("GET", "/") is None


def test_chance_is_seeded() -> None:
    def strikes(seed: int) -> list[bool]:
        faults = Faults(Fault(kind="refuse", times=None, chance=0.5), seed=seed)
        return [faults.pick("GET", "/") is not None for _ in range(64)]

    assert strikes(1) == strikes(1)
    assert strikes(1) != strikes(2)
    assert 10 < sum(strikes(3)) < 54


# --- xet ---

TAG = bytes.fromhex("4846526570 6f4d657461446174610055 696745 6a7b815783a5bdd95ccdd14aa9".replace(" ", ""))


def raw_hash(number: int) -> bytes:
    return struct.pack("<4Q", number, 1, 2, 3)


def name_of(number: int) -> str:
    return hex_hash(raw_hash(number))


def make_xorb(sizes: list[int]) -> bytes:
    return b"".join(
        b"\0" + size.to_bytes(3, "little") + b"\0" + size.to_bytes(3, "little") + bytes(size) for size in sizes
    )


def make_shard(
    number: int, terms: list[tuple[int, int, int, int]], xorbs: dict[int, list[int]], sha256: bytes
) -> bytes:
    """A shard as hf-xet sends it: one file (terms are xorb, size, start, end), with verification and sha256."""
    out = TAG + struct.pack("<2Q", 2, 0)
    out += raw_hash(number) + struct.pack("<2IQ", 0xC0000000, len(terms), 0)
    for xorb, size, start, end in terms:
        out += raw_hash(xorb) + struct.pack("<4I", 0, size, start, end)
    out += bytes(48) * len(terms) + sha256 + bytes(16)
    out += b"\xff" * 32 + bytes(16)
    for xorb, sizes in xorbs.items():
        out += raw_hash(xorb) + struct.pack("<4I", 0, len(sizes), sum(sizes), 0)
        out += b"".join(raw_hash(1000 * xorb + at) + struct.pack("<4I", 0, size, 0, 0) for at, size in enumerate(sizes))
    return out + b"\xff" * 32 + bytes(16)


def fill_store(folder: Path, xorbs: dict[int, list[int]]) -> XetStore:
    store = XetStore(folder)
    for number, sizes in xorbs.items():
        path = folder / f"upload-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(make_xorb(sizes))
            assert store.add_xorb(name_of(number), path, file)
    return store


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_range_is_put_together_from_its_chunks(tmp_path: Path, data: st.DataObject) -> None:
    """As a client would: the terms' chunks, cut at the offset, are exactly the range; each term can be fetched."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    xorbs = data.draw(
        st.dictionaries(st.integers(1, 3), st.lists(st.integers(1, 50), min_size=1, max_size=6), min_size=1)
    )
    store = fill_store(folder, xorbs)
    terms, content = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        xorb = data.draw(st.sampled_from(sorted(xorbs)))
        start = data.draw(st.integers(0, len(xorbs[xorb]) - 1))
        end = data.draw(st.integers(start + 1, len(xorbs[xorb])))
        terms.append((xorb, sum(xorbs[xorb][start:end]), start, end))
        content += [(xorb, at, byte) for at in range(start, end) for byte in range(xorbs[xorb][at])]
    assert store.add_shard(make_shard(7, terms, xorbs, raw_hash(8)))
    assert store.named(name_of(8)) is not None
    begin = data.draw(st.integers(0, len(content) - 1))
    stop = data.draw(st.integers(begin + 1, len(content) + 5))

    offset, needed, fetches = store.reconstruction(name_of(7), begin, stop)
    numbers = {name_of(number): number for number in xorbs}
    got = [
        (numbers[term.xorb], at, byte)
        for term in needed
        for at in range(term.start, term.end)
        for byte in range(xorbs[numbers[term.xorb]][at])
    ]
    assert got[offset : offset + stop - begin] == content[begin:stop]
    assert len(got) - offset - (min(stop, len(content)) - begin) < 50  # no chunk too many
    for term in needed:
        assert term.size == sum(xorbs[numbers[term.xorb]][term.start : term.end])
        ranges = [found for found, _, _ in fetches[term.xorb]]
        assert any(found.start <= term.start and term.end <= found.end for found in ranges)
    for xorb, ranges in fetches.items():
        sizes = xorbs[numbers[xorb]]
        for found, first, last in ranges:
            assert make_xorb(sizes)[first:last] == make_xorb(sizes[found.start : found.end])


def test_a_range_beyond_the_end(tmp_path: Path) -> None:
    store = fill_store(tmp_path, {1: [10]})
    store.add_shard(make_shard(7, [(1, 10, 0, 1)], {1: [10]}, raw_hash(8)))
    with pytest.raises(Refused) as refused:
        store.reconstruction(name_of(7), 10, None)
    assert refused.value.status == 416
    with pytest.raises(Refused) as refused:
        store.reconstruction(name_of(9), 0, None)
    assert refused.value.status == 404


def test_shards_that_lie_are_refused(tmp_path: Path) -> None:
    store = fill_store(tmp_path, {1: [10, 20]})
    for terms in ([(2, 10, 0, 1)], [(1, 30, 0, 3)], [(1, 11, 0, 1)]):
        with pytest.raises(Refused) as refused:
            store.add_shard(make_shard(7, terms, {1: [10, 20]}, raw_hash(8)))
        assert refused.value.status == 400
    assert store.named(name_of(8)) is None


def test_a_chunk_is_found_in_a_whole_shard(tmp_path: Path) -> None:
    """The answer to "does anybody have this chunk": without the files, and with a footer."""
    xorbs = {1: [10, 20], 2: [30]}
    store = fill_store(tmp_path, xorbs)
    assert store.shard_with(name_of(1001), now=100) is None
    store.add_shard(make_shard(7, [(1, 30, 0, 2)], xorbs, raw_hash(8)))
    answer = store.shard_with(name_of(1001), now=100)
    assert answer is not None
    shard = parse_shard(answer)
    assert (shard.files, shard.xorbs) == ((), (name_of(1), name_of(2)))
    assert shard.chunks == (name_of(1000), name_of(1001), name_of(2000))
    assert struct.unpack_from("<Q", answer, 40)[0] == 200
    footer_at = struct.unpack_from("<Q", answer, len(answer) - 8)[0]
    assert footer_at == len(answer) - 200
    assert struct.unpack_from("<Q", answer, footer_at)[0] == 1


@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_upset_the_shard_reader(noise: bytes, cut: int) -> None:
    good = make_shard(7, [(1, 30, 0, 2)], {1: [10, 20]}, raw_hash(8))
    for data in (noise, good[:cut], good[:cut] + noise, good[:48] + noise):
        try:
            shard = parse_shard(data)
            dedup_shard(data, created=0, expires=1)
        except Malformed:
            continue
        assert all(len(name) == 64 for name in shard.xorbs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_upset_the_xorb_reader(tmp_path: Path, noise: bytes) -> None:
    path = tmp_path / "xorb"
    for data in (noise, make_xorb([5, 6]) + noise, make_xorb([5, 6])[: len(noise)]):
        path.write_bytes(data)
        try:
            table = scan_xorb(path)
        except Malformed:
            continue
        assert table.stored[-1] <= len(data)
        assert list(table.content) == sorted(set(table.content))
