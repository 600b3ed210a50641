"""Several trainings in one process, and what a session knows of each."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surefoot
from surefoot.diagnosis.outcome import outcome
from surefoot.record import new_folder, read_run
from surefoot.watching.carried import Carried
from surefoot.watching.session import Session


def stack(std: float) -> nn.Sequential:
    """Sixteen layers of width 32 with ReLU."""
    layers: list[nn.Module] = []
    for _ in range(16):
        layers += [nn.Linear(32, 32), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=std)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def train(models: list[nn.Module], steps: int, zero: bool = True) -> None:
    """Each in turn on the same four classes."""
    x = torch.randn(256, 32)
    y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3) for model in models]
    for _ in range(steps):
        for model, optimizer in zip(models, optimizers, strict=True):
            if zero:
                optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def test_two_models_with_the_same_names_are_told_apart() -> None:
    torch.manual_seed(0)
    session = Session()
    session.start()
    good, bad = stack((2 / 32) ** 0.5), stack(0.02)
    train([good, bad], 60)
    session.stop()
    report = session.report()
    assert [t.index for t in session.trainings] == [0, 1]
    assert report.findings
    assert all(f.sentence.startswith("In Sequential (training 2): ") for f in report.findings)
    data = session.data()
    assert data is not None
    norms = data.series["gradient"].last[0, ::5]
    assert norms[0] < 1e-9  # the figures are those of the model in trouble


def test_one_model_is_not_given_a_number() -> None:
    torch.manual_seed(0)
    session = Session()
    session.start()
    train([stack(0.02)], 40)
    session.stop()
    assert all("training" not in f.sentence for f in session.report().findings)


def test_a_parameter_that_is_replaced_is_not_taken_for_the_one_before() -> None:
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    session = Session(adopt=False)
    session.start()
    training = session.watch(model, optimizer)
    foreign = nn.Parameter(torch.full((1, 3), 7.0))
    for parameter in (model.weight, foreign):
        optimizer.param_groups[0]["params"] = [parameter]
        (parameter.sum() * torch.ones(())).backward()
        optimizer.step()
    session.stop()
    assert training.case().facts.present == (1,)
    assert training.case().facts.trained == {0}


@pytest.mark.parametrize("steps", [20, 150])
@pytest.mark.parametrize("zero", [True, False])
def test_gradients_carried_on_are_counted_where_they_are_looked_for(steps: int, zero: bool) -> None:
    session = Session()
    session.start()
    train([nn.Linear(32, 4)], steps, zero)
    session.stop()
    facts = session.trainings[0].case().facts
    looked_for = min(steps - 1, 64) + len([s for s in range(64, steps - 1) if s % 8 == 0])
    assert facts.followed == looked_for
    assert facts.carried == (0 if zero else looked_for)


def test_what_cannot_be_followed_is_not_counted() -> None:
    carried = Carried()
    parameter = nn.Parameter(torch.ones(2))
    carried.follow(weakref.ref(parameter))  # it has no gradient
    carried.before_backward()
    carried.at_step(1, np.arange(1))
    assert (carried.followed, carried.steps) == (0, 0)


def test_a_gradient_beyond_float32_says_nothing_on_the_scripts_stderr() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = Session(adopt=False)
        session.start()
        training = session.watch(model, optimizer)
        for _ in range(12):
            optimizer.zero_grad()
            (model(torch.ones(1, 2).double()).sum() * 1e200).backward()
            optimizer.step()
        session.stop()
    assert training.step == 12
    # It is kept as the record keeps it: inf would say that the training itself had overflowed.
    assert training.case().get("gradient").last[0, 0] == np.finfo(np.float32).max
    assert np.isfinite(training.ledger.rows["gradient"]).all()


@pytest.mark.parametrize("skips", [True, False])
def test_an_empty_batch_is_named_and_harmless(skips: bool) -> None:
    """Its loss is NaN, its gradient zero: whether the step is taken makes no difference."""
    torch.manual_seed(0)
    session = Session()
    session.start()
    model = nn.Linear(8, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    x = torch.randn(200, 8)
    y = x[:, :3].argmax(1)
    for step in range(80):
        pick = torch.randint(0, 200, (0 if step == 40 else 50,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[pick]), y[pick]).backward()
        if not (skips and step == 40):
            optimizer.step()
    session.stop()
    (finding,) = [f for f in session.report().findings if f.rule == "SF201"]
    assert finding.cause == "undefined_operation"
    assert finding.first_step == 40
    assert finding.severity == "advice"
    assert "a mean over no target at all" in finding.sentence


def test_the_folder_shows_the_same_training_as_the_session(tmp_path: Path) -> None:
    torch.manual_seed(0)
    session = Session(folder=new_folder(tmp_path))
    session.start()
    good, bad = nn.Linear(32, 4), stack(0.02)
    train([good, bad], 60)
    train([good], 20)
    session.stop()
    live, kept = session.data(), read_run(session.folder)
    assert live is not None
    assert [t.step for t in session.trainings] == [80, 60]
    np.testing.assert_array_equal(live.series["gradient"].last[0], kept.series["gradient"].last[0])
    assert kept.report.root is not None
    assert kept.report.root.rule == "SF101"


def test_frozen_parameters_held_by_the_optimizer_are_no_finding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    model[:4].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = torch.randn(64, 8)
    with surefoot.watch(model, optimizer) as watch:
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
            optimizer.step()
    assert not watch.findings, watch.findings


@pytest.mark.parametrize("parts", [1, 4])
def test_the_yardstick_of_accumulated_gradients_is_that_of_all_of_them(parts: int) -> None:
    """The trivial loss by its definition: the variance of all targets that made the step."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(256, 4), 3 * torch.randn(256, 1)
    with surefoot.watch(model, optimizer) as watch:
        for _ in range(20):
            optimizer.zero_grad()
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (F.mse_loss(model(a), b) / parts).backward()
            optimizer.step()
    result = outcome(watch._session.trainings[0].case())
    assert result.yardstick == pytest.approx(float(y.var()), rel=0.05)
    assert result.trivial


def test_watches_that_overlap_leave_nothing_whatever_their_order() -> None:
    """Each wraps what the one before it has put there, and the first may end first."""
    before = torch.autograd.backward, torch.optim.Optimizer.__init__, torch.compile
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)):
        sessions = [Session() for _ in range(3)]
        for session in sessions:
            session.start()
        for k in order:
            sessions[k].stop()
        assert (torch.autograd.backward, torch.optim.Optimizer.__init__, torch.compile) == before
