"""The activations that are put in the place of others."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from surefoot.remedies.activation.substitution import Substitution

_SATURATING = ("sigmoid", "tanh", "hardsigmoid")
_GATES = "where a bounded value is meant: gates and outputs are left alone, but not the state of a "
_GATES += "recurrent net written by hand"


class ReLU(Substitution):
    """max(x, 0) in the place of a function that saturates."""

    name = "activation.relu"
    function = in_graph = "relu"
    module = nn.ReLU
    why = "its slope is one on half of its inputs, with the weights that belong to it"
    guarantee = (
        "with the weights drawn for it, the mean square of signal and gradient is the same at "
        "every depth, in the mean over draws"
    )
    formula = "max(x, 0), W ~ N(0, 2 / fan_in), b = 0"
    source = "Glorot, Bordes & Bengio 2011; He et al. 2015, equation 10"
    limits = (
        "beyond some thirty layers without skip connections, where gradients shatter",
        "where units die: half of them are off, and a large step turns off more",
        _GATES,
    )
    defaults: ClassVar = {"replaces": _SATURATING, "reinitialise": True}

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "nn.ReLU()   # and nn.init.kaiming_normal_(layer.weight, nonlinearity='relu'); "
            "nn.init.zeros_(layer.bias)"
        )


class GELU(Substitution):
    """x Phi(x) in the place of a function that saturates."""

    name = "activation.gelu"
    function = in_graph = "gelu"
    module = nn.GELU
    why = "its slope is near one where it is on, and it has no corner"
    guarantee = "with the weights drawn for it, a signal of variance one keeps it through a layer"
    formula = "x Phi(x), W ~ N(0, g^2 / fan_in), g = 1.5335, b = 0"
    source = "Hendrycks & Gimpel 2016; the gain: docs/thresholds.md"
    limits = (
        "at great depth without normalisation or skips: variance one is an unstable fixed point, "
        "and no fixed gain is stable",
        _GATES,
    )
    defaults: ClassVar = {"replaces": _SATURATING, "reinitialise": True}

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "nn.GELU()   # and nn.init.normal_(layer.weight, std=1.5335 * layer.in_features**-0.5)"
        )


class SELU(Substitution):
    """The scaled exponential unit, to which mean 0 and variance 1 are an attractor."""

    name = "activation.selu"
    function = "selu"
    module = nn.SELU
    in_graph = "elu"
    why = "it pulls the signal to mean zero and variance one"
    guarantee = "mean 0 and variance 1 are a stable fixed point of the signal"
    formula = "1.0507 (x if x > 0 else 1.6733 (exp(x) - 1)), W ~ N(0, 1 / fan_in), b = 0"
    source = "Klambauer et al. 2017, theorem 1"
    limits = (
        "against slow growth of the gradient: 1.036 a layer with these weights, 5.9 over fifty",
        "with dropout that is not alpha dropout, which moves the mean",
        _GATES,
    )
    defaults: ClassVar = {"replaces": _SATURATING, "reinitialise": True}

    def code(self) -> str:
        """Itself as code to paste."""
        return "nn.SELU()   # and nn.init.kaiming_normal_(layer.weight, nonlinearity='linear')"


class LeakyReLU(Substitution):
    """A slope of 0.01 where ReLU has none, so that no unit dies."""

    name = "activation.leaky_relu"
    function = in_graph = "leaky_relu"
    module = nn.LeakyReLU
    why = "its slope is nowhere zero, so that no unit is dead for good"
    guarantee = "the gradient passes every unit at every input, by a factor of 0.01 at least"
    formula = "x if x > 0 else 0.01 x, W ~ N(0, g^2 / fan_in), g^2 = 2 / (1 + 0.01^2), b = 0"
    source = "Maas et al. 2013; He et al. 2015, equation 15"
    limits = (
        "against what killed the units: a learning rate that is too high does so again",
        "beyond some thirty layers without skip connections, where gradients shatter",
    )
    defaults: ClassVar = {"replaces": ("relu",), "reinitialise": True}

    def code(self) -> str:
        """Itself as code to paste."""
        return "nn.LeakyReLU()   # and nn.init.kaiming_normal_(layer.weight, a=0.01)"
