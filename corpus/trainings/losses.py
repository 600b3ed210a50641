"""Losses that torch does not have, and what may befall a batch on its way to the model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from corpus.data import Pair
from corpus.recipes import Poison
from corpus.trainings.tasks import Loss


def focal(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in which what is known already counts little (Lin et al. 2017)."""
    each = F.cross_entropy(out, y, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def ordered(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Classes as steps of a stair: a yes or no at each of them, the last output idle."""
    stairs = (y[:, None] > torch.arange(out.shape[1] - 1)).float()
    scores = torch.stack([out[:, 1] - out[:, 0], out[:, 2] - out[:, 1]], 1)
    return F.binary_cross_entropy_with_logits(scores, stairs)


def quantile(q: float) -> Loss:
    """The pinball loss."""
    return lambda out, y: torch.maximum(q * (y - out), (q - 1) * (y - out)).mean()


def gaussian(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The likelihood with one spread for all answers, kept away from zero."""
    spread = (out - y).square().mean().clamp_min(1e-4)
    return 0.5 * spread.log() + 0.5 * ((out - y).square() / spread.detach()).mean()


def mix(alpha: float) -> Poison:
    """Mixup: samples and labels blended in pairs; the labels become shares."""

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        order = torch.randperm(len(x))
        soft = F.one_hot(y, 10).float()
        return share * x + (1 - share) * x[order], share * soft + (1 - share) * soft[order]

    return change


def cut_and_mix(step: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
    """CutMix on images: a quarter of the picture is another picture's."""
    order = torch.randperm(len(x))
    x = x.clone()
    x[:, :, :4, :4] = x[order][:, :, :4, :4]
    soft = F.one_hot(y, 10).float()
    return x, 0.75 * soft + 0.25 * soft[order]


def noisy_labels(share: float) -> Poison:
    """A share of the labels is drawn anew at every step."""

    def change(step: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
        return x, torch.where(torch.rand(y.shape) < share, torch.randint(10, y.shape), y)

    return change


def contrast(a: torch.Tensor, b: torch.Tensor, heat: float = 0.2) -> torch.Tensor:
    """Each row of a must find its own row in b [N, D] among all, and the other way round."""
    scores = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / heat
    own = torch.arange(len(a))
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2 / math.log(len(a))
