"""What a model's last operation leaves within reach of the loss, against a search for the best."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.signals.loss import anatomy
from surefoot.signals.reach import last_operation, out_of_reach

Squash = Callable[[torch.Tensor], torch.Tensor]


def best(squash: Squash, loss: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]):
    """The lowest loss that free numbers behind `squash` reach, by descent with a growing step."""
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.3)
    for _ in range(400):
        adam.zero_grad()
        value = loss(squash(x))
        value.backward()
        adam.step()
    return float(value.detach())


def read(squash: Squash, loss: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]):
    torch.manual_seed(0)
    head = nn.Linear(4, shape[-1]).double()
    return anatomy(loss(squash(head(torch.randn(shape[0], 4).double()))))


TARGETS = torch.tensor([[2.0], [-0.5], [0.3], [5.0], [-3.0], [0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1, 0, 2])
YES = torch.tensor([[1.0], [0.0], [0.0], [1.0], [0.0], [0.0]], dtype=torch.float64)


@pytest.mark.parametrize("squash", [torch.tanh, torch.sigmoid, F.relu, F.softplus, F.hardsigmoid])
def test_the_floor_of_a_regression_is_what_descent_finds(squash: Squash) -> None:
    found = read(squash, lambda y: F.mse_loss(y, TARGETS), (6, 1))
    # The same bounds as a ReLU's, with a slope everywhere.
    start = torch.exp if squash is F.relu else squash
    assert found.floor == pytest.approx(
        best(start, lambda y: F.mse_loss(y, TARGETS), (6, 1)), abs=2e-3
    )


@pytest.mark.parametrize("squash", [torch.tanh, torch.sigmoid, lambda x: x.softmax(-1)])
def test_the_floor_of_a_classification_is_what_descent_finds(squash: Squash) -> None:
    def loss(y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(y, LABELS)

    assert read(squash, loss, (6, 3)).floor == pytest.approx(best(squash, loss, (6, 3)), abs=2e-3)


@pytest.mark.parametrize("squash", [torch.tanh, torch.sigmoid, F.softplus])
def test_the_floor_of_yes_and_no_is_what_descent_finds(squash: Squash) -> None:
    def loss(y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(y, YES)

    assert read(squash, loss, (6, 1)).floor == pytest.approx(best(squash, loss, (6, 1)), abs=3e-3)


def test_a_factor_on_the_loss_is_one_on_its_floor() -> None:
    once = read(torch.tanh, lambda y: F.mse_loss(y, TARGETS), (6, 1))
    summed = read(torch.tanh, lambda y: F.mse_loss(y, TARGETS, reduction="sum"), (6, 1))
    assert once.floor is not None
    assert summed.floor == pytest.approx(6 * once.floor)


@pytest.mark.parametrize(
    "squash",
    [lambda x: x, lambda x: 3 * torch.tanh(x), F.leaky_relu, F.gelu, lambda x: x + x.tanh()],
)
def test_an_output_without_bounds_has_no_floor(squash: Squash) -> None:
    assert read(squash, lambda y: F.mse_loss(y, TARGETS), (6, 1)).floor is None


def test_a_model_that_gives_logarithms_of_shares_is_no_mismatch() -> None:
    found = read(lambda x: x.log_softmax(-1), lambda y: F.nll_loss(y, LABELS), (6, 3))
    assert last_operation(found.kind, found.operations) not in (
        "SoftmaxBackward0",
        "SigmoidBackward0",
    )
    assert found.floor is None


def test_shapes_do_not_hide_the_operation() -> None:
    found = read(
        lambda x: torch.tanh(x).view(6, 1, 1).squeeze(1), lambda y: F.mse_loss(y, TARGETS), (6, 1)
    )
    assert last_operation(found.kind, found.operations) == "TanhBackward0"


def test_targets_within_the_bounds_are_all_within_reach() -> None:
    inside = torch.linspace(-1, 1, 9)
    assert out_of_reach("mse", ["MseLossBackward0", "TanhBackward0"], inside, 0) == 0.0
    assert out_of_reach("mse", ["MseLossBackward0", "TanhBackward0"], inside[:0], 0) is None
    assert out_of_reach("huber", ["HuberLossBackward0", "TanhBackward0"], inside, 0) is None


def test_ten_softmax_scores_keep_the_loss_above_the_published_bound() -> None:
    names = ["NllLossBackward0", "LogSoftmaxBackward0", "SoftmaxBackward0"]
    floor = out_of_reach("cross_entropy", names, torch.tensor([3]), 10)
    assert floor == pytest.approx(math.log(math.e + 9) - 1)
