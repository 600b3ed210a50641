"""Optimizers that are given a closure: the step is measured in it, before a weight has moved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.findings import Cause
from surefoot.watching.session import Session

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True).tanh()


def train(
    make: Callable[..., torch.optim.Optimizer], closure: bool, steps: int = 6, spoil: int = -1
) -> tuple[Session, list[torch.Tensor], list[float]]:
    """(the session, the weights after each step, the losses) of a regression by Adam or LBFGS."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    session, weights, losses = Session(folder=None), [], []
    session.start()
    try:
        optimizer = make(model.parameters())
        for step in range(steps):
            x = X.sqrt() if step == spoil else X

            def again(x: torch.Tensor = x) -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), Y)
                loss.backward()
                losses.append(float(loss.detach()))
                return loss

            if closure:
                optimizer.step(again)
            else:
                again()
                optimizer.step()
            weights.append(model[0].weight.detach().clone())
    finally:
        session.stop()
    return session, weights, losses


def test_a_closure_makes_no_difference_to_what_is_measured() -> None:
    plain, after, _ = train(lambda p: torch.optim.Adam(p, lr=1e-2), closure=False)
    closed, same, _ = train(lambda p: torch.optim.Adam(p, lr=1e-2), closure=True)
    assert all(torch.equal(a, b) for a, b in zip(after, same, strict=True))
    for name in ("update_ratio", "gradient", "loss"):
        ours, theirs = (s.trainings[0].case().get(name) for s in (closed, plain))
        assert ours.high.tolist() == theirs.high.tolist(), name
    assert (closed.trainings[0].case().get("update_ratio").high > 0).all()


def test_a_line_search_counts_once() -> None:
    make = lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=6)  # noqa: E731
    session, _, losses = train(make, closure=True, steps=4)
    case = session.trainings[0].case()
    assert len(losses) > 8 and case.facts.steps == case.facts.backwards == 4
    seen = case.get("loss").last[:, 0].tolist()
    firsts = [x for x in losses if any(abs(x - y) < 1e-6 for y in seen)]
    assert seen[0] == pytest.approx(losses[0]) and len(firsts) >= 4
    assert max(seen) <= losses[0] + 1e-6  # and not the sum over what was tried


def test_a_lost_step_is_replayed_with_the_weights_it_was_taken_from() -> None:
    session, _, _ = train(lambda p: torch.optim.Adam(p, lr=1e-2), closure=True, spoil=3)
    root = session.report().root
    assert root is not None and root.cause is Cause.NONFINITE_INPUT
    alarm = session.trainings[0].case().alarms[0]
    assert (alarm.step, alarm.detail["replay"]) == (3, "exact")


class Noisy(torch.optim.SGD):
    """A step of its own around that of its class."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """With a little noise after it."""
        value = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(1e-4 * torch.randn_like(p))
        return value


@pytest.mark.parametrize("closure", [True, False])
def test_a_step_within_a_step_is_one_step(closure: bool) -> None:
    session, _, losses = train(lambda p: Noisy(p, lr=0.05), closure=closure, steps=8)
    case = session.trainings[0].case()
    assert case.facts.steps == case.facts.backwards == len(losses) == 8
    assert case.get("loss").last[:, 0].tolist() == pytest.approx(losses)


class Broken(torch.optim.SGD):
    """Raises at its third step."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Not at the third time."""
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == 3:
            raise ArithmeticError("not today")
        return super().step(closure)


def test_nor_does_one_without_a_closure() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    session = Session(folder=None)
    session.start()
    try:
        optimizer = Broken(model.parameters(), lr=0.1)
        for step in range(6):
            optimizer.zero_grad()
            F.mse_loss(model(X), Y).backward()
            if step == 2:
                with pytest.raises(ArithmeticError):
                    optimizer.step()
            else:
                optimizer.step()
    finally:
        session.stop()
    assert session.trainings[0].case().facts.steps >= 5


def test_a_step_that_raised_does_not_end_the_watch() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    session = Session(folder=None)
    session.start()
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def refuse() -> float:
            raise KeyError("no batch")

        for step in range(5):
            optimizer.zero_grad()
            F.mse_loss(model(X), Y).backward()
            if step == 2:
                with pytest.raises(KeyError):
                    optimizer.step(refuse)
            optimizer.step()
    finally:
        session.stop()
    assert session.trainings[0].case().facts.steps == 5


def test_a_step_that_raised_after_its_closure_does_not_end_the_watch() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)

    class Fussy(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            if fussy:
                raise RuntimeError("not like this")
            return loss

    session = Session(folder=None)
    session.start()
    try:
        optimizer = Fussy(model.parameters(), lr=0.1)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(model(X), Y)
            loss.backward()
            true.append(float(loss.detach()))
            return loss

        true: list[float] = []
        for step in range(9):
            fussy = step == 4
            if fussy:
                with pytest.raises(RuntimeError, match="not like this"):
                    optimizer.step(closure)
            else:
                optimizer.step(closure)
    finally:
        session.stop()
    # The step that raised was measured when its closure had run, as any other.
    seen = session.trainings[0].case().get("loss").last[:, 0]
    np.testing.assert_allclose(seen, true, rtol=1e-6)


def test_steps_that_raised_before_their_closure_end_the_watch_for_a_while_only() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    session = Session(folder=None)
    session.start()
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(model(X), Y)
            loss.backward()
            return loss

        handle = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                optimizer.step(closure)
        handle.remove()
        for _ in range(20):
            optimizer.step(closure)
    finally:
        session.stop()
    assert session.trainings[0].case().facts.steps > 10
