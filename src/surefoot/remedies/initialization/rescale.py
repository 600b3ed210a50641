"""Weights brought to a sound size, and left as they are otherwise."""

from __future__ import annotations

import statistics

import torch
from torch import nn

from surefoot.layers import Kind, kind_of
from surefoot.remedies.initialization.drawn import fans, gain_of
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.remedies.treatment import Treatment


class Rescale(Treatment):
    """Each matrix is multiplied by one number; what it was drawn as, or has learned, is kept.

    Without a target every layer gets the gain of the activation that feeds it. One layer on its own
    gets the gain that the others have, in the median: they may be as PyTorch drew them. The
    matrices of a recurrent layer get the size that PyTorch gives them.
    """

    name = "init.rescale"
    why = "the size of the weights is what is wrong with them, and nothing else of them is changed"
    guarantee = "rms(W) sqrt(fan_in) is the gain of the activation, or that of the other layers"
    formula = "W <- W g / (rms(W) sqrt(fan_in)); recurrent: rms(W) = 1 / sqrt(3 hidden)"
    source = "He et al. 2015, equation 10, for the size; it is Weight Standardisation without means"
    limits = (
        "where the weights are all zero, or all alike: there is nothing to rescale",
        "beyond some thirty layers without skip connections",
        "with batch normalisation, which undoes the scale of the weights",
    )

    def apply(self, subject: Subject) -> None:
        """Rescale. Raises NotApplicable where no weight changes by a tenth."""
        layers = layers_with(subject, self.target)
        scales = {m: (_gain(m), gain_of(fed_by)) for _, m, fed_by in layers}
        if self.target is not None and len(layers) < 3:
            named = {id(m) for _, m, _ in layers}
            others = [_gain(m) for _, m in subject.weighted() if id(m) not in named]
            usual = statistics.median(others) if others else None
            scales = {m: (has, usual or wanted) for m, (has, wanted) in scales.items()}
        changes = [(_matrix(m), wanted / has) for m, (has, wanted) in scales.items() if has > 0]
        changes += _recurrent(subject, self.target)
        changes = [(w, factor) for w, factor in changes if w.requires_grad]
        changes = [(w, factor) for w, factor in changes if abs(factor - 1) > 0.1]
        if not changes:
            raise NotApplicable("the weights have that size already, or there are none")
        with torch.no_grad():
            for weight, factor in changes:
                subject.keep(weight).mul_(factor)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "with torch.no_grad():\n"
            "    layer.weight *= 2**0.5 / (layer.weight.std() * layer.weight[0].numel()**0.5)\n"
            "    # of a recurrent module:\n"
            "    for weight in (rnn.weight_ih_l0, rnn.weight_hh_l0):\n"
            "        weight *= (3 * rnn.hidden_size)**-0.5 / weight.std()"
        )


def _rms(weight: torch.Tensor) -> float:
    value = float(weight.detach().double().square().mean().sqrt())
    return value if value == value and value < float("inf") else 0.0


def _gain(module: nn.Module) -> float:
    """rms(W) sqrt(fan_in): by how much the matrix scales a signal of independent parts."""
    return _rms(_matrix(module)) * fans(module)[0] ** 0.5


def _matrix(module: nn.Module) -> nn.Parameter:
    """An affine layer's matrix."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _recurrent(subject: Subject, target: str | None) -> list[tuple[nn.Parameter, float]]:
    """(matrix, factor) of the recurrent layers below a target."""
    found = []
    for _, module in subject.modules(target):
        if kind_of(module) is Kind.RECURRENT:
            hidden = int(getattr(module, "hidden_size", 0)) or 1
            for name, weight in module.named_parameters(recurse=False):
                if "weight" in name and (has := _rms(weight)) > 0:
                    found.append((weight, (3 * hidden) ** -0.5 / has))
    return found
