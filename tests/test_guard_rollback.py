"""Rolling back: to what, when, at which learning rate, how often, and what comes after."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from surefoot.guarding.acts import Rung
from surefoot.guarding.automatic import Automatic
from surefoot.guarding.snapshot import Snapshot, Subjects
from test_guard_steps import batches, guards, network, same, spoilt, state, step
from zoo_fixture import mostly_zoo

__all__ = ["guards"]  # the fixture
Make = Callable[..., surefoot.Guard]


def rungs(guard: surefoot.Guard) -> list[Rung]:
    return [act.rung for act in guard.acts]


def spoil_weight(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        model[5].weight[0, 0] = value  # type: ignore[index, operator]


def mean(losses: list[float]) -> float:
    return sum(losses) / len(losses)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=3e-3)


def test_a_weight_that_became_nan_is_rolled_back_to_the_good_state(guards: Make) -> None:
    """Bit for bit the state after the step at which it was kept; two steps are lost by it."""
    model = network()
    optimizer = adam(model)
    guard = guards(optimizer, model)
    states = []
    for i, (x, y) in enumerate(batches(120)):
        if i == 100:
            spoil_weight(model, math.nan)
        step(model, optimizer, x, y)
        states.append(state(model, optimizer))
        if i == 102:
            assert any(same(states[-1], before) for before in states[:100])
    assert rungs(guard) == [Rung.SKIP, Rung.SKIP, Rung.ROLL_BACK]
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_finite_but_ruined_weight_is_found_by_the_loss(guards: Make) -> None:
    model = network()
    optimizer = adam(model)
    guard = guards(optimizer, model)
    losses = []
    for i, (x, y) in enumerate(batches(260)):
        if i == 200:
            spoil_weight(model, 1e6)
        losses.append(step(model, optimizer, x, y))
    assert Rung.ROLL_BACK in rungs(guard) and Rung.UNDO not in rungs(guard)
    root = guard.report().root
    assert root is not None and (root.rule, root.cause) == ("SF501", surefoot.Cause.UNKNOWN)
    assert max(losses[200:210]) > 100 and max(losses[215:]) < 1.0


@pytest.mark.parametrize("kind", ["float", "tensor"])
def test_the_rate_is_held_down_for_a_while_and_only_during_steps(kind: str, guards: Make) -> None:
    model = network()
    rate: Any = torch.tensor(3e-3) if kind == "tensor" else 3e-3
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, foreach=False, capturable=False)
    guard = guards(optimizer, model)
    used = []
    keep = lambda o, a, k: used.append(float(o.param_groups[0]["lr"]))  # noqa: E731
    optimizer.register_step_pre_hook(keep)  # after the guard's own
    for i, (x, y) in enumerate(batches(250)):
        if i == 100:
            spoil_weight(model, math.nan)
        step(model, optimizer, x, y)
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(3e-3)
    held = [rate for rate in used if rate < 2.9e-3]
    assert rungs(guard)[-1] is Rung.ROLL_BACK
    assert used[103] == pytest.approx(1.5e-3) and used[130] == pytest.approx(1.5e-3)
    assert sorted(used[103:166]) == used[103:166]
    assert used[170:] == pytest.approx([3e-3] * 80) and len(held) < 64


def test_a_learning_rate_that_leaps_for_some_steps_is_survived(guards: Make) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guard = guards(optimizer, model)
    losses = []
    for i, (x, y) in enumerate(batches(400)):
        optimizer.param_groups[0]["lr"] = 50.0 if 200 <= i < 215 else 0.05
        losses.append(step(model, optimizer, x, y))
    assert Rung.ROLL_BACK in rungs(guard)
    assert mean(losses[-50:]) < mean(losses[150:200]) + 0.05


def test_a_learning_rate_too_high_for_good_is_halted_with_its_cause(guards: Make) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guards(optimizer, model, rollback=50)  # not by the clock: a busy machine keeps fewer states

    def train() -> None:
        for i, (x, y) in enumerate(batches(3000)):
            optimizer.param_groups[0]["lr"] = 500.0 if i >= 200 else 0.05
            step(model, optimizer, x, y)

    with pytest.raises(surefoot.TrainingHalted) as caught:
        train()
    root = caught.value.report.root
    assert root is not None and root.cause is surefoot.Cause.LEARNING_RATE_TOO_HIGH
    assert root.rule == "SF501" and root.severity is surefoot.Severity.FATAL
    assert root.first_step in range(195, 210)
    x, y = batches(1, seed=1)[0]  # the first of those that it was trained on
    assert nn.functional.cross_entropy(model(x), y).item() < 0.3
    assert "the model is left as it was after step" in str(caught.value)


def test_data_that_is_lost_for_good_is_halted_with_its_cause(guards: Make) -> None:
    model = network()
    optimizer = adam(model)
    guard = guards(optimizer, model)

    def train() -> None:
        for i, (x, y) in enumerate(batches(400)):
            step(model, optimizer, spoilt(model, x, "nan") if i >= 100 else x, y)

    with pytest.raises(surefoot.TrainingHalted, match="not finite") as caught:
        train()
    assert guard.steps == 164
    root = caught.value.report.root
    assert root is not None and root.cause is surefoot.Cause.NONFINITE_INPUT
    with pytest.raises(surefoot.TrainingHalted):  # whoever swallows it does not train on
        step(model, optimizer, *batches(1)[0])


def test_a_burst_of_lost_batches_is_waited_for(guards: Make) -> None:
    model = network()
    optimizer = adam(model)
    guard = guards(optimizer, model)
    for i, (x, y) in enumerate(batches(300)):
        loss = step(model, optimizer, spoilt(model, x, "nan") if 100 <= i < 140 else x, y)
    assert rungs(guard).count(Rung.ROLL_BACK) == 1 and loss < 0.3


def test_a_task_that_changes_is_no_fault(guards: Make) -> None:
    """The loss leaps and stays: the earlier weights do no better, so they are not kept."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    guard = guards(optimizer, model)
    losses = []
    for i, (x, y) in enumerate(batches(600)):
        losses.append(step(model, optimizer, x, (2 - y) if i >= 300 else y))
    acts = rungs(guard)
    assert acts.count(Rung.ROLL_BACK) == acts.count(Rung.UNDO) <= 1
    assert not any(f.rule == "SF501" for f in guard.report().findings)
    assert Rung.HALT not in acts and losses[-1] < 0.3


