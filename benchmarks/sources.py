"""A folder, the same model as one file, and with a LoRA: converted in turns, each with an empty store.

    python benchmarks/sources.py SOURCE WORK [--rank 64]

SOURCE is a diffusers folder at true size (make_source.py). The single file and a LoRA for every attention layer of the
UNet are written first. Prints Markdown: seconds, peak memory, and the ratio to the folder; and whether the weight files
of folder and file are the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from measuring import Run, machine, run
from safetensors.numpy import save_file

from hubpub.checkpoints.weights import read_header
from tests.support.single_files import write_single

ENDS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
TURNS = 2


def main() -> None:
    """Run it all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rank", type=int, default=64)
    arguments = parser.parse_args()
    source, work = arguments.source.resolve(), arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    file, lora = work / "model.safetensors", work / "lora.safetensors"
    if not file.exists():
        write_single(source, file, metadata={"modelspec.license": "mit"})
    write_lora(source, lora, rank=arguments.rank)
    ways = {
        "folder": [str(source)],
        "single file": [str(file)],
        f"folder with a LoRA of rank {arguments.rank}": [str(source), "--lora", str(lora)],
    }
    best: dict[str, Run] = {}
    for _ in range(TURNS):
        for name, words in ways.items():
            done = convert(words, work, name.partition(" ")[0] if name != "folder" else "plain")
            if name not in best or done.seconds < best[name].seconds:
                best[name] = done
    print(f"{machine()}\n\n| source | seconds | ratio | peak memory |\n|---|---:|---:|---:|")
    for name, done in best.items():
        ratio = done.seconds / best["folder"].seconds
        print(f"| {name} | {done.seconds:.1f} | {ratio:.2f} | {done.peak / 1e9:.2f} GB |")
    alike = weights(work / "out-plain") == weights(work / "out-single")
    print(f"\nThe weight files of the folder and of the single file are {'the same bytes' if alike else 'DIFFERENT'}.")


def convert(words: list[str], work: Path, name: str) -> Run:
    """Convert both attentions at 6 bits, without checks, with an empty store."""
    for folder in ("store", f"out-{name}"):
        shutil.rmtree(work / folder, ignore_errors=True)
    told = ["--no-safety-checker", "--license", "mit", "--verify", "off", "--name", "me/x", "--to", "me/x"]
    environment = {"HUBPUB_CACHE": str(work / "store"), "HF_HOME": str(work / "hf")}
    arguments = ["-m", "hubpub", "convert", *words, "-o", str(work / f"out-{name}"), *told, "--json"]
    return run(arguments, folder=work, environment=environment)


def write_lora(source: Path, path: Path, *, rank: int) -> None:
    """A LoRA in PEFT's form for every attention layer of the UNet."""
    random = np.random.default_rng(0)
    arrays = {}
    for weights_file in (source / "unet").glob("*.safetensors"):
        for name, tensor in read_header(weights_file).tensors.items():
            if name.endswith(ENDS):
                module, (out, into) = name.removesuffix(".weight"), tensor.shape[:2]
                arrays[f"unet.{module}.lora_A.weight"] = random.standard_normal((rank, into), np.float32) * 0.01
                arrays[f"unet.{module}.lora_B.weight"] = random.standard_normal((out, rank), np.float32) * 0.01
    save_file({name: values.astype(np.float16) for name, values in arrays.items()}, path)


def weights(folder: Path) -> dict[str, str]:
    """sha256 of each weight file of a release."""
    found = {}
    for path in sorted(folder.rglob("weight.bin")):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


if __name__ == "__main__":
    main()
