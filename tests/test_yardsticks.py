"""Verdicts on losses that are not known by name, and on outputs that a loss does not expect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from surefoot.diagnosis.outcome import outcome
from surefoot.findings import Cause, Report, Severity
from surefoot.watching.session import Session

X, Y = (torch.tensor(a) for a in load_digits(return_X_y=True))
X = (X.float() - 4.9) / 6
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Make = Callable[..., torch.optim.Optimizer]


def adam(lr: float = 3e-3, **more: float) -> Make:
    """Adam, to be made on parameters."""
    return lambda p: torch.optim.Adam(p, lr=lr, **more)  # type: ignore[arg-type]


def run(
    loss: Loss,
    *,
    end: nn.Module | None = None,
    make: Make = adam(),
    steps: int = 150,
    width: int = 10,
    schedule: Callable[[int], float] | None = None,
) -> tuple[Report, Session]:
    """A small network on digits that ends in `end`."""
    torch.manual_seed(0)
    session = Session(folder=None)
    session.start()
    try:
        tail = [end] if end is not None else []
        model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, width), *tail)
        optimizer = make(model.parameters())
        plan = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) if schedule else None
        for step in range(steps):
            rows = torch.arange(32 * step, 32 * step + 32) % len(X)
            optimizer.zero_grad()
            loss(model(X[rows]), Y[rows]).backward()
            optimizer.step()
            if plan is not None:
                plan.step()
    finally:
        session.stop()
    assert session._error is None
    return session.report(), session


def amount(y: torch.Tensor) -> torch.Tensor:
    """A number to be met for each label, from -9 to 9."""
    return (2.0 * y - 9)[:, None]


def by_hand(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A mean deviation that no module of torch's makes."""
    return (out - amount(y)).abs().mean()


def test_a_loss_by_hand_has_the_yardstick_of_its_constant() -> None:
    report, session = run(by_hand, width=1, steps=300)
    seen = outcome(session.trainings[0].case())
    assert seen.trivial and seen.searched
    assert seen.yardstick == pytest.approx(5.0, rel=0.15)  # mean deviation of -9 ... 9
    assert not report.findings, str(report)


@pytest.mark.parametrize("end", [nn.Tanh(), nn.Sigmoid(), nn.ReLU()])
def test_what_its_bounds_leave_out_of_reach_is_found(end: nn.Module) -> None:
    report, _ = run(by_hand, width=1, end=end)
    root = report.root
    assert root is not None and root.cause is Cause.OUTPUT_ACTIVATION_MISMATCH, str(report)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (nn.Softmax(1), Cause.OUTPUT_ACTIVATION_MISMATCH),
        (None, Cause.OUTPUT_ACTIVATION_MISMATCH),
        (nn.LogSoftmax(1), None),
    ],
)
def test_a_likelihood_wants_logarithms(end: nn.Module | None, cause: Cause | None) -> None:
    report, _ = run(F.nll_loss, end=end)
    root = report.root
    assert (root.cause if root is not None else None) is cause, str(report)


def test_a_softmax_over_a_single_score_lets_nothing_through() -> None:
    report, _ = run(by_hand, width=1, end=nn.Softmax(1))
    root = report.root
    assert root is not None and root.cause is Cause.OUTPUT_ACTIVATION_MISMATCH, str(report)


def test_an_eps_that_rules_is_a_setting() -> None:
    report, _ = run(F.cross_entropy, make=adam(eps=10.0))
    root = report.root
    assert root is not None and root.cause is Cause.OPTIMIZER_STATE, str(report)
    assert not run(F.cross_entropy, make=adam(1e-2, eps=1e-4))[0].findings


def test_a_schedule_that_is_over_at_once() -> None:
    report, _ = run(F.cross_entropy, schedule=lambda step: float(step < 2), make=adam(2e-4))
    root = report.root
    assert root is not None and root.cause is Cause.LEARNING_RATE_TOO_LOW, str(report)
    # One that ends as late as it should is none.
    assert not run(F.cross_entropy, schedule=lambda step: float(step < 100))[0].findings


def test_the_first_step_may_be_long_if_it_is_made_good() -> None:
    def kick(step: int) -> float:
        return 30.0 if step == 0 else 1.0

    report, _ = run(F.cross_entropy, schedule=kick, make=adam(1e-2), steps=300)
    serious = [f for f in report.findings if f.severity is not Severity.ADVICE]
    assert not serious, str(report)