def test_without_rollback_nothing_is_kept(guards: Make, monkeypatch: Any) -> None:
    monkeypatch.setattr(Snapshot, "take", lambda *args: pytest.fail("a state was kept"))
    model = network()
    optimizer = adam(model)
    guard = guards(optimizer, model, rollback=False)
    for i, (x, y) in enumerate(batches(60)):
        step(model, optimizer, spoilt(model, x, "nan") if 40 <= i < 45 else x, y)
    assert rungs(guard) == [Rung.SKIP] * 5


def test_no_memory_for_a_state_costs_the_rollback_only(
    guards: Make, monkeypatch: Any, caplog: Any
) -> None:
    def full(*args: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Snapshot, "take", full)
    model = network()
    optimizer = adam(model)
    guard = guards(optimizer, model)
    for i, (x, y) in enumerate(batches(60)):
        step(model, optimizer, spoilt(model, x, "nan") if 40 <= i < 45 else x, y)
    assert rungs(guard) == [Rung.SKIP] * 5 and caplog.text.count("no room") == 1


@pytest.mark.parametrize("at", mostly_zoo([30, 102, 110, 150], 30, 102))
@pytest.mark.parametrize("clip", ["auto", "zclip"])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(at: int, clip: str, guards: Make) -> None:
    """Saved with torch.save and read with weights_only; faults before and after the checkpoint."""
    data = batches(260)

    def train(model: nn.Module, optimizer: Any, begin: int, end: int) -> None:
        for i in range(begin, end):
            x, y = data[i]
            if i in (100, 200):
                spoil_weight(model, math.nan)
            step(model, optimizer, spoilt(model, x, "nan") if i in (20, 140) else x, y)

    model = network()
    optimizer = adam(model)
    guard = guards(optimizer, model, clip=clip, rollback=32)
    train(model, optimizer, 0, at)
    file = io.BytesIO()
    kept = [model.state_dict(), optimizer.state_dict(), guard.state_dict(snapshots=True)]
    torch.save(kept, file)
    acts_then = len(guard.acts)
    train(model, optimizer, at, 260)
    guard.remove()
    file.seek(0)
    weights, moments, guarded = torch.load(file, weights_only=True)
    fresh = network()
    fresh.load_state_dict(weights)
    again = adam(fresh)
    again.load_state_dict(moments)
    second = guards(again, fresh, clip=clip, rollback=32)
    second.load_state_dict(guarded)
    assert len(second.acts) == acts_then
    train(fresh, again, at, 260)
    assert [a.to_json() for a in second.acts] == [a.to_json() for a in guard.acts]
    assert same(state(fresh, again), state(model, optimizer))


