"""Does the demo's model draw what it is asked for? A classifier of real digits reads its pictures.

`python -m benchmarks.digits_eval SOURCE` draws with diffusers and prints the share of pictures that are read as the
digit that was asked for. digits_quality.py judges converted models by the same eye.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import digits_data

STEPS, GUIDANCE = 20, 3.0
# Asked for in turn, each for all ten digits.
JUDGED = (("a handwritten {n}", False), ("the digit {n}", True), ("{n}", False), ("{a} {n} in black ink", False))


def prompts(count: int) -> tuple[list[str], digits_data.Labels]:
    """Prompts, all ten digits in turn, and the digits."""
    digits = np.arange(count) % 10
    asked = [JUDGED[i // 10 % len(JUDGED)] for i in range(count)]
    texts = [digits_data.caption(int(d), text, figure=figure) for d, (text, figure) in zip(digits, asked, strict=True)]
    return texts, digits


def classifier() -> tuple[Any, float]:
    """A support vector machine trained on real digits, rendered straight and turned; and its share of right answers on
    the held-out ones."""
    from sklearn.svm import SVC

    digits = digits_data.load()
    random = np.random.default_rng(0)
    real = [digits_data.render(digits.train_cells), *(digits_data.render(digits.train_cells, random) for _ in range(2))]
    judge = SVC(C=10).fit(digits_data.features(np.concatenate(real)), np.tile(digits.train_labels, len(real)))
    held_out = digits_data.features(digits_data.render(digits.test_cells, random))
    return judge, float(judge.score(held_out, digits.test_labels))


def load_pipeline(source: Path) -> Any:
    """The source as diffusers loads it: stored in fp16, computed in fp32."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(source, use_safetensors=True, low_cpu_mem_usage=False)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.float()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_with_pipeline(
    pipeline: Any, texts: Sequence[str], *, seed: int, steps: int = STEPS, guidance: float = GUIDANCE, batch: int = 25
) -> digits_data.Pictures:
    """RGB pictures (n, 128, 128, 3); picture i starts from the noise of `seed` + i, whatever the batch."""
    import torch

    pictures = []
    for start in range(0, len(texts), batch):
        part = list(texts[start : start + batch])
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        made = pipeline(
            part, generator=noise, num_inference_steps=steps, guidance_scale=guidance, output_type="np"
        ).images
        pictures.append(np.rint(made * 255).astype(np.uint8))
    return np.concatenate(pictures)


def accuracy(judge: Any, pictures: digits_data.Pictures, asked: digits_data.Labels) -> tuple[float, digits_data.Labels]:
    """The share of pictures that are read as what was asked for, and what was read."""
    read = judge.predict(digits_data.features(pictures))
    return float((read == asked).mean()), read


def write_sheet(path: Path, pictures: digits_data.Pictures, texts: Sequence[str], read: digits_data.Labels) -> None:
    """A contact sheet, ten pictures a row, each over its prompt and what the classifier read."""
    from PIL import Image, ImageDraw

    side, label = digits_data.IMAGE_SIZE, 26
    rows = -(-len(pictures) // 10)
    sheet = Image.new("RGB", (10 * (side + 8), rows * (side + label + 4)), "lightgrey")
    pen = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        x, y = index % 10 * (side + 8) + 4, index // 10 * (side + label + 4) + 2
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text((x, y + side), f"{texts[index]}\nread: {read[index]}", fill="black")
    sheet.save(path)


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="write the first 50 pictures, labelled")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    judge, real = classifier()
    texts, asked = prompts(args.pictures)
    start = time.monotonic()
    pictures = draw_with_pipeline(
        load_pipeline(args.source), texts, seed=args.seed, steps=args.steps, guidance=args.guidance
    )
    seconds = time.monotonic() - start
    share, read = accuracy(judge, pictures, asked)
    by_digit = {str(digit): round(float((read[asked == digit] == digit).mean()), 3) for digit in range(10)}
    print(
        json.dumps(
            {
                "pictures": args.pictures,
                "steps": args.steps,
                "guidance": args.guidance,
                "read_right": round(share, 4),
                "by_digit": by_digit,
                "classifier_on_held_out_real_digits": round(real, 4),
                "seconds_per_picture": round(seconds / args.pictures, 3),
            },
            indent=2,
        )
    )
    if args.sheet:
        write_sheet(args.sheet, pictures[:50], texts[:50], read[:50])


if __name__ == "__main__":
    main()
