"""Flat units, weak weights and labels without rhyme in trainings with which nothing is wrong."""

from __future__ import annotations

import torch
from torch import nn

from corpus import fast_healthy_case, healthy_case
from corpus.data import Pair
from corpus.recipes import adam, adamw, mlp, named, regression, sgd, xavier
from corpus.tune.faulty_saturated import Slight, biased, lookup, scaled


@fast_healthy_case
def some_saturated_tanh(seed: int) -> float:
    """A layer of thirty times the weights: most of its units are flat for some samples."""
    return mlp(seed, act=nn.Tanh, init=xavier, surgery=scaled("2", 30.0))


@healthy_case
def biased_tanh(seed: int) -> float:
    """Biases of two, under which units are half asleep."""
    return mlp(seed, act=nn.Tanh, init=xavier, surgery=biased("2", 2.0))


@healthy_case
def attention_that_picks(seed: int) -> float:
    """A task that is solved by attending to one token out of ten."""
    return lookup(seed)


@fast_healthy_case
def decay_that_helps(seed: int) -> float:
    """AdamW with a weight decay of one."""
    return named(seed, optimizer=adamw(1e-3, weight_decay=1.0))


@healthy_case
def inputs_with_a_mean(seed: int) -> float:
    """Samples that differ by a third of what they have in common."""
    return mlp(seed, scale_input=Slight(0.33), optimizer=sgd(0.05, momentum=0.9))


@healthy_case
def regression_with_a_mean(seed: int) -> float:
    """The same for a table of ten columns."""
    return regression(seed, scale_input=Slight(0.2), optimizer=adam(3e-3))


def _shuffled(step: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
    return x, torch.randint(10, y.shape)


@healthy_case
def labels_are_noise(seed: int) -> float | None:
    """Labels drawn anew at every step: there is nothing to learn, and nothing that is broken."""
    named(seed, poison=_shuffled)
    return None


@healthy_case
def plateau_then_learning(seed: int) -> float:
    """Small weights make a plateau at the constant answer, which the run leaves in time."""

    def small(model: nn.Module) -> None:
        for m in model.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.05)

    return named(seed, init=small, optimizer=adam(1e-3), steps=300)
