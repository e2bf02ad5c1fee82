"""A UNet in two programs, for devices that cannot load 1.7 GB in one: the first's outputs are the second's inputs.

It is cut between two stages, where half of the weights lie. What crosses the cut has names that
say what it is, and is fp32 outside, as all outputs are; the casts lose nothing. Run one after the
other, each with those of the UNet's inputs that it names, they give exactly what the whole gives.
"""

from __future__ import annotations

from itertools import accumulate

from hubpub.networks.attention import ATTENTIONS
from hubpub.networks.scope import Scope, Size, Value
from hubpub.networks.unet import Inputs, Shape, Stage, State, UNetConfig, begin, finish, run, skip_shapes, stages

_X, _TIME, _SKIP = "hidden_states", "time_embedding", "skip_"


def unet_chunk1(at: Scope, config: UNetConfig, size: Size, attention: str) -> None:
    """The stages before the cut."""
    _first(at, config, size, attention, residuals=False)


def unet_chunk2(at: Scope, config: UNetConfig, size: Size, attention: str) -> None:
    """The stages after the cut."""
    _second(at, config, size, attention, residuals=False)


def control_unet_chunk1(at: Scope, config: UNetConfig, size: Size, attention: str) -> None:
    """The stages before the cut, of the UNet that takes ControlNets."""
    _first(at, config, size, attention, residuals=True)


def control_unet_chunk2(at: Scope, config: UNetConfig, size: Size, attention: str) -> None:
    """The stages after the cut, of the UNet that takes ControlNets."""
    _second(at, config, size, attention, residuals=True)


def _first(at: Scope, config: UNetConfig, size: Size, attention: str, *, residuals: bool) -> None:
    before, _ = halves(config, residuals=residuals)
    inputs = Inputs(at, config, size).declare(residuals="residuals" in {stage.kind for stage in before})
    state = begin(at, inputs, config)
    run(at, before, state, inputs, config, ATTENTIONS[attention])
    crossing = {_TIME: state.time} | {f"{_SKIP}{number}": skip for number, skip in enumerate(state.skips)}
    if not _is_skip(before):
        crossing[_X] = state.x
    for name, value in crossing.items():
        at.output(name, value)


def _second(at: Scope, config: UNetConfig, size: Size, attention: str, *, residuals: bool) -> None:
    inputs = Inputs(at, config, size)
    before, after = halves(config, residuals=residuals)
    skips = skip_shapes(config, size)[: _skips_left(before)]

    def crossing(name: str, shape: tuple[int, ...]) -> Value:
        return at.cast(at.input(name, shape, "fp32"), at.floats)

    time = crossing(_TIME, (size.batch, 4 * config.block_out_channels[0], 1, 1))
    values = [crossing(f"{_SKIP}{number}", shape) for number, shape in enumerate(skips)]
    x = values[-1] if _is_skip(before) else crossing(_X, _shape(before, config, size))
    state = State(x=x, time=time, skips=values)
    run(at, after, state, inputs, config, ATTENTIONS[attention])
    finish(at, state, config)


# -- the cut ---------------------------------------------------------------------------------------------------


def halves(config: UNetConfig, *, residuals: bool = False) -> tuple[list[Stage], list[Stage]]:
    """The stages before and after the cut: as near as can be to half of the weights each."""
    chosen = stages(config, residuals=residuals)
    sums = list(accumulate(_elements(stage, config) for stage in chosen))
    cut = min(range(len(chosen) - 1), key=lambda place: abs(2 * sums[place] - sums[-1])) + 1
    return chosen[:cut], chosen[cut:]


def _elements(stage: Stage, config: UNetConfig) -> int:
    """Elements of a stage's matrices and kernels."""
    widths, level, layer = config.block_out_channels, stage.level, stage.layer
    width, last = widths[level], len(widths) - 1
    match stage.kind:
        case "down":
            blocks = config.transformer_layers[level][layer] if config.down_attention[level] else None
            return _resnet(width if layer else widths[max(level - 1, 0)], width, config) + _transformer(
                width, blocks, config
            )
        case "up":
            index, lowest = last - level, layer == config.layers_per_block[level]
            blocks = config.up_transformer_layers[index][layer] if config.up_attention[index] else None
            below = width if layer else widths[min(level + 1, last)]
            skip = widths[max(level - 1, 0)] if lowest else width
            return _resnet(below + skip, width, config) + _transformer(width, blocks, config)
        case "middle":
            many = 2 if config.middle else 1
            return many * _resnet(width, width, config) + _transformer(width, config.middle or None, config)
        case "downsample" | "upsample":
            return 9 * width * width
        case "residuals":
            return 0


def _resnet(into: int, width: int, config: UNetConfig) -> int:
    shortcut = into * width if into != width else 0
    return 9 * width * (into + width) + 4 * config.block_out_channels[0] * width + shortcut


def _transformer(width: int, blocks: int | None, config: UNetConfig) -> int:
    """Two projections around the blocks; in a block two attentions and a gated feed-forward layer."""
    if blocks is None:
        return 0
    return 2 * width * width + blocks * (18 * width * width + 2 * width * config.cross_attention_dim)


def _is_skip(before: list[Stage]) -> bool:
    """Whether the value at the cut is the last skip connection, too."""
    return before[-1].kind in ("down", "downsample")


def _skips_left(before: list[Stage]) -> int:
    """How many skip connections cross the cut."""
    kinds = [stage.kind for stage in before]
    return 1 + kinds.count("down") + kinds.count("downsample") - kinds.count("up")


def _shape(before: list[Stage], config: UNetConfig, size: Size) -> Shape:
    """Of the value at the cut, in the middle or on the way up."""
    last = before[-1]
    level = last.level - 1 if last.kind == "upsample" else last.level
    if last.kind == "residuals":
        level = len(config.block_out_channels) - 1
    height, width = size.height, size.width
    for _ in range(level):
        height, width = (height + 1) // 2, (width + 1) // 2
    return size.batch, config.block_out_channels[last.level if last.kind == "upsample" else level], height, width
