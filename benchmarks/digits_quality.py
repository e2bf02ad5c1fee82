"""What compression costs in pictures: a classifier reads what the packages of each width draw.

    python -m benchmarks.digits_quality SOURCE WORK [--pictures 500] [--bits 16 8 6 4 2 1] [--processes 2]

The source draws with diffusers in fp32; the packages of every width, converted here, draw on
hubpub's runtime at fp16. All start from the same prompts and the same noise, so that the
columns differ by the packages alone. A run that was stopped goes on: finished pictures lie in
WORK. Prints Markdown, writes WORK/quality.json and WORK/quality.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import digits_data
from benchmarks.digits_eval import classifier, draw_with_pipeline, load_pipeline, prompts

STEPS, GUIDANCE, SEED = 10, 3.0, 1000
CHUNK = 25  # pictures per file
SOURCE = "source"

Read = dict[str, digits_data.Labels]


def main() -> None:
    """Convert, draw, read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 8, 6, 4, 2, 1])
    parser.add_argument("--attention", default="split_einsum_v2")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    folders = {name_of(bits): convert(args.source, args.work, bits, args.attention) for bits in args.bits}
    pictures = draw_all(args.source, folders, args.work, count=args.pictures, processes=args.processes)
    texts, asked = prompts(args.pictures)
    judge, held_out = classifier()
    read = {name: judge.predict(digits_data.features(drawn)) for name, drawn in pictures.items()}
    rows = summarise(read, asked, sizes={name: unet_bytes(folder) for name, folder in folders.items()})
    found = {"pictures": args.pictures, "steps": STEPS, "guidance": GUIDANCE, "attention": args.attention}
    found |= {"classifier_on_held_out_real_digits": round(held_out, 4), "rows": rows}
    (args.work / "quality.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    write_sheet(args.work / "quality.png", pictures, texts)
    print("\n".join(markdown(rows)))


def name_of(bits: int) -> str:
    """What a width is called in the table."""
    return f"{bits} bits" if bits > 1 else "1 bit"


def convert(source: Path, work: Path, bits: int, attention: str) -> Path:
    """The folder of packages of one width, made by the command; at once where it was made before."""
    out = work / f"release-{bits}"
    command = [sys.executable, "-m", "hubpub", "convert", str(source), "--out", str(out), "--attention", attention]
    command += ["--bits", str(bits), "--format", "packages", "--verify", "weights", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def draw_all(
    source: Path, folders: Mapping[str, Path], work: Path, *, count: int, processes: int
) -> dict[str, digits_data.Pictures]:
    """The pictures of the source and of every width, in chunks that are kept as they are finished."""
    draw = {SOURCE: partial(draw_source, source)} | {
        name: partial(draw_packages, source, folder) for name, folder in folders.items()
    }
    with ProcessPoolExecutor(processes) as pool:
        waiting = {
            (name, start): pool.submit(
                kept, work / f"{name.replace(' ', '-')}-{start:04}.npy", function, start, min(start + CHUNK, count)
            )
            for start in range(0, count, CHUNK)
            for name, function in draw.items()
        }
        chunks = {key: future.result() for key, future in waiting.items()}
    return {name: np.concatenate([chunk for (of, _), chunk in chunks.items() if of == name])[:count] for name in draw}


def kept(path: Path, function: Any, start: int, stop: int) -> digits_data.Pictures:
    """What `function(start, stop)` draws, or drew before."""
    if path.is_file():
        drawn: digits_data.Pictures = np.load(path, allow_pickle=False)
        if len(drawn) == stop - start:
            return drawn
    drawn = function(start, stop)
    np.save(path, drawn, allow_pickle=False)
    return drawn


def draw_source(source: Path, start: int, stop: int) -> digits_data.Pictures:
    """Pictures start to stop, by diffusers."""
    texts, _ = prompts(stop)
    return draw_with_pipeline(_pipeline(source), texts[start:], seed=SEED + start, steps=STEPS, guidance=GUIDANCE)


def draw_packages(source: Path, folder: Path, start: int, stop: int) -> digits_data.Pictures:
    """Pictures start to stop, by the packages of a converted folder."""
    from hubpub.runtime.pictures import Request, draw

    texts, _ = prompts(stop)
    painter = _painter(source, folder)
    requests = [
        Request(prompt=text, seed=SEED + i, steps=STEPS, guidance=GUIDANCE)
        for i, text in enumerate(texts[start:], start)
    ]
    return np.stack([draw(painter, request) for request in requests])


@cache
def _pipeline(source: Path) -> Any:
    _one_thread()
    return load_pipeline(source)


@cache
def _painter(source: Path, folder: Path) -> Any:
    from hubpub.runtime import pictures

    _one_thread()
    (packages,) = folder.glob("*/packages")
    facts = json.loads((folder / "hubpub.json").read_text(encoding="utf-8"))
    return pictures.load(packages, source / "tokenizer", facts)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def unet_bytes(folder: Path) -> int:
    """Bytes of the UNet's weights."""
    (weights,) = folder.glob("*/packages/*_unet.mlpackage/Data/*/weights/weight.bin")
    return weights.stat().st_size


def summarise(read: Read, asked: digits_data.Labels, *, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row per column of pictures: share read right, against the source's, picture by picture."""
    right = {name: digits == asked for name, digits in read.items()}
    return [
        {
            "name": name,
            "unet_bytes": sizes.get(name),
            "read_right": round(float(hits.mean()), 4),
            "drop_points": round(100 * float(right[SOURCE].mean() - hits.mean()), 2),
            "lost": int((right[SOURCE] & ~hits).sum()),
            "won": int((hits & ~right[SOURCE]).sum()),
        }
        for name, hits in right.items()
    ]


def markdown(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The table."""
    yield "| weights | UNet | read right | drop, points | lost | won |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows:
        size = f"{row['unet_bytes'] / 1e6:.2f} MB" if row["unet_bytes"] else "–"
        name = "source, fp32 in PyTorch" if row["name"] == SOURCE else row["name"]
        yield (
            f"| {name} | {size} | {100 * row['read_right']:.1f} % "
            f"| {row['drop_points']:.1f} | {row['lost']} | {row['won']} |"
        )


def write_sheet(path: Path, pictures: Mapping[str, digits_data.Pictures], texts: list[str]) -> None:
    """The first ten pictures of every column, one row each."""
    from PIL import Image, ImageDraw

    side, gap, margin = digits_data.IMAGE_SIZE, 6, 64
    canvas = Image.new("RGB", (margin + 10 * (side + gap), len(pictures) * (side + gap) + 20), "white")
    pen = ImageDraw.Draw(canvas)
    for column, text in enumerate(texts[:10]):
        pen.text((margin + column * (side + gap), 4), text, fill="black")
    for row, (name, drawn) in enumerate(pictures.items()):
        top = 20 + row * (side + gap)
        pen.text((4, top + side // 2), name, fill="black")
        for column, picture in enumerate(drawn[:10]):
            canvas.paste(Image.fromarray(picture), (margin + column * (side + gap), top))
    canvas.save(path)


if __name__ == "__main__":
    main()
