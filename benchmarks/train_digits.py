"""Trains the demo's model and writes it as a source repo: `nice -n 19 python -m benchmarks.train_digits`.

Stages on the CPU, each resumed where it stopped (state in build/digits, which git ignores): the autoencoder on
rendered digits; their latents; the text encoder on telling captions apart; the UNet on noised latents. Every step draws
from a generator seeded by its own number, so that a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import linalg

from benchmarks import digits_data, digits_networks, digits_source, digits_tokenizer

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "digits"
SOURCE = ROOT / "hubpub" / "demo_source"

VAE_STEPS, VAE_BATCH, VAE_RATE = 1500, 16, 3e-3
VAE_WHOLE_STEPS = 200  # the last ones see whole pictures, the others crops of a quarter of the area
KL_WEIGHT = 1e-4
# What a latent is worth beside the noise. Digits are smooth, so that their coarse structure shows through noise that
# hides a photograph; latents of unit size would never be pure noise, not even at the last timestep.
LATENT_STD = 0.3
TEXT_STEPS, TEXT_BATCH, TEXT_RATE = 200, 32, 2e-3
UNET_STEPS, UNET_BATCH, UNET_RATE = 2000, 16, 1.2e-3
TOP_ATTENTION_SHARE = 0.15  # the last part of the steps trains with self-attention at 32×32
UNCONDITIONAL_SHARE = 0.1
EMA = 0.995


def main() -> None:
    """Train what is not trained yet, then write the source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=SOURCE, help="folder of the source repo to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unet-steps", type=int, default=UNET_STEPS, help="0 writes what the checkpoint holds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    vae = train_vae(args.work / "vae.pt", seed=args.seed)
    latents, labels = encode_digits(args.work / "latents.pt", vae)
    digits_tokenizer.write(args.work / "tokenizer", digits_source.corpus())
    tokens = _tokens(args.work / "tokenizer")
    text_encoder = train_text_encoder(args.work / "text_encoder.pt", tokens, seed=args.seed)
    with torch.no_grad():
        words = torch.stack([text_encoder(row)[0] for row in tokens])
    unet = train_unet(args.work / "unet.pt", latents, labels, words, steps=args.unet_steps, seed=args.seed)
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
        set_rate(optimizer, step, VAE_STEPS, warm_up=100)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=random)
        mse = F.mse_loss(vae.decode(posterior.mean + posterior.std * noise).sample, x)
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        descend(optimizer, mse + KL_WEIGHT * divergence, vae.parameters())
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
def encode_digits(cache: Path, vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled latents (n, 4, 32, 32) of the digits to train on, rendered straight, and the labels (n,)."""
    if cache.is_file():
        saved = torch.load(cache)
        return saved["latents"], saved["labels"]
    digits = digits_data.load()
    signal = _to_signal(digits_data.render(digits.train_cells))
    latents = torch.cat([vae.encode(x).latent_dist.mean * vae.config.scaling_factor for x in signal.split(32)])
    labels = torch.from_numpy(digits.train_labels)
    torch.save({"latents": latents, "labels": labels}, cache)
    return latents, labels


def train_text_encoder(checkpoint: Path, tokens: torch.Tensor, *, seed: int) -> Any:
    """The text encoder, trained to answer each digit's captions, wherever they have ended, by that digit's own code.

    The codes are rows of a Hadamard matrix, the last one for the empty prompt: as far apart as can be, and of the size
    that the final normalization gives. The UNet then hears in the text what it needs from its first step on.
    """
    torch.manual_seed(seed)
    encoder = digits_networks.text_encoder(int(tokens.max()) + 1)
    if checkpoint.is_file():
        encoder.load_state_dict(torch.load(checkpoint))
        return encoder.eval()
    codes = codes_of_all(digits_networks.TEXT_WIDTH)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=TEXT_RATE, weight_decay=1e-3)
    for step in range(TEXT_STEPS):
        random = torch.Generator().manual_seed(seed * 1_000_000 + 900_000 + step)
        labels = torch.randint(11, (TEXT_BATCH,), generator=random)
        ids = tokens[labels, torch.randint(tokens.shape[1], (TEXT_BATCH,), generator=random)]
        error = (encoder(ids)[0] - codes[labels][:, None]).square().mean(dim=-1)
        loss = error[ids == ids.max()].mean()
        set_rate(optimizer, step, TEXT_STEPS)
        descend(optimizer, loss, encoder.parameters())
        if (step + 1) % 50 == 0:
            print(f"text {step:5d}  {loss.item():.4f}", flush=True)
    torch.save(encoder.state_dict(), checkpoint)
    return encoder.eval()


def codes_of_all(width: int) -> torch.Tensor:
    """The code (11, width) of each digit, and in the last row that of the empty prompt."""
    return torch.from_numpy(linalg.hadamard(width)[1:12].astype(np.float32))


def train_unet(
    checkpoint: Path,
    latents: torch.Tensor,
    labels: torch.Tensor,
    words: torch.Tensor,
    *,
    steps: int,
    seed: int,
    unet: Any = None,
) -> Any:
    """The UNet (the demo's, if none is given), averaged over the last of `steps`; trains on from the checkpoint.

    `words` (11, captions, 77, width) is what the text encoder answers to each digit's captions, the last row to none.
    """
    torch.manual_seed(seed)
    own = unet is None
    if unet is None:
        unet = digits_networks.unet()
        digits_networks.start_from_identity(unet)
        digits_networks.silence_top_attention(unet)
    unet.to(memory_format=torch.channels_last)
    average = copy.deepcopy(unet).requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=UNET_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    state = {"unet": unet, "average": average, "optimizer": optimizer}
    start = _resume(checkpoint, state)
    alphas = digits_networks.scheduler().alphas_cumprod
    clock = _Clock()
    for step in range(start, steps):
        random = torch.Generator().manual_seed(seed * 1_000_000 + 500_000 + step)
        if own:
            digits_networks.set_top_attention(unet, on=step >= steps * (1 - TOP_ATTENTION_SHARE))
        chosen = torch.randint(len(latents), (UNET_BATCH,), generator=random)
        # One timestep in each equal part of the schedule: less spread between batches than drawing freely.
        t = ((torch.arange(UNET_BATCH) + torch.rand(UNET_BATCH, generator=random)) * (1000 / UNET_BATCH)).long()
        alpha = alphas[t][:, None, None, None]
        noise = torch.randn(UNET_BATCH, *latents.shape[1:], generator=random)
        noised = alpha.sqrt() * latents[chosen] + (1 - alpha).sqrt() * noise
        asked = torch.where(torch.rand(UNET_BATCH, generator=random) < UNCONDITIONAL_SHARE, 10, labels[chosen])
        heard = words[asked, torch.randint(words.shape[1], (UNET_BATCH,), generator=random)]
        wanted = _expected_noise(noised, alpha, asked, latents, labels)
        noised = noised.contiguous(memory_format=torch.channels_last)
        error = unet(noised, t, heard, return_dict=False)[0] - wanted
        loss = _loss(error, alpha)
        set_rate(optimizer, step, steps)
        descend(optimizer, loss, unet.parameters())
        _follow(average, unet, min(EMA, (1 + step) / (10 + step)))
        if clock.due(step):
            quarters = " ".join(f"{part.square().mean().item():.4f}" for part in error.detach().chunk(4))
            print(f"unet {step:5d}  {loss.item():.4f}  mse by noise {quarters}  {clock.rate():.2f} s/step", flush=True)
            _save(checkpoint, step + 1, state)
    if start < steps:
        _save(checkpoint, steps, state)
    return average.eval()


def _expected_noise(
    noised: torch.Tensor, alpha: torch.Tensor, asked: torch.Tensor, latents: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The mean of all noise that may be in `noised` (n, 4, h, w), given what was asked for (10: anything).

    It is what a network that is trained on the noise itself learns in the end. With so few digits it can be computed,
    and learning from it takes far fewer steps (Y. Xu et al., "Stable Target Field", 2023).
    """
    scale, variance = alpha.flatten(1).sqrt(), 1 - alpha.flatten(1)
    known = latents.flatten(1)
    likely = (scale * (noised.flatten(1) @ known.T) - 0.5 * scale**2 * known.square().sum(dim=1)) / variance
    possible = (asked[:, None] == 10) | (asked[:, None] == labels)
    share = likely.masked_fill(~possible, -torch.inf).softmax(dim=1)
    return (noised - alpha.sqrt() * (share @ known).view_as(noised)) / (1 - alpha).sqrt()


def _loss(error: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Squared error of the noise, weighed so that what makes a digit is learned first; the best prediction is the same.

    At high noise an error of the noise is a larger error of the picture, by 1/alpha, which counts up to 20 (as in
    predicting velocity: T. Salimans and J. Ho, 2022). Errors averaged over squares of 2, 4 and 8 count beside those of
    single places (E. Hoogeboom et al., "simple diffusion", 2023), for digits are coarse.
    """
    weight = (1 / alpha).clamp(max=20)
    scales = [(weight * (k * F.avg_pool2d(error, k)).square()).mean() for k in (1, 2, 4, 8)]
    return torch.stack(scales).mean()


def _tokens(folder: Path) -> torch.Tensor:
    """Token ids (11, captions, 77): the captions of each digit, and in the last row nothing but empty prompts."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    rows = captions_of_all()
    return torch.stack([tokenizer(list(row), padding="max_length", return_tensors="pt").input_ids for row in rows])


def captions_of_all() -> list[tuple[str, ...]]:
    """The captions of each digit, and in the last row nothing but empty prompts."""
    texts = [digits_data.captions(digit) for digit in range(10)]
    return [*texts, ("",) * len(texts[0])]


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


def set_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, *, warm_up: int = 50) -> None:
    """A short warm-up, then half a cosine down to a fiftieth."""
    factor = min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    for group in optimizer.param_groups:
        group["lr"] = optimizer.defaults["lr"] * factor


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: Iterable[torch.nn.Parameter]) -> None:
    """One step, its gradient cut to length 1."""
    if not loss.isfinite():
        message = "the loss is not finite"
        raise FloatingPointError(message)
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
