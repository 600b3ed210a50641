"""LSUV: orthogonal weights, scaled layer by layer until the outputs' variance is one on a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from surefoot.remedies.initialization.drawn import clear_bias, matrix, trained
from surefoot.remedies.initialization.measured import by_weight, level
from surefoot.remedies.initialization.orthogonal import draw_orthogonal
from surefoot.remedies.subject import NotApplicable, Subject
from surefoot.remedies.trace import layers_with
from surefoot.remedies.treatment import Treatment


class LSUV(Treatment):
    """Layer-sequential unit variance; the model stays in the mode (train or eval) it is in.

    A layer that is called several times is scaled by the variance over all of its calls; layers
    are taken in the order in which a call reaches them. Layers with a normalisation behind them
    are scaled as well, and it makes no difference. Each try is a call of the model on copies.
    """

    name = "init.lsuv"
    why = "measures the variance on the batch and sets it, whatever the activation is"
    guarantee = (
        "on the batch it was applied with, the variance of every layer's output is 1 within the "
        "tolerance (a layer with a constant output, or that ten tries do not settle, excepted)"
    )
    formula = "W = Q; then, layer by layer, W <- W / sqrt(Var[W x + b]) until |Var - 1| <= 0.1"
    source = "Mishkin & Matas 2016, algorithm 1"
    limits = (
        "it sets the forward variance and says nothing about the gradient: see init.two_way",
        "at a hundred layers without skip connections, where representations collapse and "
        "gradients shatter although the variance is right",
        "with batch normalisation, which undoes the scale of the weights",
        "on a batch that is not like the others",
    )
    cost = "three calls of the model, once; where layers are called twice, two for each layer"
    defaults: ClassVar[Mapping[str, Any]] = {"tolerance": 0.1, "tries": 10}

    def apply(self, subject: Subject) -> None:
        """Draw the weights anew and scale them."""
        if subject.call is None:
            raise NotApplicable("it needs a batch to look at")
        layers = trained(layers_with(subject, self.target), self.target)
        with subject.drawing(), torch.no_grad():
            for _, module, _ in layers:
                draw_orthogonal(subject.keep(matrix(module)), 1.0, module)
                clear_bias(subject, module)
        tolerance, tries = self.parameters["tolerance"], self.parameters["tries"]
        level(subject, by_weight(layers), "deviation", tolerance, tries)

    def code(self) -> str:
        """Itself as code to paste."""
        return (
            "for layer in layers:  # in the order in which they are called\n"
            "    nn.init.orthogonal_(layer.weight)\n"
            "    nn.init.zeros_(layer.bias)\n"
            "    seen = []\n"
            "    hook = layer.register_forward_hook(lambda m, x, y: seen.append(y.detach()))\n"
            "    for _ in range(10):\n"
            "        seen.clear()\n"
            "        model(x)\n"
            "        variance = torch.cat([y.flatten() for y in seen]).var(correction=0)\n"
            "        if abs(variance - 1) <= 0.1:\n"
            "            break\n"
            "        layer.weight.data /= variance.sqrt()\n"
            "    hook.remove()"
        )
