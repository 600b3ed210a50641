"""What initialisations share: which layers, their fans, and drawing without touching the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from surefoot.layers import kind_of, unwrap
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.theory.expectation import signal_growth

Draw = Callable[[torch.Tensor, float, nn.Module], None]  # (weight, gain, module)


def gain_of(function: str | None) -> float:
    """1 / sqrt(E[phi(z)^2]), z ~ N(0, 1): what keeps the variance at one behind an activation.

    1 where nothing, or what is not known, feeds the layer. Source: He et al. 2015, equation 10.

    >>> round(gain_of("relu"), 4), gain_of(None)
    (1.4142, 1.0)
    """
    growth = signal_growth(function, 1.0) if function is not None else None
    return 1.0 if growth is None else 10.0**-growth


def redraw(subject: Subject, target: str | None, draw: Draw) -> None:
    """Draw the weights of all layers that a target names, and set their biases to zero.

    Raises NotApplicable where it names none.
    """
    layers = layers_with(subject, target)
    if not layers:
        raise NotApplicable(f"no linear or convolution layer is called {target!r}")
    with subject.drawing(), torch.no_grad():
        for _, module, function in layers:
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            draw(subject.keep(weight), gain_of(function), module)
            if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
                subject.keep(bias).zero_()


def fans(module: nn.Module) -> tuple[int, int]:
    """(fan in, fan out) of an affine layer, as `torch.nn.init` counts them.

    transformers' Conv1D keeps its matrix transposed.
    """
    weight = unwrap(module).weight
    assert isinstance(weight, torch.Tensor) and kind_of(module).weighted
    field = math.prod(weight.shape[2:])
    out, into = weight.shape[0] * field, weight.shape[1] * field
    return (out, into) if type(module).__name__ == "Conv1D" else (into, out)
