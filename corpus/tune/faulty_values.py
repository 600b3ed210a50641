"""Faults of values and wiring: bad batches, undefined operations, overflows, cut graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from corpus import faulty_case
from corpus.data import Pair
from corpus.recipes import (
    Poison,
    Surgery,
    binary,
    cnn,
    mlp,
    named,
    regression,
    sgd,
)
from corpus.recipes_sequences import transformer


def at(step: int, change: Callable[[torch.Tensor, torch.Tensor], Pair], length: int = 1) -> Poison:
    """Touch the batches from one step on."""

    def poison(now: int, x: torch.Tensor, y: torch.Tensor) -> Pair:
        return change(x.clone(), y.clone()) if step <= now < step + length else (x, y)

    return poison


def nan_pixel(x: torch.Tensor, y: torch.Tensor) -> Pair:
    x.view(-1)[5] = float("nan")
    return x, y


def infinite_target(x: torch.Tensor, y: torch.Tensor) -> Pair:
    y.view(-1)[3] = float("inf")
    return x, y


def huge(x: torch.Tensor, y: torch.Tensor) -> Pair:
    return x * 1000, y


NAN, SPIKE = "nonfinite", "spike"
faulty_case(
    "nan_batch_mlp", mlp, NAN, "nonfinite_input", None, dict(poison=at(60, nan_pixel)),
    fast=True, steps=120,
)  # fmt: skip
faulty_case(
    "nan_batch_first_step", mlp, NAN, "nonfinite_input", None, dict(poison=at(0, nan_pixel)),
    steps=100,
)  # fmt: skip
faulty_case(
    "nan_batch_cnn", cnn, NAN, "nonfinite_input", None, dict(poison=at(70, nan_pixel)),
)  # fmt: skip
faulty_case(
    "inf_target_regression", regression, NAN, "nonfinite_input", None,
    dict(poison=at(80, infinite_target)), fast=True,
)  # fmt: skip
faulty_case(
    "huge_batch_mlp_sgd", mlp, f"{SPIKE}|exploding|nonfinite|dead", "bad_batch", None,
    dict(poison=at(80, huge)), fast=True, optimizer=sgd(0.1), steps=140,
)  # fmt: skip
faulty_case(
    "huge_batch_cnn", cnn, f"{SPIKE}|exploding|nonfinite|dead", "bad_batch", None,
    dict(poison=at(60, huge)),
)  # fmt: skip
faulty_case(
    "huge_batch_regression", regression, f"{SPIKE}|exploding|nonfinite|dead", "bad_batch", None,
    dict(poison=at(100, huge)), optimizer=sgd(0.02),
)  # fmt: skip


def weighted_burst(first: int, last: int, factor: float) -> Callable[..., torch.Tensor]:
    """A loss function whose labels are random and heavy at some of its calls."""
    calls = iter(range(1_000_000))

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if first <= next(calls) < last:
            wrong = torch.randint(out.shape[1], y.shape)
            return (factor * F.cross_entropy(out, wrong, reduction="none")).mean()
        return F.cross_entropy(out, y)

    return loss


class Fresh:
    """Makes a new stateful loss for each training: `mlp(..., loss=Fresh(...))` counts from zero."""

    def __init__(self, make: Callable[[], Callable[..., torch.Tensor]], steps: int) -> None:
        self.make, self.steps = make, steps
        self.left, self.loss = 0, make()

    def __call__(self, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.left == 0:
            self.left, self.loss = self.steps, self.make()
        self.left -= 1
        return self.loss(out, y)


faulty_case(
    "label_burst_mlp", mlp, f"{SPIKE}|exploding|nonfinite|dead", "bad_batch", None,
    dict(loss=Fresh(lambda: weighted_burst(100, 101, 300.0), 150)),
    optimizer=sgd(0.1), steps=150,
)  # fmt: skip
faulty_case(
    "label_burst_cnn", cnn, f"{SPIKE}|exploding|nonfinite|dead", "bad_batch", None,
    dict(loss=Fresh(lambda: weighted_burst(80, 83, 200.0), 120)), steps=120,
)  # fmt: skip


class Log(nn.Module):
    """The logarithm of what a ReLU left, zeros and all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x)


