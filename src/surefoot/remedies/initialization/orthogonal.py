"""Orthogonal initialisation: no direction is stretched more than another."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import nn

from surefoot.layers import Kind, kind_of
from surefoot.remedies.initialization.drawn import orthogonal, outward, redraw
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.treatment import Treatment

_RECURRENT = re.compile(r"weight_hh(_l\d+(_reverse)?)?")


def draw_orthogonal(weight: torch.Tensor, gain: float, module: nn.Module) -> None:
    """Fill a weight with gain * Q, Q orthogonal as a matrix [out, rest], a group at a time."""
    for part in weight.chunk(int(getattr(module, "groups", 1))):
        view = outward(module, part)
        view.copy_(gain * orthogonal(view.shape[0], view[0].numel()).reshape(view.shape))


def _recurrent(subject: Subject, target: str | None) -> Iterator[tuple[nn.Parameter, int]]:
    """(matrix from state to state, its rows a gate) of the recurrent modules that are named."""
    for _, module in subject.modules(target):
        if kind_of(module) is not Kind.RECURRENT:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if _RECURRENT.fullmatch(name) and parameter.requires_grad:
                yield parameter, int(module.hidden_size)  # pyrefly: ignore


class Orthogonal(Treatment):
    """Weights g Q with an orthogonal Q; of recurrent modules the state's matrices, gate by gate."""

    name = "init.orthogonal"
    why = "makes every direction of a signal and of a gradient survive alike"
    guarantee = (
        "all singular values of a weight, flattened to [out, rest] (a group at a time), are the "
        "gain of what feeds the layer; those of each gate's block of a recurrent matrix are one, "
        "and its input weights and biases stay"
    )
    formula = "W = g Q, Q Q^T = 1 (or Q^T Q = 1), b = 0; W_hh = [Q_1; Q_2; ...], a block a gate"
    source = "Saxe et al. 2014, section 3; recurrent: Le et al. 2015; Henaff et al. 2016"
    limits = (
        "ReLU switches half of the units off, so that the net as a whole is no isometry: at a "
        "hundred layers without skip connections it trains half-way only",
        "the gates of an LSTM or a GRU scale the state as well, whatever the matrices are",
        "in a layer with fewer inputs than outputs the signal's mean square falls by fan_in / "
        "fan_out",
        "with batch normalisation, which undoes the scale of the weights",
    )
    cost = "one QR decomposition a layer, once"

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew."""
        states = list(_recurrent(subject, self.target))
        with subject.drawing(), torch.no_grad():
            for weight, rows in states:
                for block in subject.keep(weight).detach().split(rows):
                    block.copy_(orthogonal(*block.shape))
        try:
            redraw(subject, self.target, draw_orthogonal)
        except NotApplicable:
            if not states:
                raise

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "nn.init.orthogonal_(layer.weight, gain=nn.init.calculate_gain('relu'))\n"
            "nn.init.zeros_(layer.bias)\n"
            "# of a recurrent module, gate by gate:\n"
            "for gate in rnn.weight_hh_l0.data.split(rnn.hidden_size):\n"
            "    nn.init.orthogonal_(gate)"
        )
