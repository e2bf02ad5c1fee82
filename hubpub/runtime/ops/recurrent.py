"""Recurrent layers.

Reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
(each function names its anchor there). x is [s, b, I]. All return the hidden states of every
step (output_sequence) or of the last one, and the last state. Up to iOS 16, fp32 only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from hubpub.runtime.ops.table import Table, Tensor, Tensors, wide

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "sigmoid_hard": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "scaled_tanh": torch.tanh,  # both factors are 1; no input sets them
}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in _ACTIVATIONS:
        raise ValueError(f"there is no activation {name!r}")
    return _ACTIVATIONS[name]


def _steps(x: Tensor, direction: str) -> Iterator[Tensor]:
    if direction not in ("forward", "reverse"):
        raise ValueError(f"there is no direction {direction!r}")
    return iter(x if direction == "forward" else x.flip(0))


def _sequence(states: list[Tensor], *, whole: bool) -> Tensor:
    return torch.stack(states if whole else states[-1:])


def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> Tensors:
    """h = activation(W_ih·x + W_hh·h + bias). iOS 15, 17. Reference: iOS15.recurrent.rnn"""
    act, h, states = _activation(activation), initial_h, []
    for step in _steps(x, direction):
        h = act(F.linear(step, weight_ih, bias) + F.linear(h, weight_hh))
        states.append(h)
    return _sequence(states, whole=output_sequence), h


def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> Tensors:
    """Gates in the order reset, output, update: h = (1 - z)·o + z·h.

    The reset gate multiplies h before the recurrent product, or, with reset_after (iOS 18), that product and its
    bias; input_bias (iOS 18) is added to the input's product. iOS 15, 17, 18. Reference: iOS18.recurrent.gru
    """
    gate, act = _activation(recurrent_activation), _activation(activation)
    hidden = initial_h.shape[-1]
    w_r, w_o, w_z = weight_hh.split(hidden)
    b_r, b_o, b_z = (bias if bias is not None else weight_hh.new_zeros(3 * hidden)).split(hidden)
    h, states = initial_h, []
    for step in _steps(x, direction):
        i_r, i_o, i_z = F.linear(step, weight_ih, input_bias).split(hidden, -1)
        r = gate(i_r + F.linear(h, w_r, b_r))
        z = gate(i_z + F.linear(h, w_z, b_z))
        inner = r * F.linear(h, w_o, b_o) if reset_after else F.linear(r * h, w_o, b_o)
        h = (1 - z) * act(i_o + inner) + z * h
        states.append(h)
    return _sequence(states, whole=output_sequence), h


def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> Tensors:
    """Gates in the order input, forget, output, cell: c = f·c + i·z, within ±clip; h = o·activation(c).

    Bidirectional: initial states [b, 2H] hold the forward half first, and so do the results. peephole [3H]
    adds p·c to the gates (input, forget: the old c; output: the new). iOS 15, 17. Reference: iOS15.recurrent.lstm
    """
    gates = (_activation(recurrent_activation), _activation(cell_activation), _activation(activation))
    if direction != "bidirectional":
        weights = (weight_ih, weight_hh, bias, peephole)
        states, h, c = _lstm(_steps(x, direction), initial_h, initial_c, weights, gates, clip)
        return _sequence(states, whole=output_sequence), h, c
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
    (h0, h1), (c0, c1) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    ahead, h0, c0 = _lstm(_steps(x, "forward"), h0, c0, (weight_ih, weight_hh, bias, peephole), gates, clip)
    back_weights = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    back, h1, c1 = _lstm(_steps(x, "reverse"), h1, c1, back_weights, gates, clip)
    h = torch.cat((h0, h1), -1)
    whole = torch.cat((torch.stack(ahead), torch.stack(back[::-1])), -1)
    return whole if output_sequence else h[None], h, torch.cat((c0, c1), -1)


def _lstm(
    steps: Iterator[Tensor],
    h: Tensor,
    c: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    activations: tuple[Callable[[Tensor], Tensor], ...],
    clip: float | None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """One direction: the hidden state of every step, the last hidden and cell state."""
    weight_ih, weight_hh, bias, peephole = weights
    gate, cell, act = activations
    hidden = h.shape[-1]
    p_i, p_f, p_o = peephole.split(hidden) if peephole is not None else (0, 0, 0)
    states = []
    for step in steps:
        i, f, o, z = (F.linear(step, weight_ih, bias) + F.linear(h, weight_hh)).split(hidden, -1)
        c = gate(f + p_f * c) * c + gate(i + p_i * c) * cell(z)
        if clip is not None:
            c = c.clamp(-clip, clip)
        h = gate(o + p_o * c) * act(c)
        states.append(h)
    return states, h, c


OPS: Table = {
    "gru": wide(gru),
    "lstm": wide(lstm),
    "rnn": wide(rnn),
}
