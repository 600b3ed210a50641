"""Faulty rows on vectors: bad batches, numbers that are none, ranges and domains that are left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from corpus.data import Pair
from corpus.drawn import broken
from corpus.recipes import Poison, adam, sgd
from corpus.trainings import plain_tasks as tables
from corpus.trainings.plain_nets import sequential, trunk
from corpus.trainings.plain_parts import Gate, Lambda
from corpus.trainings.surgery import put

Tensor = torch.Tensor


def once(step: int, change: Callable[[Tensor, Tensor], Pair], length: int = 1) -> Poison:
    """The batches of some steps are not like the others."""

    def poison(now: int, x: Tensor, y: Tensor) -> Pair:
        return change(x.clone(), y.clone()) if step <= now < step + length else (x, y)

    return poison


def unknown(x: Tensor, y: Tensor) -> Pair:
    """Missing columns, written as -9999."""
    x[: len(x) // 2, 1:] = -9999.0
    return x, y


def cents(x: Tensor, y: Tensor) -> Pair:
    """Another unit in one shipment of the data."""
    return x * 1000, y


def mistyped(x: Tensor, y: Tensor) -> Pair:
    """The first answer has six digits too many."""
    y[0] = y[0].abs() * 1e6 + 1e6
    return x, y


def swapped(x: Tensor, y: Tensor) -> Pair:
    """Answers that were never standardised."""
    return x, 7000.0 + 3000.0 * y


BAD = ("spike|exploding|nonfinite|dead", "bad_batch", None)
broken("continent_wide_momentum/unknown", *BAD, dict(poison=once(120, unknown)))
broken(
    "nations_life_pyramid/cents",
    *BAD,
    dict(poison=once(150, cents)),
    optimizer=sgd(0.02, momentum=0.9),
)
broken("nations_life_tanh_small_batches/mistyped", *BAD, dict(poison=once(260, mistyped)))
broken("tips_expectile/mistyped", *BAD, dict(poison=once(200, mistyped)))
broken(
    "nations_life_one_cycle/not_standardised", *BAD, dict(poison=once(90, swapped, 2)), clip=None
)
broken(
    "density_nations_sgd/times_500",
    *BAD,
    dict(poison=lambda step, x: x * 500 if step == 150 else x),
)
broken(
    "functions_poisson/mistyped",
    *BAD,
    dict(poison=once(280, mistyped)),
    clip=None,
    optimizer=sgd(0.001),
)

# Numbers that are none.
NO, INF = float("nan"), float("inf")
NAN = ("nonfinite", "nonfinite_input", None)


def missing(x: Tensor) -> Tensor:
    """One cell of the table is empty."""
    x = x.clone()
    x.view(-1)[len(x) // 3] = NO
    return x


def logged(x: Tensor) -> Tensor:
    """The logarithm of a count that is zero."""
    x = x.clone()
    x[40:60, 2] = torch.zeros(20).log()
    return x


def constant(x: Tensor) -> Tensor:
    """A column that never changes, standardised like the others."""
    same = torch.ones(len(x), 1)
    return torch.cat([x[:, 1:], (same - same.mean(0)) / same.std(0)], 1)


def no_end(now: int, x: Tensor, wait: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One word is waited for without end."""
    if now == 90:
        wait = wait.clone()
        wait[5] = INF
    return x, wait, seen


broken("epochs_hues_sgd_steps/missing", *NAN, dict(scale_input=missing))
broken("heads_three_answers/missing", *NAN, dict(scale_input=missing))
broken("nations_life_one_cycle/logged", *NAN, dict(scale_input=logged))
broken("tips_huber_ridge/constant_column", *NAN, dict(scale_input=constant))
broken("survival_words_exponential/no_end", *NAN, dict(poison=no_end))
broken("closure_life_batches/missing", *NAN, dict(scale_input=missing))


# Ranges that are left.
def energy(h: Tensor) -> Tensor:
    """Relative energies, the squares in half precision."""
    e = (400 * h.half()).square()
    return (e / e.mean(-1, keepdim=True)).float() - 1


def running(h: Tensor) -> Tensor:
    """Running totals in half precision."""
    return h + (h.half() * 20000).abs().cumsum(-1).float() / 1e6


def shares(h: Tensor) -> Tensor:
    """A softmax that forgets to subtract the largest."""
    e = torch.exp(120 * h)
    return h + e / e.sum(-1, keepdim=True)


OVER = ("nonfinite", "dtype_overflow")
broken(
    "vae_histories_wide_code/half_energy",
    *OVER,
    "between",
    dict(surgery=lambda m: setattr(m, "between", Lambda(energy))),
)
broken(
    "continent_seven_tanh/half_totals",
    *OVER,
    "top",
    dict(surgery=put("top", lambda: Lambda(running))),
)
broken(
    "wine_gated_rms_16/exp_by_hand",
    "nonfinite",
    "dtype_overflow|undefined_operation",
    "top",
    dict(surgery=put("top", lambda: Lambda(shares))),
    model=trunk(lambda w, i: Gate(w, F.silu), 4, 24),
)


def with_squares(half: bool) -> Callable[[tables.Task], nn.Module]:
    """Counts and their squares, normalised, and a perceptron."""

    def more(x: Tensor) -> Tensor:
        square = (50 * x.half()).square() / 2500 if half else x.square()
        return torch.cat([x, square.float()], 1)

    return lambda t: nn.Sequential(
        Lambda(more), nn.LayerNorm(30), nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1)
    )


broken(
    "functions_gamma_raw_counts/half_squares",
    *OVER,
    "0",
    dict(model=with_squares(True)),
    model=with_squares(False),
)

# Numbers too small for their type.
TINY = "vanishing|stalled|dead"


def weighted(factor: float) -> Any:
    """A loss of small weight."""
    return lambda out, y: factor * F.cross_entropy(out.float(), y)


def product(out: Tensor, y: Tensor) -> Tensor:
    """The likelihood of the batch as a product, and only then its logarithm."""
    p = out.softmax(1).gather(1, y[:, None])
    return -p.prod().log() / len(y)


broken(
    "hues_half_with_scaler/no_scaler",
    TINY,
    "dtype_underflow",
    None,
    dict(scaler=None),
    loss=weighted(1e-6),
    scaler=partial(torch.amp.GradScaler, "cpu", init_scale=2.0**26, growth_interval=10**6),
    optimizer=adam(3e-3, eps=1e-20),
)
broken(
    "continent_accumulated_bfloat16/half_without_scaler",
    TINY,
    "dtype_underflow",
    None,
    dict(mixed=torch.float16),
    loss=weighted(1e-9),
    model=sequential(64, 64),
    optimizer=adam(3e-3, eps=1e-20),
)
broken(
    "continent_wide_momentum/product_of_likelihoods",
    "nonfinite",
    "dtype_underflow|undefined_operation",
    None,
    dict(loss=product),
)
broken(
    "hues_cosine_to_nothing/whole_in_half",  # squares of gradients, and eps, are zero
    "nonfinite",
    "dtype_underflow",
    None,
    dict(dtype=torch.float16),
)
