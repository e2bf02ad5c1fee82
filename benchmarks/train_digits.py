"""Trains the demo's model and writes it as a source repo: `nice -n 19 python -m benchmarks.train_digits`.

Three stages on the CPU, each resumed where it stopped (state in build/digits, which git ignores): the autoencoder on
rendered digits; their latents; the UNet and the text encoder together on noised latents. Every step draws from a
generator seeded by its own number, so that a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import digits_data, digits_networks, digits_source, digits_tokenizer

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "digits"
SOURCE = ROOT / "hubpub" / "demo_source"

VAE_STEPS, VAE_BATCH, VAE_RATE = 1500, 16, 3e-3
VAE_WHOLE_STEPS = 200  # the last ones see whole pictures, the others crops of a quarter of the area
KL_WEIGHT = 1e-4
AUGMENTATIONS = 6
# What a latent is worth beside the noise. Digits are smooth, so that their coarse structure shows through noise that
# hides a photograph; latents of unit size would never be pure noise, not even at the last timestep.
LATENT_STD = 0.3
UNET_STEPS, UNET_BATCH, UNET_RATE = 4000, 16, 1.5e-3
TOP_ATTENTION_SHARE = 0.2  # the last part of the steps trains with self-attention at 32×32
UNCONDITIONAL_SHARE = 0.1
EMA = 0.998


def main() -> None:
    """Train what is not trained yet, then write the source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=SOURCE, help="folder of the source repo to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unet-steps", type=int, default=UNET_STEPS)
    parser.add_argument("--export-only", action="store_true", help="write the source from the newest checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    vae = train_vae(args.work / "vae.pt", seed=args.seed)
    latents, labels = encode_digits(args.work / "latents.pt", vae, seed=args.seed)
    vocabulary = digits_tokenizer.write(args.work / "tokenizer", digits_source.corpus())
    unet, text_encoder = train_unet(
        args.work / "unet.pt",
        latents,
        labels,
        vocabulary,
        steps=args.unet_steps,
        seed=args.seed,
        go_on=not args.export_only,
    )
    size = digits_source.write(args.out, vae=vae, unet=unet, text_encoder=text_encoder)
    print(f"{args.out}: {size:,} bytes")


def train_vae(checkpoint: Path, *, seed: int) -> Any:
    """The autoencoder, its latents scaled so that SCALING_FACTOR brings them to LATENT_STD."""
    torch.manual_seed(seed)
    vae = digits_networks.vae()
    if checkpoint.is_file() and (saved := torch.load(checkpoint))["done"]:
        vae.load_state_dict(saved["vae"])
        return vae.eval()
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    start = _resume(checkpoint, {"vae": vae, "optimizer": optimizer})
    digits = digits_data.load()
    pictures = _to_signal(digits_data.render(digits.train_cells, np.random.default_rng(seed)))
    clock = _Clock()
    for step in range(start, VAE_STEPS):
        random = torch.Generator().manual_seed(seed * 1_000_000 + step)
        whole = step >= VAE_STEPS - VAE_WHOLE_STEPS
        x = _crops(pictures, 128 if whole else 64, VAE_BATCH // 2 if whole else VAE_BATCH, random)
        _set_rate(optimizer, VAE_RATE, step, VAE_STEPS)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random)
        mse = F.mse_loss(vae.decode(posterior.mean + posterior.std * noise).sample, x)
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        _descend(optimizer, mse + KL_WEIGHT * divergence, vae.parameters())
        if clock.due(step):
            print(
                f"vae {step:5d}  mse {mse.item():.5f}  kl {divergence.item():.3f}  {clock.rate():.2f} s/step",
                flush=True,
            )
            _save(checkpoint, step + 1, {"vae": vae, "optimizer": optimizer})
    _scale_latents(vae.eval(), pictures[:256])
    _save(checkpoint, VAE_STEPS, {"vae": vae, "optimizer": optimizer}, done=True)
    return vae


@torch.no_grad()
def _scale_latents(vae: Any, pictures: torch.Tensor) -> None:
    """Centre each latent channel and bring all to LATENT_STD / SCALING_FACTOR, inside the two 1×1 convolutions."""
    z = torch.cat([vae.encode(x).latent_dist.mean for x in pictures.split(16)])
    centre = z.mean(dim=(0, 2, 3))
    gain = LATENT_STD / digits_networks.SCALING_FACTOR / (z - centre[None, :, None, None]).square().mean().sqrt()
    channels = digits_networks.LATENT_CHANNELS
    inward, outward = vae.quant_conv, vae.post_quant_conv
    inward.weight[:channels] *= gain
    inward.bias[:channels] = (inward.bias[:channels] - centre) * gain
    inward.bias[channels:] += 2 * gain.log()
    outward.bias += outward.weight[:, :, 0, 0] @ centre
    outward.weight /= gain


@torch.no_grad()
def encode_digits(cache: Path, vae: Any, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents (n, 4, 32, 32) float16 of AUGMENTATIONS renderings of each digit, and the labels (n,)."""
    if cache.is_file():
        saved = torch.load(cache)
        return saved["latents"], saved["labels"]
    digits = digits_data.load()
    random = np.random.default_rng(seed + 1)
    parts = []
    for _ in range(AUGMENTATIONS):
        signal = _to_signal(digits_data.render(digits.train_cells, random))
        parts += [vae.encode(x).latent_dist.mean * vae.config.scaling_factor for x in signal.split(32)]
    latents = torch.cat(parts).half()
    labels = torch.from_numpy(digits.train_labels).repeat(AUGMENTATIONS)
    torch.save({"latents": latents, "labels": labels}, cache)
    return latents, labels


def train_unet(
    checkpoint: Path,
    latents: torch.Tensor,
    labels: torch.Tensor,
    vocabulary: int,
    *,
    steps: int,
    seed: int,
    go_on: bool,
) -> tuple[Any, Any]:
    """The UNet and the text encoder, averaged over their last steps."""
    torch.manual_seed(seed)
    model = torch.nn.ModuleDict(
        {"unet": digits_networks.unet(), "text_encoder": digits_networks.text_encoder(vocabulary)}
    )
    digits_networks.silence_top_attention(model["unet"])
    average = copy.deepcopy(model).requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=UNET_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    start = _resume(checkpoint, {"model": model, "average": average, "optimizer": optimizer})
    tokens = _tokens(checkpoint.parent / "tokenizer")
    alphas = digits_networks.scheduler().alphas_cumprod
    clock = _Clock()
    for step in range(start, steps if go_on else start):
        random = torch.Generator().manual_seed(seed * 1_000_000 + 500_000 + step)
        digits_networks.set_top_attention(model["unet"], on=step >= steps * (1 - TOP_ATTENTION_SHARE))
        _set_rate(optimizer, UNET_RATE, step, steps)
        chosen = torch.randint(len(latents), (UNET_BATCH,), generator=random)
        # One timestep in each equal part of the schedule: less spread between batches than drawing freely.
        t = ((torch.arange(UNET_BATCH) + torch.rand(UNET_BATCH, generator=random)) * (1000 / UNET_BATCH)).long()
        noise = torch.randn(UNET_BATCH, *latents.shape[1:], generator=random)
        alpha = alphas[t][:, None, None, None]
        noised = alpha.sqrt() * latents[chosen].float() + (1 - alpha).sqrt() * noise
        words = model["text_encoder"](_captions(tokens, labels[chosen], random))[0]
        error = model["unet"](noised, t, words, return_dict=False)[0] - noise
        loss = _loss(error)
        _descend(optimizer, loss, model.parameters())
        _follow(average, model, min(EMA, (1 + step) / (10 + step)))
        if clock.due(step):
            quarters = " ".join(f"{_loss(part).item():.4f}" for part in error.detach().chunk(4))
            print(f"unet {step:5d}  {loss.item():.4f}  by noise {quarters}  {clock.rate():.2f} s/step", flush=True)
            _save(checkpoint, step + 1, {"model": model, "average": average, "optimizer": optimizer})
    if go_on:
        _save(checkpoint, steps, {"model": model, "average": average, "optimizer": optimizer}, done=True)
    return average["unet"].eval(), average["text_encoder"].eval()


def _loss(error: torch.Tensor) -> torch.Tensor:
    """Squared error, as it is and averaged over 2×2 and 4×4 (E. Hoogeboom et al., "simple diffusion", 2023).

    The best prediction is the same; but its coarse part, which makes the digit, weighs more.
    """
    return sum((k * F.avg_pool2d(error, k)).square().mean() for k in (1, 2, 4)) / 3


def _tokens(folder: Path) -> torch.Tensor:
    """Token ids (11, captions, 77): the captions of each digit, and in the last row nothing but empty prompts."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    texts = [digits_data.captions(digit) for digit in range(10)]
    texts.append(("",) * len(texts[0]))
    return torch.stack([tokenizer(list(row), padding="max_length", return_tensors="pt").input_ids for row in texts])


def _captions(tokens: torch.Tensor, labels: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A caption for each label, for some the empty one."""
    empty = torch.rand(len(labels), generator=random) < UNCONDITIONAL_SHARE
    template = torch.randint(tokens.shape[1], (len(labels),), generator=random)
    return tokens[torch.where(empty, 10, labels), template]


def _to_signal(pictures: digits_data.Pictures) -> torch.Tensor:
    """RGB (n, 3, 128, 128) in [-1, 1] of grey pictures."""
    return (torch.from_numpy(pictures)[:, None].float() / 127.5 - 1).expand(-1, 3, -1, -1)


def _crops(pictures: torch.Tensor, side: int, count: int, random: torch.Generator) -> torch.Tensor:
    """Squares cut at random places out of random pictures."""
    room = pictures.shape[-1] - side + 1
    index = torch.randint(len(pictures), (count,), generator=random).tolist()
    corners = torch.randint(room, (count, 2), generator=random).tolist()
    cut = [pictures[i, :, y : y + side, x : x + side] for i, (y, x) in zip(index, corners, strict=True)]
    return torch.stack(cut).contiguous(memory_format=torch.channels_last)


def _set_rate(optimizer: torch.optim.Optimizer, top: float, step: int, steps: int) -> None:
    """A short warm-up, then half a cosine down to a fiftieth."""
    rate = top * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: Iterator[torch.nn.Parameter]) -> None:
    if not loss.isfinite():
        raise FloatingPointError("the loss is not finite")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(parameters), 1.0)
    optimizer.step()


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def _save(path: Path, step: int, parts: dict[str, Any], *, done: bool = False) -> None:
    fresh = path.with_suffix(".new")
    torch.save({"step": step, "done": done, **{name: part.state_dict() for name, part in parts.items()}}, fresh)
    fresh.replace(path)


def _resume(path: Path, parts: dict[str, Any]) -> int:
    if not path.is_file():
        return 0
    saved = torch.load(path)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


class _Clock:
    """Seconds per step since the last report, one report every 50 steps."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._steps = 0

    def due(self, step: int) -> bool:
        self._steps += 1
        return (step + 1) % 50 == 0

    def rate(self) -> float:
        now = time.monotonic()
        rate = (now - self._since) / self._steps
        self._since, self._steps = now, 0
        return rate


if __name__ == "__main__":
    main()
