"""What initialisations share: which layers, their fans, and drawing without touching the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from surefoot.layers import kind_of, unwrap
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.theory.expectation import signal_growth, slope_growth

Draw = Callable[[torch.Tensor, float, nn.Module], None]  # (weight, gain, module)
GainOf = Callable[[str | None], float]  # of the function that feeds a layer
Fed = tuple[str, nn.Module, str | None]  # (name, layer, the function that feeds it)


def gain_of(function: str | None) -> float:
    """1 / sqrt(E[phi(z)^2]), z ~ N(0, 1): what keeps the variance at one behind an activation.

    1 where nothing, or what is not known, feeds the layer. Source: He et al. 2015, equation 10.

    >>> round(gain_of("relu"), 4), gain_of(None)
    (1.4142, 1.0)
    """
    growth = signal_growth(function, 1.0) if function is not None else None
    return 1.0 if growth is None else 10.0**-growth


def backward_gain_of(function: str | None) -> float:
    """1 / sqrt(E[phi'(z)^2]), z ~ N(0, 1): what keeps the gradient's scale through an activation.

    1 where nothing, or what is not known, feeds the layer. Source: He et al. 2015, equation 14.

    >>> round(backward_gain_of("tanh"), 4)
    1.4674
    """
    growth = slope_growth(function, 1.0) if function is not None else None
    return 1.0 if growth is None else 10.0**-growth


def redraw(subject: Subject, target: str | None, draw: Draw, gain: GainOf = gain_of) -> None:
    """Draw the weights of all layers that a target names, and set their biases to zero.

    Raises NotApplicable where it names none.
    """
    layers = trained(layers_with(subject, target), target)
    with subject.drawing(), torch.no_grad():
        for _, module, function in layers:
            draw(subject.keep(matrix(module)), gain(function), module)
            clear_bias(subject, module)


def trained(layers: Sequence[Fed], target: str | None) -> list[Fed]:
    """The layers whose weights are trained: what is frozen was frozen for a reason.

    Raises NotApplicable where there is none.
    """
    if not layers:
        raise NotApplicable(f"no linear or convolution layer is called {target!r}")
    kept = [fed for fed in layers if matrix(fed[1]).requires_grad and not is_lazy(matrix(fed[1]))]
    if not kept:
        raise NotApplicable(f"all weights of {target!r} are frozen")
    return kept


def matrix(module: nn.Module) -> nn.Parameter:
    """The weight of an affine layer."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def clear_bias(subject: Subject, module: nn.Module, name: str = "bias") -> None:
    """Set a layer's bias to zero, where it has one that is trained."""
    bias = getattr(module, name, None)
    if isinstance(bias, nn.Parameter) and bias.requires_grad:
        with torch.no_grad():
            subject.keep(bias).zero_()


def orthogonal(rows: int, columns: int) -> torch.Tensor:
    """A random matrix [rows, columns] of float64 whose singular values are all one.

    The sign of R's diagonal makes the draw uniform (Haar). Source: Mezzadri 2007, section 5.

    >>> q = orthogonal(3, 5)
    >>> bool(torch.allclose(q @ q.T, torch.eye(3, dtype=q.dtype)))
    True
    """
    tall = torch.randn(max(rows, columns), min(rows, columns), dtype=torch.float64)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()
    return q if rows >= columns else q.T


def outward(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A view of a weight as [out, in, ...]; some layers keep theirs the other way round."""
    return weight.transpose(0, 1) if turned(module) else weight


def turned(module: nn.Module) -> bool:
    """Whether a layer keeps its weight as [in, out, ...]."""
    return type(module).__name__ == "Conv1D" or bool(getattr(module, "transposed", False))


def fans(module: nn.Module) -> tuple[int, int]:
    """(fan in, fan out) of an affine layer, as `torch.nn.init` counts them.

    transformers' Conv1D keeps its matrix transposed.
    """
    weight = unwrap(module).weight
    assert isinstance(weight, torch.Tensor) and kind_of(module).weighted
    field = math.prod(weight.shape[2:])
    out, into = weight.shape[0] * field, weight.shape[1] * field
    return (out, into) if type(module).__name__ == "Conv1D" else (into, out)