def test_a_state_of_another_model_is_refused(guards: Make) -> None:
    model, other = network(), nn.Linear(3, 3)
    first, second = guards(adam(model), model), guards(adam(other), other)
    kept = first.state_dict()
    with pytest.raises(ValueError, match="baseline of 2 parameters"):
        second.load_state_dict(kept)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adam(p, amsgrad=True),
        lambda p: torch.optim.LBFGS(p, lr=0.02),
        lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5),
    ],
)
def test_a_snapshot_is_what_a_checkpoint_is(make: Callable[[Any], Any]) -> None:
    """Against deep copies of state_dicts; taken twice in the same memory, and restored twice."""
    model = network()
    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    subjects, kept = Subjects([optimizer], [model], [scheduler]), Snapshot()
    kept.take(subjects, -1)
    data = batches(20)
    for x, y in data[:5]:
        step(model, optimizer, x, y)
        scheduler.step()
    kept.take(subjects, 4)
    wanted = [state(model, optimizer), copy.deepcopy(scheduler.state_dict())]
    for begin in (5, 12):
        for x, y in data[begin : begin + 7]:
            step(model, optimizer, x, y)
            scheduler.step()
        kept.restore(subjects)
        assert same([state(model, optimizer), scheduler.state_dict()], wanted)


class Rows(nn.Module):
    """A recurrent net that starts as the identity (Le, Jaitly and Hinton 2015)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.RNN(1, 32, nonlinearity="relu", batch_first=True)
        nn.init.eye_(self.cell.weight_hh_l0)
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x[..., None])[0][:, -1])


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e4])
def test_a_recurrent_net_that_leaps_begins_again_with_its_norm_clipped(
    scale: float, guards: Make
) -> None:
    """The same for a loss times any number, with a learning rate that makes up for it."""
    model = Rows()
    first = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5 / scale, momentum=0.9)
    guard = guards(optimizer, model)
    norms = []
    for i, (x, y) in enumerate(batches(40)):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) * scale).backward()
        optimizer.step()
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])))
        if len(guard.acts) == 1:
            assert i > 0 and same(model.state_dict(), first)
    acts = list(guard.acts)
    assert acts[0].rung is Rung.ROLL_BACK and "a recurrent net" in acts[0].reason
    assert "clipped to a norm of" in guard.chosen
    clipped = [norms[a.step] for a in acts[1:] if a.rung is Rung.CLIP]
    assert clipped and max(clipped) / scale < 0.4 * 1.3


def test_a_recurrent_net_that_does_not_leap_is_left_alone(guards: Make) -> None:
    model = Rows()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    guard = guards(optimizer, model)
    for x, y in batches(100):
        step(model, optimizer, x, y)
    assert len(guard.acts) == 0 and "out of line" in guard.chosen


def test_a_recurrent_net_taken_up_again_is_not_clipped_to_nothing() -> None:
    """Its first loss is that of a run that had learned; the usual norm says what is left of it."""
    automatic = Automatic([Rows()])
    for _ in range(10):
        assert not automatic.leapt(1.0, 1e-3)
    assert automatic.leapt(50.0, 1e-3) and automatic.limit == pytest.approx(0.2)


def test_bad_batches_in_a_row_are_taken_at_their_usual_size_at_most(guards: Make) -> None:
    """Ten batches with thirty times the inputs and labels of their own: no step may be long."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    guard = guards(optimizer, model)
    moved, before = [], [p.detach().clone() for p in model.parameters()]
    for i, (x, y) in enumerate(batches(160)):
        bad = 100 <= i < 110
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), torch.flip(y, [0]) if bad else y)
        (loss * 1e3 if bad else loss).backward()
        optimizer.step()
        now = [p.detach().clone() for p in model.parameters()]
        moved.append(sum(float((a - b).square().sum()) for a, b in zip(now, before, strict=True)))
        before = now
    usual = sorted(moved[60:100])[20]
    steps = [m for i, m in enumerate(moved) if 100 <= i < 110]
    undone = {a.step for a in guard.acts if a.rung in (Rung.ROLL_BACK, Rung.UNDO)}
    assert max(m for i, m in enumerate(steps) if 100 + i not in undone) < 3 * usual
    assert guard.acts.count(Rung.SKIP) >= 2
