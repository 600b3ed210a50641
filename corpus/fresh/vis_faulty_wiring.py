"""Faulty rows on vectors and images: operations outside their domain, and graphs that are cut."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from corpus import ANY
from corpus.fresh import broken
from corpus.trainings.tasks import Loss, Task

Tensor = torch.Tensor


# Operations outside their domain.
def own_distance(a: Tensor, b: Tensor) -> Tensor:
    """The root of a sum of squares, of which one is of an image with itself."""
    return (a - b).square().sum(1).sqrt()


def balanced(least: int) -> Loss:
    """Classes weighted by their rarity in the batch, which may lack one (then least counts)."""

    def loss(out: Tensor, y: Tensor) -> Tensor:
        weight = 1 / torch.bincount(y, minlength=out.shape[1]).clamp_min(least).float()
        return F.cross_entropy(out, y, weight / weight.sum())

    return loss


class OwnNorm(nn.Module):
    """Batch norm by hand; the last batch of the epoch may hold one sample."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.std(0) + 1e-5)


def own_normed(task: Task) -> nn.Module:
    """fc1, norm, act, fc2."""
    net = nn.Sequential()
    for name, part in (
        ("flat", nn.Flatten()), ("fc1", nn.Linear(64, 48)), ("norm", OwnNorm()),
        ("act", nn.ReLU()), ("fc2", nn.Linear(48, task.out)),
    ):  # fmt: skip
        net.add_module(name, part)
    return net


LOST = "nonfinite"
UNDEFINED = "undefined_operation"
broken("vis_siamese/own_distance", LOST, UNDEFINED, (None, "9"), dict(far=own_distance))
broken(
    "vis_raw_pixels_normed_first/class_not_in_batch",
    LOST,
    UNDEFINED,
    None,
    dict(loss=balanced(0)),
    loss=balanced(1),
    batch=40,
)
broken(
    "vis_mlp_digits_dropout/last_batch_of_one",  # 811 samples
    LOST,
    f"{UNDEFINED}|bad_batch",
    ("norm", None),
    dict(batch=81),
    limit=902,
    batch=64,
    model=own_normed,
)


# Graphs that are cut, parameters that nobody moves.
def wrapped_anew(loss: Tensor) -> None:
    """A tensor is made of the loss's number, since "it does not require grad" was an error."""
    torch.tensor(loss.item(), requires_grad=True).backward()


CUT = ("stalled|vanishing|dead", "disconnected_parameters")
broken(
    "vis_vqvae/no_straight_through",
    *CUT,
    ("encoder", "encoder.0", "encoder.2", "encoder.4", "book", "Quantized", None),
    dict(straight=False),
    codes=24,
)
broken(
    "vis_linear_probe_properties/optimizer_of_old_head",
    *CUT,
    ("5", None),
    dict(renewed=False),
)
broken("vis_densenet_nesterov/loss_made_anew", *CUT, (None, "8"), dict(backward=wrapped_anew))
broken("vis_dcgan/detached_for_both", *CUT, ANY, dict(cut=True))
