"""Losses for counts, spreads, quantiles, mixtures and order; and two optimizers of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.trainings.plain_parts import Lambda
from corpus.trainings.tasks import Loss, Task

Tensor = torch.Tensor


def asked(task: Callable[[], Task], out: int, **more: Any) -> Callable[[], Task]:
    """The same task for a model that gives `out` numbers for each answer."""
    return lambda: replace(task(), out=out, **more)


def seen(function: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], nn.Module]:
    """The model is judged by a function of what it gives."""
    return lambda net: nn.Sequential(net, Lambda(function))


def first(out: Tensor) -> Tensor:
    """The first column."""
    return out[:, :1]


def log_cosh(out: Tensor, y: Tensor) -> Tensor:
    """Square near zero, absolute far away."""
    d = out - y
    return (d + F.softplus(-2 * d) - math.log(2)).mean()


def both_known(out: Tensor, y: Tensor) -> Tensor:
    """A normal's likelihood with a mean and a log spread for each sample; may fall below zero."""
    mean, log = out[:, :1], out[:, 1:].clamp(-5, 5)
    return (log + 0.5 * ((y - mean) * (-log).exp()).square()).mean()


def heavy(out: Tensor, y: Tensor) -> Tensor:
    """Student's t with three degrees of freedom and a learned log scale."""
    z = (y - out[:, :1]) * (-out[:, 1:]).exp()
    return (out[:, 1:] + 2 * (z.square() / 3).log1p()).mean()


def mixture(out: Tensor, y: Tensor) -> Tensor:
    """A mixture density of normals: a third each for shares, means and log spreads."""
    share, mean, log = out.chunk(3, 1)
    log = log.clamp(-4, 4)
    each = share.log_softmax(1) - log - 0.5 * ((y - mean) * (-log).exp()).square()
    return -each.logsumexp(1).mean()


def middle(out: Tensor) -> Tensor:
    """The mean of such a mixture."""
    share, mean, _ = out.chunk(3, 1)
    return (share.softmax(1) * mean).sum(1, keepdim=True)


def quantiles(out: Tensor, y: Tensor) -> Tensor:
    """Nine deciles at once, the fifth in the middle."""
    q = torch.linspace(0.1, 0.9, 9)
    d = y - out
    return torch.maximum(q * d, (q - 1) * d).mean()


def expectile(t: float) -> Loss:
    """Squares that count more on one side."""
    return lambda out, y: (torch.where(y > out, t, 1 - t) * (y - out).square()).mean()


def ranked(out: Tensor, y: Tensor) -> Tensor:
    """The continuous ranked probability score of a normal, in closed form."""
    spread = F.softplus(out[:, 1:]) + 1e-3
    z = (y - out[:, :1]) / spread
    tail = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return (spread * (z * (2 * tail - 1) + 2 * density - 1 / math.sqrt(math.pi))).mean()


def tweedie(power: float) -> Loss:
    """For sums of many small gains, of which some are none; the answer is a log mean."""

    def loss(out: Tensor, y: Tensor) -> Tensor:
        a = y * torch.exp((1 - power) * out) / (1 - power)
        return (torch.exp((2 - power) * out) / (2 - power) - a).mean()

    return loss


def overdispersed(out: Tensor, y: Tensor) -> Tensor:
    """The negative binomial's likelihood: a log mean and a log dispersion."""
    mean, size = out[:, :1].clamp(-8, 8).exp(), F.softplus(out[:, 1:]) + 1e-3
    p = size.log() - (size + mean).log()
    rest = y * (mean.log() - (size + mean).log())
    return -(torch.lgamma(y + size) - torch.lgamma(size) + size * p + rest).mean()


def gamma(out: Tensor, y: Tensor) -> Tensor:
    """The gamma deviance of positive answers; the answer is a log mean."""
    return (y * (-out).exp() + out).mean()


def stairs(out: Tensor, y: Tensor) -> Tensor:
    """One score against ordered thresholds: the first column is the score, the others steps."""
    cuts = out[:, 1:2] + F.pad(F.softplus(out[:, 2:]), (1, 0)).cumsum(1)
    higher = (y > torch.tensor([-0.5, 0.5, 1.0])).float()
    return F.binary_cross_entropy_with_logits(out[:, :1] - cuts, higher)


def overlap(out: Tensor, y: Tensor) -> Tensor:
    """One minus twice the common part over the sum (dice), on a whole batch."""
    p = out.sigmoid()
    return 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)


def hinge(out: Tensor, y: Tensor) -> Tensor:
    """Squared hinge on answers of zero and one."""
    return F.relu(1 - (2 * y - 1) * out).square().mean()


class Belief(torch.optim.Optimizer):
    """Steps are long where the gradient is what was expected (AdaBelief)."""

    def __init__(self, parameters: Iterable[Any], lr: float) -> None:
        super().__init__(parameters, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                s = self.state[p]
                if not s:
                    s.update(n=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                s["n"] += 1
                s["m"].lerp_(p.grad, 0.1)
                s["v"].mul_(0.999).add_((p.grad - s["m"]).square() + 1e-12, alpha=0.001)
                spread = (s["v"] / (1 - 0.999 ** s["n"])).sqrt() + 1e-8
                p.sub_(group["lr"] * s["m"] / (1 - 0.9 ** s["n"]) / spread)


class Langevin(torch.optim.SGD):
    """SGD with noise after each step: a sample of the posterior."""

    def __init__(self, parameters: Iterable[Any], lr: float, noise: float) -> None:
        super().__init__(parameters, lr=lr)
        self.noise = noise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(torch.randn_like(p), alpha=self.noise * group["lr"] ** 0.5)
