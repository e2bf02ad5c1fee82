"""Random numbers.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). The distributions are Core ML's; the random streams are
not. A seed ≥ 0 gives the same numbers at every call, but other numbers than a device; a
negative seed gives new numbers each time. torch's global generator is not used.
"""

from __future__ import annotations

import torch

from hubpub.runtime.ops.table import Ints, Table, Tensor, keep, wide


def _generator(seed: int, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if seed < 0:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def random_bernoulli(
    shape: Ints, dtype: torch.dtype, device: torch.device, prob: float = 0.5, seed: int = -1
) -> Tensor:
    """1 with probability `prob`, else 0. iOS 15. Reference: iOS15.random.random_bernoulli"""
    uniform = torch.rand(shape, generator=_generator(seed, device), device=device)
    return (uniform < prob).to(dtype)


def random_categorical(x: Tensor, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    """`size` class numbers per row of the last axis, drawn with replacement; x holds logits or probs. iOS 15.

    Reference: iOS15.random.random_categorical
    """
    weights = torch.softmax(x.float(), -1) if mode == "logits" else x.float()
    rows = weights.reshape(-1, x.shape[-1])
    drawn = torch.multinomial(rows, size, replacement=True, generator=_generator(seed, x.device))
    return drawn.reshape(*x.shape[:-1], size)


def random_normal(
    shape: Ints, dtype: torch.dtype, device: torch.device, mean: float = 0.0, stddev: float = 1.0, seed: int = -1
) -> Tensor:
    """Normal distribution with the given mean and standard deviation. iOS 15. Reference: iOS15.random.random_normal"""
    return mean + stddev * torch.randn(shape, generator=_generator(seed, device), device=device)


def random_uniform(
    shape: Ints, dtype: torch.dtype, device: torch.device, low: float = 0.0, high: float = 1.0, seed: int = -1
) -> Tensor:
    """Uniform in [low, high). iOS 15. Reference: iOS15.random.random_uniform"""
    return low + (high - low) * torch.rand(shape, generator=_generator(seed, device), device=device)


OPS: Table = {
    "random_bernoulli": keep(random_bernoulli),
    "random_categorical": wide(random_categorical),
    "random_normal": keep(random_normal),
    "random_uniform": keep(random_uniform),
}
