"""What is planted. Another fault is an entry in FAULTS.

A fault reaches the training through three doors: the batch, the factor of the learning rate, and
the weights, each as they are at a step. It begins at START unless its words say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn

from surefoot.findings import Cause

STEPS = 400
START = STEPS // 4

Batch = tuple[torch.Tensor, torch.Tensor]
Change = Callable[[torch.Tensor, torch.Tensor], Batch]


class Kind(StrEnum):
    """How long it lasts, and so what may be asked of a guard."""

    CONTROL = "control"  # no fault: the same weights, bit by bit
    TRANSIENT = "transient"  # it passes: the accuracy of the run without it
    PERSISTENT = "persistent"  # it stays: a halt, with the cause


def _same(step: int, x: torch.Tensor, y: torch.Tensor) -> Batch:
    return x, y


def _unscaled(step: int) -> float:
    return 1.0


def _untouched(step: int, model: nn.Module) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them.

    cause: what a halt should give. task: of TASKS. ranks: processes; with two, the batches of the
    second are the bad ones. reference: the fault and the guard of the run it is compared with.
    """

    words: str
    kind: Kind = Kind.TRANSIENT
    cause: Cause | None = None
    batch: Callable[[int, torch.Tensor, torch.Tensor], Batch] = _same
    rate: Callable[[int], float] = _unscaled
    weights: Callable[[int, nn.Module], None] = _untouched
    task: str = "layers"
    ranks: int = 1
    reference: tuple[str, str] = ("none", "nothing")


def at(steps: Container[int], change: Change) -> Callable[[int, torch.Tensor, torch.Tensor], Batch]:
    """Change the batches of these steps."""
    return lambda step, x, y: change(x, y) if step in steps else (x, y)


def times(factor: float) -> Change:
    """All inputs larger."""
    return lambda x, y: (x * factor, y)


def one_nan(x: torch.Tensor, y: torch.Tensor) -> Batch:
    """One pixel of one digit is NaN."""
    x = x.clone()
    x[len(x) // 2, x.shape[1] // 2] = float("nan")
    return x, y


def random_labels(x: torch.Tensor, y: torch.Tensor) -> Batch:
    """Digits thirty times as large, with labels that have nothing to do with them."""
    generator = torch.Generator().manual_seed(int(y.sum()))
    return 30 * x, torch.randint(10, y.shape, generator=generator)


def one_weight(value: float) -> Callable[[int, nn.Module], None]:
    """The largest weight of the third layer is overwritten, before the batch of step START."""

    def overwrite(step: int, model: nn.Module) -> None:
        if step == START:
            weight = next(p for n, p in model.named_parameters() if n.endswith("4.weight"))
            with torch.no_grad():
                weight.view(-1)[weight.argmax()] = value

    return overwrite


def early(step: int, x: torch.Tensor, y: torch.Tensor) -> Batch:
    """NaN in the third batch, the sixth times 1000."""
    return at([5], times(1e3))(step, *at([2], one_nan)(step, x, y))


def one_rank(step: int, x: torch.Tensor, y: torch.Tensor) -> Batch:
    """NaN in one batch, another times 1000."""
    return at([START + 20], times(1e3))(step, *at([START], one_nan)(step, x, y))


FAULTS = {
    "none": Fault("nothing is planted", Kind.CONTROL),
    "none_uneven": Fault(
        "nothing, with uneven gradients",
        Kind.CONTROL,
        task="uneven",
        reference=("none_uneven", "nothing"),
    ),
    "none_half": Fault(
        "nothing, in float16", Kind.CONTROL, task="half", reference=("none_half", "nothing")
    ),
    "none_ranks": Fault(
        "nothing, two processes", Kind.CONTROL, ranks=2, reference=("none_ranks", "nothing")
    ),
    "one_nan_batch": Fault("one NaN in one batch", batch=at([START], one_nan)),
    "every_25th": Fault("every 25th batch × 1000", batch=at(range(25, STEPS, 25), times(1e3))),
    "overflowing_batch": Fault("one batch × 10³⁰", batch=at([START], times(1e30))),
    "random_labels": Fault(
        "10 batches × 30 with random labels", batch=at(range(START, START + 10), random_labels)
    ),
    "rate_spike": Fault(
        "learning rate × 1000 for a step", rate=lambda step: 1e3 if step == START else 1.0
    ),
    "rate_plateau": Fault(
        "learning rate × 100 for 20 steps",
        rate=lambda step: 1e2 if START <= step < START + 20 else 1.0,
    ),
    "half_overflow": Fault(
        "float16: one batch × 20000",
        batch=at([START], times(2e4)),
        task="half",
        reference=("none_half", "nothing"),
    ),
    "weight_corrupted": Fault("one weight becomes 10¹⁰", weights=one_weight(1e10)),
    "weight_nan": Fault("one weight becomes NaN", weights=one_weight(float("nan"))),
    "recurrent": Fault(
        "a recurrent net without clipping, which explodes at once",
        task="recurrent",
        reference=("recurrent", "clip_grad_norm_"),
    ),
    "recurrent_late": Fault(
        "a recurrent net without clipping, which explodes later",
        task="recurrent_late",
        reference=("recurrent_late", "clip_grad_norm_"),
    ),
    "clustered": Fault("10 of 20 batches × 100", batch=at(range(START, START + 20, 2), times(1e2))),
    "warm_up": Fault("in warm-up: one NaN, one batch × 1000", batch=early),
    "one_rank": Fault(
        "one process of two: one NaN, one batch × 1000",
        batch=one_rank,
        ranks=2,
        reference=("none_ranks", "nothing"),
    ),
    "nan_for_good": Fault(
        "every batch NaN from a quarter on",
        Kind.PERSISTENT,
        Cause.NONFINITE_INPUT,
        batch=at(range(START, STEPS), one_nan),
    ),
    "rate_for_good": Fault(
        "learning rate × 1000 from a quarter on",
        Kind.PERSISTENT,
        Cause.LEARNING_RATE_TOO_HIGH,
        rate=lambda step: 1e3 if step >= START else 1.0,
    ),
}
