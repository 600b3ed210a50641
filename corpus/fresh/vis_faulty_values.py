"""Faulty rows on vectors and images: bad batches, numbers that are none, graphs that are cut."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair
from corpus.fresh import broken
from corpus.recipes import Poison, adam, sgd
from corpus.trainings import fresh_vis_pairs as pairs
from corpus.trainings.fresh_vis_nets import perceptron
from corpus.trainings.tasks import Loss, Task

Tensor = torch.Tensor
NO = float("nan")


def once(step: int, change: Callable[[Tensor], Tensor], answer: bool = False) -> Poison:
    """Change the inputs of one step, or their answers."""

    def poison(now: int, x: Tensor, y: Tensor) -> Pair:
        if now != step:
            return x, y
        return (x, change(y.clone())) if answer else (change(x.clone()), y)

    return poison


def put_in(row: int, value: float) -> Callable[[Tensor], Tensor]:
    """One row of the batch is a code for: not known."""

    def change(t: Tensor) -> Tensor:
        t[row] = value
        return t

    return change


# One batch that is not like the others.
BAD = ("spike|exploding|nonfinite|dead|stalled", "bad_batch", None)
for name, change, more in (
    (
        "vis_life_adadelta/answer_minus_99999",
        dict(poison=once(200, put_in(5, -99999.0), True)),
        dict(optimizer=sgd(0.02, momentum=0.9)),
    ),
    (
        "vis_vae_beta_warmed_sgd/batch_not_scaled",
        dict(poison=once(200, lambda x: 255 * x)),
        dict(clip=None),
    ),
    (
        "vis_prototypes/batch_in_16_bits",
        dict(poison=once(80, lambda x: 65535 * x)),
        dict(optimizer=sgd(0.01, momentum=0.9)),
    ),
    (
        "vis_three_heads_by_hand/boxes_in_pixels",
        dict(poison=once(90, lambda y: 4000 * y, True)),
        {},
    ),
):
    broken(name, *BAD, change, **more)


# Values that are no numbers.
def each_pixel(x: Tensor) -> Tensor:
    """Every pixel by its own mean and spread; those at the rim are always empty."""
    return (x - x.mean(0)) / x.std(0)


def logarithm(x: Tensor) -> Tensor:
    """log of readings of which some are not positive."""
    return x.log()


for name, change in (
    ("vis_mlp_digits_dropout/rim_without_spread", dict(prepare=each_pixel)),
    ("vis_friedman_bn_sgd/log_of_negative", dict(prepare=logarithm)),
    ("vis_friedman_gelu/missing_row", dict(poison=once(120, put_in(3, NO)))),
    ("vis_plateau_patience/box_missing", dict(poison=once(70, put_in(9, NO), True))),
):
    broken(name, "nonfinite", "nonfinite_input", None, change)


# Numbers that outgrow their type.
class Energy(nn.Module):
    """Each image standardised by its sums, in one precision or another."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        e = (90 * (x + 0.85)).to(self.dtype)  # bytes
        one, two = (t.sum((1, 2, 3), keepdim=True) for t in (e, e.square()))
        spread = ((two - one.square() / 64) / 63).sqrt()
        return ((e - one / 64) / spread).float()


def led(dtype: torch.dtype) -> Callable[[Task], nn.Module]:
    """energy, then a perceptron."""

    def build(task: Task) -> nn.Module:
        net = perceptron(64, 48, act=nn.SiLU)(task)
        return nn.Sequential(Energy(dtype), net)

    return build


class Gate(nn.Linear):
    """Logarithms of shares by hand: the exponentials overflow where the readings are large."""

    def forward(self, x: Tensor) -> Tensor:
        e = (30 * super().forward(x)).exp()
        return (e / e.sum(1, keepdim=True) + 1e-9).log()


class Safe(nn.Linear):
    """The same with torch's softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return ((30 * super().forward(x)).softmax(1) + 1e-9).log()


def gated(make: Callable[[int, int], nn.Module]) -> Callable[[nn.Module], None]:
    """Another gate for a mixture of experts."""

    def change(net: nn.Module) -> None:
        net.gate = make(net.gate.in_features, net.gate.out_features)  # type: ignore

    return change


OVER = "dtype_overflow"
broken(
    "vis_simclr/half_exponentials",
    "nonfinite",
    f"{OVER}|undefined_operation",
    None,
    dict(cast=lambda z: z.half()),
    loss=pairs.nt_xent_by_hand,
    heat=0.08,
)
broken(
    "vis_label_noise_third/half_sums",
    "nonfinite",
    f"{OVER}|undefined_operation",
    ("0", "Energy"),
    dict(model=led(torch.float16)),
    model=led(torch.float32),
)
broken(
    "vis_experts_spirals/softmax_by_hand",
    "nonfinite",
    f"{OVER}|undefined_operation",
    "gate",
    dict(surgery=gated(Gate)),
    surgery=gated(Safe),
    prepare=lambda x: 10 * x,
)


# Numbers too small for their type.
def light(loss: Loss, factor: float) -> Loss:
    """A loss of small weight, which Adam does not mind."""
    return lambda out, y: factor * loss(out, y)


UNDER = "dtype_underflow"
broken(
    "vis_amp_half_accumulated/no_scaler",
    "vanishing|stalled|dead",
    UNDER,
    None,
    dict(scale=None),
    loss=light(F.cross_entropy, 1e-7),
    scale=2.0**24,
    clip=None,
    optimizer=adam(2e-3, eps=1e-20),
)
broken(
    "vis_iris_full_batch_adam/eps_is_zero_in_half",
    "nonfinite",
    f"{UNDER}|optimizer_state|undefined_operation",
    None,
    dict(optimizer=adam(1e-2)),
    dtype=torch.float16,
    optimizer=adam(1e-2, eps=1e-4),
)
broken(
    "vis_slow_start_small_rate/bfloat16_weights",
    "stalled",
    f"{UNDER}|learning_rate_too_low",
    None,
    dict(dtype=torch.bfloat16),
    optimizer=sgd(0.004),
    steps=900,
)
