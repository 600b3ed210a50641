"""One saturated layer: a bias too large, and everything before it stops learning."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from surefoot.findings import Cause
from surefoot.lab import program
from surefoot.lab.course import losses
from surefoot.lab.entry import Entry, Result, Row, Standing
from surefoot.lab.figures import BAD, GOOD, drawn
from surefoot.lab.measures import gradient_norms, profile
from surefoot.lab.stack import classifier, training
from surefoot.lab.task import CLASSES, draw
from surefoot.lab.trials import tried, typical, watched

_DEPTH, _PLANTED, _BIAS, _STEPS = 8, 5, 10.0, 60


def _measure(seed: int) -> Result:
    def ill() -> nn.Sequential:
        model = classifier(nn.Tanh, _DEPTH, 1.0)
        with torch.no_grad():
            getattr(model, f"linear{_PLANTED}").bias.fill_(_BIAS)
        return model

    make = training(ill, seed)
    seen, proof = watched(make, _STEPS), tried(make, steps=_STEPS)
    sound = losses(watched(training(lambda: classifier(nn.Tanh, _DEPTH, 1.0), seed), _STEPS))
    torch.manual_seed(seed)
    model = ill()
    through, expected, flat = _through(model, draw(seed)[0])
    norms = gradient_norms(model, draw(seed)[0].double())
    torch.manual_seed(seed)
    healthy = gradient_norms(classifier(nn.Tanh, _DEPTH, 1.0), draw(seed)[0])
    root = seen.report.root
    named = root is not None and root.layer in (f"linear{_PLANTED}", f"activation{_PLANTED}")
    last = typical(losses(seen))
    return Result(
        Standing.BORNE_OUT,
        f"One layer of eight is enough: {flat:.0%} of its units are flat for every sample, and the "
        f"gradient behind it is {10**-through:.2g} times smaller. The loss stays at {last:.3g}, "
        f"where the same network without the bias comes to {typical(sound):.3g}.",
        (
            Row("share of units that are flat on the whole batch", "at a bias of 10 all", 1.0, flat,
                0.001),
            Row("decades of the gradient through the activation",
                "root mean square of tanh', slopes independent of the gradient", expected,
                through, 0.1),
            Row("layer that surefoot names is that one, 1 for yes", "where it was planted", 1.0,
                float(named)),
            Row("loss with the layer", "a constant answer: above 0.9 ln 4", 0.9 * math.log(CLASSES),
                last, bound=">"),
            Row("loss without", "learns: below half of ln 4", math.log(CLASSES) / 2,
                typical(sound), bound="<"),
        ),
        drawn(
            [replace(profile(f"bias of {_BIAS:g} in layer {_PLANTED}", norms), colour=BAD),
             replace(profile("no bias", healthy), colour=GOOD)],
            "layer, from the input", "gradient, relative to the last layer", log_y=True,
        ),
        f"Eight tanh layers, one of them with a bias of {_BIAS:g}, are at a loss of {last:.3g} "
        f"after {_STEPS} steps; without it at {typical(sound):.3g}.",
        seen,
        proof.sentence,
        (proof,),
    )  # fmt: skip


def _through(model: nn.Sequential, x: torch.Tensor) -> tuple[float, float, float]:
    """Decades of the gradient through the planted activation, those of its slope's root mean
    square, and the share of its units that are flat for every sample; in float64, for in float32
    tanh(10) is 1."""
    seen: list[torch.Tensor] = []
    hooks = [
        getattr(model, f"{kind}{_PLANTED}").register_forward_hook(
            lambda m, args, out: seen.append(out)
        )
        for kind in ("linear", "activation")
    ]
    y = model.double()(x.double())
    for hook in hooks:
        hook.remove()
    before, after = torch.autograd.grad(y, seen, torch.randn_like(y))
    slope = torch.cosh(seen[0].detach()) ** -2
    flat = float((slope < 0.05).all(0).float().mean())
    through = math.log10(float(before.norm() / after.norm()))
    return through, 0.5 * math.log10(float(slope.square().mean())), flat


ENTRY = Entry(
    "saturated_block",
    "A single saturated layer stops the learning of all layers before it.",
    "Glorot & Bengio 2010, on saturation of a layer",
    _measure,
    (Cause.SATURATING_ACTIVATION,),
)

if __name__ == "__main__":
    program.main(ENTRY)
