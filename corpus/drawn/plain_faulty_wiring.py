"""Faulty rows on vectors: operations outside their domain, and graphs that are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.drawn import broken
from corpus.recipes import Surgery, adam, sgd
from corpus.trainings.plain_nets import sequential, units
from corpus.trainings.plain_parts import Lambda
from corpus.trainings.surgery import put

Tensor = torch.Tensor
Function = Callable[[Tensor], Tensor]


def top(function: Function) -> Surgery:
    """A function between the body of a trunk and its head."""
    return put("top", lambda: Lambda(function))


def before(function: Function, place: int = 0) -> Surgery:
    """A function in front of a part of an nn.Sequential."""

    def change(model: nn.Module) -> None:
        assert isinstance(model, nn.Sequential)
        model.insert(place, Lambda(function))

    return change


def behind_first(function: Function) -> Surgery:
    """A function behind the first activation."""

    def change(model: nn.Module) -> None:
        model.add_module("act0", nn.Sequential(nn.ReLU(), Lambda(function)))

    return change


# Operations outside their domain.
def radius(t: Tensor) -> Tensor:
    """The distance from the start, whose second derivative at the start is nobody's."""
    return t.square().sum(1, keepdim=True).sqrt()


def late_logs(h: Tensor) -> Tensor:
    """log(1 + h), also where h is below -1."""
    return torch.log1p(2 * h)


def over_batch(h: Tensor) -> Tensor:
    """Standardised over the batch, of which the last of an epoch has one sample."""
    return (h - h.mean(0)) / (h.std(0) + 1e-5)


def roots(h: Tensor) -> Tensor:
    """A fractional power of both signs."""
    return h + h**0.7


def hidden_roots(h: Tensor) -> Tensor:
    """The root of what is positive; `where` does not keep the other gradients out."""
    return torch.where(h > 0, h.sqrt(), 0.0 * h)


def unit_length(z: Tensor) -> Tensor:
    """Length one, also for what has no length."""
    z = F.relu(z - 0.5)
    return z / z.square().sum(1, keepdim=True).sqrt()


def few_events(score: Tensor, wait: Tensor, seen: Tensor) -> Tensor:
    """Cox's partial likelihood; a small batch may be without events."""
    order = wait.argsort(descending=True)
    score, seen = score[order], seen[order]
    return -((score - score.logcumsumexp(0)) * seen).sum() / seen.sum()


def crowd(h: Tensor) -> Tensor:
    """The mean over the samples that a gate lets through, of which there may be none."""
    chosen = (h > 4.0).float()
    return h + (chosen * h).sum(0) / chosen.sum(0)


LOST = ("nonfinite", "undefined_operation")
broken("equation_swing/root_of_zero", *LOST, ("0", None), dict(surgery=before(radius)), steps=150)
broken("continent_seven_tanh/late_logs", *LOST, "top", dict(surgery=top(late_logs)))
broken(
    "epochs_hues_sgd_steps/batch_of_one",
    *LOST,
    ("act0.1", "act0"),
    dict(surgery=behind_first(over_batch)),
    batch=127,
)
broken(
    "continent_rezero_30/roots",
    *LOST,
    "top",
    dict(surgery=top(roots)),
    model=units(4, 32, torch.tanh),
)
broken("hues_selu_20/hidden_roots", *LOST, "top", dict(surgery=top(hidden_roots)), steps=80)
broken("metric_digits_triplets/own_distance", *LOST, None, dict(least=0.0))
broken(
    "metric_hues_centres/unit_length",
    *LOST,
    None,
    dict(length=unit_length),
    optimizer=sgd(0.02, momentum=0.9),
)
broken(
    "survival_words_cox/batch_without_events",
    "nonfinite",
    "undefined_operation|bad_batch",
    None,
    dict(loss=few_events),
    batch=8,
)
broken(
    "continent_skip_batchnorm_24/crowd", *LOST, "top", dict(surgery=top(crowd)), model=units(3, 32)
)


# Graphs that are cut.
class Silent(torch.autograd.Function):
    """A step whose author had nothing to say about its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None


def rewrapped(h: Tensor) -> Tensor:
    """A new tensor of the old numbers."""
    return torch.tensor(h.tolist())


def best_only(h: Tensor) -> Tensor:
    """Which unit is the largest, as one-hot."""
    return F.one_hot(h.argmax(1), h.shape[1]).to(h.dtype)


def detached(h: Tensor) -> Tensor:
    return h.detach()


CUT = ("stalled|vanishing|dead", "disconnected_parameters")
SMALL = dict(model=units(4, 8, torch.tanh), optimizer=adam(5e-3), steps=120)
AT = ("top", "body.3", "body.3.lin", "body.3.norm", "body.2", "stem")
broken("continent_seven_tanh/own_gradient_none", *CUT, AT, dict(surgery=top(Silent.apply)), **SMALL)
broken("hues_selu_20/rewrapped", *CUT, AT, dict(surgery=top(rewrapped)), **SMALL)
broken(
    "continent_rezero_30/best_only",
    *CUT,
    AT,
    dict(surgery=top(best_only)),
    model=units(4, 8, torch.tanh),
    optimizer=adam(5e-3),
)
broken(
    "vae_tumours/detached",
    *CUT,
    ("between", "encoder", "encoder.2", "encoder.1", "encoder.0"),
    dict(surgery=lambda m: setattr(m, "between", Lambda(detached))),
    width=6,
    optimizer=adam(5e-3),
)
broken(
    "heads_three_answers/detached",
    *CUT,
    ("body", "body.3", "body.2", "body.0", "Heads"),
    dict(surgery=lambda m: setattr(m, "cut", detached)),
    width=6,
    optimizer=adam(1e-2),
)


def replaced(step: int, net: nn.Module) -> None:
    """A layer is made anew once the optimizer holds the old one's weights."""
    if step == 0:
        old = net.get_submodule("lin0")
        assert isinstance(old, nn.Linear)
        net.add_module("lin0", nn.Linear(old.in_features, old.out_features))


broken(
    "names_bag_heavy_dropout/layer_replaced",
    *CUT,
    ("lin0",),
    dict(each=replaced),
    model=sequential(8, 32),
)
for twin in ("continent_experts", "nations_factorised", "breast_growing_columns"):
    broken(f"{twin}/other_model", *CUT, None, dict(elsewhere=True))
