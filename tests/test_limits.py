"""What a loss could have been, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from surefoot.probes.limits import limits
from surefoot.signals.criterion import Leaf, criterion, mark

torch.manual_seed(0)
LABELS = torch.randint(4, (64,), generator=torch.Generator().manual_seed(1)).clamp(min=1)
TARGETS = 3 + 2 * torch.randn(64, 4)
SHARE = torch.bincount(LABELS).double() / 64


def found(loss: Callable[[torch.Tensor], torch.Tensor], outputs: torch.Tensor) -> float | None:
    """What the search gives for a loss on these outputs."""
    y = outputs.clone().requires_grad_() * 1.0
    entry = SimpleNamespace(outputs={0: y.detach()})
    mark(y.grad_fn, y.output_nr, 7, Leaf(entry, 0))
    read = criterion(loss(y), 7)
    read(lambda leaf: leaf.entry.outputs[leaf.index], {})
    return limits([read], {}).constant


OUTPUTS = 5 * torch.randn(64, 4)
FORMS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], float]] = {
    "the variance": (
        lambda y: ((y - TARGETS) ** 2).mean(),
        float(TARGETS.double().var(0, unbiased=False).mean()),
    ),
    "in another unit": (
        lambda y: 100 * (y - TARGETS).square().mean(),
        100 * float(TARGETS.double().var(0, unbiased=False).mean()),
    ),
    "deviation from the median": (
        lambda y: (y - TARGETS).abs().mean(),
        float((TARGETS - TARGETS.median(0).values).abs().mean()),
    ),
    "the entropy": (
        lambda y: -y.log_softmax(1)[torch.arange(64), LABELS].mean(),
        float(-torch.xlogy(SHARE, SHARE).sum()),
    ),
    "of several terms": (
        lambda y: F.mse_loss(y[:, :2], TARGETS[:, :2]) + F.mse_loss(y[:, 2:], TARGETS[:, 2:]),
        2 * float(TARGETS.double().var(0, unbiased=False).mean()),
    ),
    "of rows that look alike": (
        lambda y: F.cross_entropy(F.normalize(y) @ F.normalize(y).T / 0.5, torch.arange(64)),
        math.log(64),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_it_is_the_closed_form(name: str) -> None:
    loss, exact = FORMS[name]
    assert found(loss, OUTPUTS) == pytest.approx(exact, rel=0.02)


def test_a_network_that_has_lost_all_measure_changes_nothing() -> None:
    _, exact = FORMS["the variance"]
    assert found(lambda y: F.mse_loss(y, TARGETS), 1e9 * OUTPUTS) == pytest.approx(exact, rel=0.02)


def test_of_sequences_it_is_one_row_for_all_places() -> None:
    targets = torch.randn(8, 16, 2) + torch.arange(16.0)[None, :, None]
    exact = float(targets.double().reshape(-1, 2).var(0, unbiased=False).mean())
    assert found(lambda y: ((y - targets) ** 2).mean(), torch.randn(8, 16, 2)) == pytest.approx(
        exact, rel=0.02
    )


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        (lambda y: F.softplus(-y).mean(), OUTPUTS),  # nothing is left of it where y is large
        (lambda y: y.mean(), OUTPUTS),  # no least value
        (lambda y: -y.abs().mean(), OUTPUTS),  # below zero
        (lambda y: y * 1.0, torch.tensor(2.0)),  # the output is the loss itself
        (lambda y: ((y - TARGETS[:4]) ** 2).mean(), OUTPUTS[:4]),  # four can be learned by heart
        (lambda y: ((y - TARGETS) ** 2).mean(), torch.full((64, 4), math.nan)),
    ],
)
def test_where_there_is_none_nothing_is_said(
    loss: Callable[[torch.Tensor], torch.Tensor], outputs: torch.Tensor
) -> None:
    assert found(loss, outputs) is None


@pytest.mark.parametrize(
    ("bounded", "loss", "exact"),
    [
        (
            torch.tanh,
            lambda y: (y - TARGETS).abs().mean(),
            float((TARGETS - TARGETS.clamp(-1, 1)).abs().mean()),
        ),
        (
            torch.relu,
            lambda y: ((y - TARGETS) ** 2).mean() + y.mean() * 0,
            float(TARGETS.clamp(max=0).square().mean()),
        ),
        (torch.sigmoid, lambda y: (y - TARGETS.sigmoid()).square().mean(), 0.0),
    ],
)
def test_the_floor_is_what_the_bounds_leave(
    bounded: Callable[[torch.Tensor], torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    exact: float,
) -> None:
    y = bounded(OUTPUTS.clone().requires_grad_() * 1.0)
    entry = SimpleNamespace(outputs={0: y.detach()})
    mark(y.grad_fn, y.output_nr, 7, Leaf(entry, 0))
    read = criterion(loss(y.view(64, 4)), 7)
    read(lambda leaf: leaf.entry.outputs[leaf.index], {})
    seen = limits([read], {})
    assert seen.operation == f"{bounded.__name__.title()}Backward0"
    assert seen.floor == pytest.approx(exact, rel=0.02, abs=1e-3)
