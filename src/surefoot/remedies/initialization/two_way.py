"""A data-dependent rescale for both directions: the signal's scale and the gradient's slope.

Let r_l be the root mean square of layer l's output on the batch and g_l the norm of the gradient
there, of a random combination of the model's outputs. Wanted are r_l = 1 and g_l the same at all
depths. One number a layer cannot always do both, and how far it can is known: where each layer is
positively homogeneous (ReLU, linear, pooling; no biases), multiplying W_k by s multiplies r_l for
l >= k and g_l for l < k, so that the product r_l g_l changes by the same factor everywhere. Its
profile over depth cannot be changed. The scales with the least

    J = sum (ln r_l)^2 + sum (ln g_l - mean ln g)^2

give each direction half of that profile: ln r_l = ln g_l - mean ln g. Then what a layer gains
forward it loses backward: the geometric mean of the two growths is one from each layer to the next.

That the widths change is no obstacle by itself: the growth of the rms and that of the gradient's
norm (not of its rms) both have sigma_w^2 * fan_in. What remains of the profile is chance, of the
order sqrt(depth / width), and activations whose two gains differ (tanh, GELU, sigmoid).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from surefoot.remedies.initialization.drawn import clear_bias, matrix, trained
from surefoot.remedies.initialization.measured import (
    Scale,
    Shared,
    by_weight,
    level,
    scales,
    usable,
)
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.remedies.treatment import Treatment

_TRIES = 10  # for the forward direction alone, a layer
_DAMPING = 0.5  # where a layer does not pass on all of the change, whole steps overshoot


class TwoWay(Treatment):
    """Scale the weights that are there, one number each, for the signal and the gradient at once.

    Biases become zero. First every layer's output gets the root mean square one, layer by layer;
    then all scales are moved together, pass after pass, towards the balance, and the best pass by J
    is kept: on the batch, J is never above that of the forward scaling alone.
    """

    name = "init.two_way"
    why = "measures signal and gradient on the batch and balances their growth over depth"
    guarantee = (
        "on the batch, J is no larger than with the outputs' mean square set to one layer by "
        "layer; without biases and with ReLU or linear layers it is the least that one factor a "
        "layer can reach (within the tolerance): ln r_l = ln g_l - mean ln g, that is, the rms of "
        "a layer's output over the norm of the gradient there is the same at every depth, and the "
        "geometric mean of the rms is one"
    )
    formula = (
        "W_l <- s_l W_l; J = sum (ln r_l)^2 + sum (ln g_l - mean ln g)^2; least where ln r_l is "
        "half of ln(r_l g_l) less its mean"
    )
    source = (
        "the forward half: Mishkin & Matas 2016, algorithm 1; the balance: our own, derived in "
        "surefoot.remedies.initialization.two_way"
    )
    limits = (
        "the profile of r_l g_l over depth, which no scale can change: of the order "
        "sqrt(depth / width) by chance, and with sigmoid a factor of 2.6 a layer",
        "at a hundred layers without skip connections, where representations collapse and "
        "gradients shatter although both scales are right",
        "with batch normalisation, which undoes the scale of the weights",
        "on a batch that is not like the others",
    )
    cost = "some twenty calls of the model, most with backward, once; see init.lsuv"
    defaults: ClassVar[Mapping[str, Any]] = {"tolerance": 0.02, "passes": 20}

    def apply(self, subject: Subject) -> None:
        """Scale the weights."""
        if subject.call is None:
            raise NotApplicable("it needs a batch to look at")
        layers = trained(layers_with(subject, self.target), self.target)
        for _, module, _ in layers:
            subject.keep(matrix(module))
            clear_bias(subject, module)
        shared = by_weight(layers)
        level(subject, shared, "rms", self.parameters["tolerance"], _TRIES)
        self._balance(subject, shared)

    def _balance(self, subject: Subject, layers: Sequence[Shared]) -> None:
        best: tuple[float, list[torch.Tensor]] | None = None
        for _ in range(self.parameters["passes"]):
            signal, gradient, moved = _profile(layers, scales(subject, layers, backward=True))
            off = imbalance(signal, gradient)
            if best is None or off < best[0]:
                best = off, [matrix(s.modules[0]).detach().clone() for s in layers]
            missing = [(g - r) / 2 for r, g in zip(signal, gradient, strict=True)]
            center = sum(signal) / len(signal)
            missing = [m - (sum(missing) / len(missing)) - center for m in missing]
            if max(map(abs, missing)) <= self.parameters["tolerance"]:
                break
            before = 0.0
            for layer, now in zip(moved, missing, strict=True):
                layer.rescale(math.exp(_DAMPING * (now - before)))
                before = now
        assert best is not None
        with torch.no_grad():
            for layer, value in zip(layers, best[1], strict=True):
                matrix(layer.modules[0]).copy_(value)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "seen = {}  # layers: in the order in which they are called, their biases zero\n"
            "note = lambda m, x, y: seen.update({m: y})\n"
            "hooks = [m.register_forward_hook(note) for m in layers]\n"
            "v = torch.randn_like(model(x))\n"
            "for _ in range(20):\n"
            "    out = model(x)\n"
            "    z = [seen[m] for m in layers]\n"
            "    gradients = torch.autograd.grad(out, z, v)\n"
            "    r = torch.stack([y.detach().square().mean().sqrt().log() for y in z])\n"
            "    g = torch.stack([y.norm().log() for y in gradients])\n"
            "    missing = (r + g - (r + g).mean()) / 2 - r\n"
            "    for m, s in zip(layers, torch.diff(missing, prepend=missing.new_zeros(1))):\n"
            "        m.weight.data *= (s / 2).exp()\n"
            "for hook in hooks:\n"
            "    hook.remove()"
        )


def imbalance(signal: Sequence[float], gradient: Sequence[float]) -> float:
    """J: how far signal and gradient are from one scale at all depths; both as logarithms.

    >>> imbalance([0.0, 0.0], [3.0, 3.0]), imbalance([0.0, 0.0], [2.0, 4.0])
    (0.0, 2.0)
    """
    center = sum(gradient) / len(gradient)
    return sum(r * r for r in signal) + sum((g - center) ** 2 for g in gradient)


def _profile(
    layers: Sequence[Shared], found: Sequence[Scale]
) -> tuple[list[float], list[float], list[Shared]]:
    """ln of signal and gradient, at the layers that have both."""
    kept = [
        (math.log(scale.rms), math.log(scale.gradient), layer)
        for layer, scale in zip(layers, found, strict=True)
        if usable(scale.rms) and usable(scale.gradient)
    ]
    if not kept:
        raise NotApplicable("no signal or no gradient reaches any of the layers on this batch")
    return [r for r, _, _ in kept], [g for _, g, _ in kept], [layer for _, _, layer in kept]