class Root(nn.Module):
    """A norm by hand: the square root's slope at zero is infinite, and zero times that is NaN."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x[:, :1]).square().sqrt()


class Normalise(nn.Module):
    """Divides by the spread of the batch, which a unit that never fires does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(0)) / x.std(0)


class Exponential(nn.Module):
    """exp of something that grows."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.exp(self.factor * x)
        return y / (1 + y)


class Half(nn.Module):
    """Squares in float16, which holds no more than 65504."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (x.half() * self.factor).square()
        return (y / y.mean(1, keepdim=True)).float()


def middle(module: nn.Module) -> Surgery:
    """Put a module into the middle of `Named`."""
    return lambda model: setattr(model, "middle", module)


UNDEFINED = "undefined_operation"
faulty_case(
    "log_of_zero_in_module", named, NAN, UNDEFINED, "middle", dict(surgery=middle(Log())),
    steps=80,
)  # fmt: skip
faulty_case(
    "sqrt_at_zero_in_module", named, NAN, UNDEFINED, "middle", dict(surgery=middle(Root())),
    fast=True, steps=80,
)  # fmt: skip
faulty_case(
    "division_by_zero_spread", named, NAN, UNDEFINED, "middle", dict(surgery=middle(Normalise())),
    steps=80,
)  # fmt: skip
faulty_case(
    "exp_overflow_in_module", named, NAN, f"dtype_overflow|{UNDEFINED}", "middle",
    dict(surgery=middle(Exponential(60.0))), steps=80,
)  # fmt: skip
faulty_case(
    "half_overflow_in_module", named, NAN, "dtype_overflow", "middle",
    dict(surgery=middle(Half(1000.0))), steps=80,
)  # fmt: skip


def log_of_probability(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy by hand: log of a softmax that can be exactly zero."""
    p = (out * 60).softmax(1)
    return -torch.log(p[torch.arange(len(y)), y]).mean()


def bce_by_hand(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of probabilities that round to exactly 0 and 1."""
    p = (20 * out).sigmoid()
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


faulty_case(
    "log_of_zero_in_loss", mlp, NAN, UNDEFINED, None, dict(loss=log_of_probability),
    steps=120,
)  # fmt: skip
faulty_case(
    "bce_by_hand_log_zero", binary, NAN, UNDEFINED, None,
    dict(loss=bce_by_hand),
    optimizer=sgd(0.5),
)  # fmt: skip


def hide_row(model: nn.Module) -> None:
    """Mask every key of one query."""
    model.blocks[1].attn.mask_row = 5  # type: ignore[index, union-attr]


faulty_case(
    "attention_row_masked", transformer, NAN, UNDEFINED, "blocks.1.attn", dict(surgery=hide_row),
    steps=100,
)  # fmt: skip


def cut(layer: int, how: str) -> Surgery:
    """Cut the graph after a layer of `Named`."""

    def change(model: nn.Module) -> None:
        model.cut, model.how = layer, how  # type: ignore[assignment]

    return change


CUT = "disconnected_parameters"
for how in ("detach", "no_grad", "data"):
    faulty_case(
        f"graph_cut_{how}", named, "stalled", CUT, ("layers.3",), dict(surgery=cut(3, how)),
        fast=how == "detach", depth=5, width=32, optimizer=sgd(0.05), steps=120,
    )  # fmt: skip


class Numpy(nn.Module):
    """A round trip through numpy, which no gradient survives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy())


faulty_case(
    "graph_cut_numpy", mlp, "stalled", CUT, ("6", "7", "8"),
    dict(surgery=lambda m: m.insert(8, Numpy())), depth=5, width=32, optimizer=sgd(0.02), steps=120,
)  # fmt: skip
faulty_case(
    "graph_cut_transformer", transformer, "stalled", CUT,
    ("blocks.0", "blocks.0.mlp.2", "blocks.1"),
    dict(surgery=lambda m: m.blocks.insert(1, Numpy())), depth=3,
)  # fmt: skip
faulty_case(
    "optimizer_of_another_model", mlp, "stalled", CUT, None, dict(elsewhere=True), fast=True,
    steps=100,
)  # fmt: skip
