"""Several optimizers on one model: whose gradients are old, whose never come, who is waited for."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from surefoot.findings import Cause, Report
from surefoot.watching.carried import Carried
from surefoot.watching.session import Session
from surefoot.watching.turns import Turns

X, Y = (torch.tensor(a) for a in load_digits(return_X_y=True))
X = (X.float() - 4.9) / 6


class Both(nn.Module):
    """An actor whose answer a critic judges."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
        self.critic = nn.Sequential(nn.Linear(68, 32), nn.ReLU(), nn.Linear(32, 1))


def act_and_judge(cut: bool, steps: int = 80) -> Report:
    """The critic learns a reward, the actor to please the critic; `cut`: it cannot."""
    torch.manual_seed(0)
    session = Session(folder=None)
    session.start()
    try:
        both = Both()
        judge = torch.optim.Adam(both.critic.parameters(), lr=3e-3)
        player = torch.optim.Adam(both.actor.parameters(), lr=3e-3)
        for step in range(steps):
            x = X[32 * (step % 50) :][:32]
            with torch.no_grad():
                tried = both.actor(x) + torch.randn(len(x), 4)
            reward = -(tried - 1).square().mean(1, keepdim=True)
            judge.zero_grad()
            F.mse_loss(both.critic(torch.cat([x, tried], 1)), reward).backward()
            judge.step()
            answer = both.actor(x)
            answer = answer.detach() if cut else answer
            player.zero_grad()
            (-both.critic(torch.cat([x, answer], 1)).mean()).backward()
            player.step()
    finally:
        session.stop()
    assert session._error is None
    return session.report()


def test_what_another_loss_leaves_in_a_gradient_is_not_old() -> None:
    report = act_and_judge(cut=False)
    assert not any(f.cause is Cause.GRADIENTS_NOT_ZEROED for f in report.findings), str(report)


def test_an_optimizer_that_is_never_fed_is_named() -> None:
    root = act_and_judge(cut=True).root
    assert root is not None and root.cause is Cause.DISCONNECTED_PARAMETERS
    assert (root.layer or "").startswith("actor")


@pytest.mark.parametrize("idle", [False, True])
def test_an_optimizer_that_rests_holds_nothing_up(idle: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    session = Session(folder=None)
    session.start()
    try:
        works = torch.optim.Adam(model.parameters(), lr=3e-3)
        rests = torch.optim.Adam(model.parameters(), lr=3e-3) if idle else None
        for step in range(60):
            rows = torch.arange(32 * step, 32 * step + 32) % len(X)
            works.zero_grad()
            F.cross_entropy(model(X[rows]), Y[rows]).backward()
            works.step()
    finally:
        session.stop()
    del rests
    facts = session.trainings[0].case().facts
    assert facts.steps == 60 and facts.carried == 0 and facts.followed >= 50
    assert not session.report().findings


def test_a_gradient_whose_optimizer_has_retired_is_not_counted() -> None:
    carried, retired = Carried(), nn.Parameter(torch.zeros(2))
    retired.grad = torch.ones(2)
    carried.follow_one(np.array([1.0, np.nan]), [weakref.ref(retired)])
    for step in range(1, 30):
        carried.before_backward()
        carried.after_backward()
        carried.at_step(step, np.array([1]))
    assert carried.steps == carried.followed == 0 and not carried.following


@pytest.fixture(scope="module")
def compiled() -> None:
    """Something in this process was; the compiler leaves a patch of its own for good."""
    torch.compile(nn.Linear(1, 1), backend="eager")(torch.ones(1))


def test_tensors_of_no_module_are_not_taken_for_compiled_ones(compiled: None) -> None:
    test_tensors_that_belong_to_no_module_are_trained_as_well()


def test_tensors_that_belong_to_no_module_are_trained_as_well() -> None:
    session = Session(folder=None)
    session.start()
    try:
        torch.manual_seed(0)
        picture = torch.randn(8, 8, requires_grad=True)
        optimizer = torch.optim.Adam([picture], lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            (picture - 1).square().mean().backward()
            optimizer.step()
    finally:
        session.stop()
    assert session._error is None
    assert session.trainings[0].case().facts.steps == 40
    assert not session.report().findings and not session.report().missing


def test_turns_fall_into_step() -> None:
    """Two that alternate make one step, from the first that both take part in."""
    turns, ends = Turns(), []
    for step, key in enumerate([1, 1, 2, 1, 2, 1, 2, 1]):  # 2 begins at the third
        if key in turns.stepped:
            turns.end()
            ends.append((step, "late"))
        turns.stepped.add(key)
        if turns.complete({1, 2}):
            ends.append((step, "+".join(map(str, sorted(turns.stepped)))))
            turns.end()
    assert ends == [(1, "late"), (1, "1"), (2, "2"), (4, "1+2"), (6, "1+2")]
