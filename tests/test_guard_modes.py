"""Guards in the ways in which models are trained: accumulation, schedulers, the compiler, several
optimizers, closures."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from modes_fixture import fresh_compiler, patched_by_torch
from surefoot.guarding.acts import Rung
from test_guard_steps import batches, guards, network, same, spoilt, state, step
from zoo_fixture import mostly_zoo

__all__ = ["fresh_compiler", "guards", "patched_by_torch"]  # the fixtures
Make = Callable[..., surefoot.Guard]
SKIP, BACK = Rung.SKIP, Rung.ROLL_BACK


def acts(guard: surefoot.Guard) -> list[tuple[int, Rung]]:
    return [(act.step, act.rung) for act in guard.acts]


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, **options)


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x), y)


def spoil_weight(model: nn.Module, value: float, layer: int = 3) -> None:
    with torch.no_grad():
        model[layer].weight[0, 0] = value  # type: ignore[index, operator]


def finite(*modules: nn.Module) -> bool:
    return all(bool(t.isfinite().all()) for m in modules for t in m.state_dict().values())


# -- accumulation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [80, 82, 83])
def test_one_lost_part_of_an_accumulated_batch_costs_the_whole_step(bad: int, guards: Make) -> None:
    """The running statistics too are those from before its first part."""
    runs = []
    for guarded in (False, True):
        model = network()
        optimizer = sgd(model)
        guard = guards(optimizer, model) if guarded else None
        data = batches(160)
        for begin in range(0, 160, 4):
            if begin == 80 and not guarded:
                continue
            optimizer.zero_grad()
            for i in range(begin, begin + 4):
                x, y = data[i]
                loss = loss_of(model, spoilt(model, x, "nan") if i == bad else x, y) / 4
                loss.backward()
            optimizer.step()
        runs.append(state(model, optimizer))
    assert guard is not None and acts(guard) == [(20, SKIP)]
    assert same(*runs)


# -- schedulers ------------------------------------------------------------------------------------

schedulers = torch.optim.lr_scheduler
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: schedulers.StepLR(o, 7, gamma=0.8),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=200),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 40),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.9, patience=4),
    "sequence": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 20), schedulers.ExponentialLR(o, 0.98)], [20]
    ),
}


def scheduled(
    name: str, guards: Make | None = None, nan: tuple[int, ...] = (), spoil: int | None = None
) -> tuple[list[Any], Any, list[Any]]:
    """(settings of the optimizer's group at every step, the guard, states kept at each act)."""
    model = network()
    optimizer = sgd(model)
    scheduler = SCHEDULERS[name](optimizer)
    guard = guards(optimizer, model) if guards is not None else None
    used, kept = [], []
    if guard is not None:  # told before it is done
        guard.acts.listeners.append(lambda act: kept.append(guard._snapshots.good.step))
    for i, (x, y) in enumerate(batches(150)):
        if i == spoil:
            spoil_weight(model, math.nan)
        used.append({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})
        step(model, optimizer, spoilt(model, x, "nan") if i in nan else x, y)
        scheduler.step(*([1.0] if name == "plateau" else []))
    return used, guard, kept


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # from PyTorch 2.6's own SequentialLR
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_skipped_step_is_one_to_a_scheduler(name: str, guards: Make) -> None:
    used, guard, _ = scheduled(name, guards, nan=(20, 21, 60))
    assert acts(guard) == [(20, SKIP), (21, SKIP), (60, SKIP)]
    assert used == scheduled(name)[0]


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # from PyTorch 2.6's own SequentialLR
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_rolled_back_with_the_model(name: str, guards: Make) -> None:
    """It goes on from where it was, with rate and momentum, after the step that was kept."""
    used, guard, (*_, kept) = scheduled(name, guards, spoil=100)
    wanted, *_ = scheduled(name)
    assert acts(guard) == [(100, SKIP), (101, SKIP), (102, BACK)]
    assert 0 < kept < 100
    assert used[:103] == wanted[:103]
    assert used[103:] == wanted[kept + 1 : kept + 1 + 47]
    assert used[103:] != wanted[103:]


# -- the compiler ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("part", mostly_zoo(["model", "step", "both"], "both"))
def test_of_what_is_compiled_a_lost_batch_leaves_no_trace(part: str, guards: Make) -> None:
    runs = []
    for guarded in (False, True):
        torch.compiler.reset()  # else the second run would reuse the first one's graphs
        model: Any = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        trained = model if part == "step" else torch.compile(model, backend="aot_eager")
        take = optimizer.step
        if part != "model":
            take = torch.compile(take, backend="aot_eager")
        guard = guards(optimizer, trained) if guarded else None
        for i, (x, y) in enumerate(batches(40)):
            if i in (20, 30) and not guarded:
                continue
            if i in (20, 30):
                x = spoilt(model, x, "nan" if i == 20 else "large")
            optimizer.zero_grad()
            loss_of(trained, x, y).backward()
            take()
        runs.append(state(model, optimizer))
    assert guard is not None and acts(guard) == [(20, SKIP), (30, SKIP)]
    assert same(*runs)


# -- several optimizers ----------------------------------------------------------------------------


def pair(model: Any) -> list[torch.optim.Optimizer]:
    body = [p for part in model[:4] for p in part.parameters()]
    return [
        torch.optim.Adam(body, lr=3e-3),
        torch.optim.SGD(model[4:].parameters(), lr=0.05, momentum=0.9),
    ]


def step_both(model: nn.Module, pair: list[Any], x: torch.Tensor, y: torch.Tensor) -> float:
    model.zero_grad()
    loss = loss_of(model, x, y)
    loss.backward()
    for optimizer in pair:
        optimizer.step()
    return loss.item()


def test_two_optimizers_of_a_model_skip_a_lost_batch_together(guards: Make) -> None:
    runs = []
    for guarded in (False, True):
        model = network()
        both = pair(model)
        guard = guards(both, model) if guarded else None
        for i, (x, y) in enumerate(batches(60)):
            if i == 20 and not guarded:
                continue
            step_both(model, both, spoilt(model, x, "nan") if i == 20 else x, y)
        runs.append([state(model, one) for one in both])
    assert guard is not None and acts(guard) == [(20, SKIP)] * 2
    assert guard.steps == 60
    assert same(*runs)


def test_a_leap_of_one_optimizer_alone_holds_back_that_one(guards: Make) -> None:
    model = network()
    both = pair(model)
    guard = guards(both, model)
    for i, (x, y) in enumerate(batches(60)):
        before = copy.deepcopy(model.state_dict())
        step_both(model, both, spoilt(model, x, "large") if i == 30 else x, y)
        if i == 30:
            moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
            assert not moved & {"0.weight", "3.weight"} and "5.weight" in moved
    assert acts(guard) == [(30, SKIP)]


@pytest.mark.parametrize("value", [math.nan, 1e6])
def test_two_optimizers_are_rolled_back_together_and_once(value: float, guards: Make) -> None:
    """Neither takes a step with what it was given before the rollback."""
    model = network()
    both = pair(model)
    guard = guards(both, model)
    states = []
    for i, (x, y) in enumerate(batches(260)):
        if i == 200:
            spoil_weight(model, value, 3 if math.isnan(value) else 5)
        step_both(model, both, x, y)
        states.append([state(model, one) for one in both])
    done = acts(guard)
    assert [rung for _, rung in done].count(BACK) == 1
    at = next(i for i, rung in done if rung is BACK)
    assert sum(same(states[at], one) for one in states[:200]) == 1
    assert not same(states[at + 1], states[at]) and finite(model)


def test_a_burst_of_lost_batches_rolls_two_optimizers_back_once(guards: Make) -> None:
    model = network()
    both = pair(model)
    guard = guards(both, model)
    for i, (x, y) in enumerate(batches(150)):
        step_both(model, both, spoilt(model, x, "nan") if 100 <= i < 110 else x, y)
    assert [i for i, rung in acts(guard) if rung is BACK] == [102]
    assert guard.skipped == 20


# -- closures and strangers ------------------------------------------------------------------------


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_closure_that_is_lost_at_any_of_its_calls_spoils_nothing(
    at: int, search: str | None, guards: Make
) -> None:
    """As the loss overflows where a line search has gone too far."""
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.02, max_iter=4, line_search_fn=search)
    guards(optimizer, model)
    for i, (x, y) in enumerate(batches(30)):
        calls: list[int] = []

        def closure(i: int = i, x: Any = x, y: Any = y, calls: list[int] = calls) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss = loss * math.nan if i == 15 and len(calls) == at else loss
            calls.append(1)
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
        tensors = [*model.parameters(), *_tensors(optimizer.state_dict()["state"])]
        assert all(bool(t.isfinite().all()) for t in tensors), i


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(one)


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, as strangers write it: the sign of a momentum, decay for every weight."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "decay": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["exp_avg"], state["k"] = torch.zeros_like(p), 0
                state["k"] += 1
                fast, slow = group["betas"]
                p.mul_(1 - group["lr"] * group["decay"])
                p.sub_(torch.lerp(p.grad, state["exp_avg"], fast).sign_(), alpha=group["lr"])
                state["exp_avg"].lerp_(p.grad, 1 - slow)


class Wrapper:
    """No optimizer of torch's, though it drives one."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def zero_grad(self) -> None:
        self.inner.zero_grad()

    def step(self) -> None:
        self.inner.step()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_strangers_optimizer_is_guarded_like_any_other(wrapped: bool, guards: Make) -> None:
    runs = []
    for guarded in (False, True):
        model = network()
        optimizer = Lion(model.parameters())
        guard = guards(optimizer, model) if guarded else None
        for i, (x, y) in enumerate(batches(120)):
            if i in (20, 40) and not guarded:
                continue
            if i in (20, 40):
                x = spoilt(model, x, "nan" if i == 20 else "large")
            step(model, Wrapper(optimizer) if wrapped else optimizer, x, y)
        runs.append(state(model, optimizer))
    assert guard is not None and acts(guard) == [(20, SKIP), (40, SKIP)]
    assert same(*runs)
    spoil_weight(model, math.nan)
    for x, y in batches(3):
        step(model, optimizer, x, y)
    assert acts(guard)[-1] == (122, BACK) and finite(model)


def test_after_a_lost_batch_evaluation_is_as_good_as_before(guards: Make) -> None:
    model = network()
    optimizer = sgd(model)
    guards(optimizer, model)
    for x, y in batches(40):
        step(model, optimizer, x, y)
    model.eval()
    x, y = batches(1)[0]
    before = model(x)
    model.train()
    for fault in ("nan", "inf"):
        step(model, optimizer, spoilt(model, x, fault), y)
    model.eval()
    assert torch.equal(model(x), before)


# -- its own end -----------------------------------------------------------------------------------


def hooks(*owners: Any) -> dict[str, int]:
    return {
        f"{i} {type(one).__name__} {name}": len(table)
        for i, one in enumerate(owners)
        for name, table in vars(one).items()
        if "hooks" in name and hasattr(table, "__len__")
    }


@pytest.mark.parametrize("fused", [False, True])
def test_removed_it_leaves_no_hook_and_acts_no_more(fused: bool, guards: Make) -> None:
    model = network()
    optimizer = sgd(model, fused=fused)
    owners = optimizer, *model.modules()
    before, names = hooks(*owners), set(vars(optimizer))
    guard = guards(optimizer, model)
    assert hooks(*owners) != before
    for i, (x, y) in enumerate(batches(20)):
        step(model, optimizer, spoilt(model, x, "nan") if i == 10 else x, y)
    guard.remove()
    guard.remove()
    assert hooks(*owners) == before and set(vars(optimizer)) == names
    step(model, optimizer, spoilt(model, x, "nan"), y)
    assert not finite(model) and guard.steps == 20


def test_a_failure_of_its_own_ends_the_guard_and_not_the_training(
    guards: Make, caplog: Any
) -> None:
    """Others have hooks on the same optimizer, which torch goes through at that moment."""
    runs, called = [], []
    for guarded in (False, True):
        model = network()
        optimizer = sgd(model)
        guard = guards(optimizer, model) if guarded else None
        optimizer.register_step_pre_hook(lambda *args: called.append("before"))
        optimizer.register_step_post_hook(lambda *args: called.append("after"))
        if guard is not None:
            guard._decide = lambda *args: 1 / 0
        for x, y in batches(20):
            step(model, optimizer, x, y)
        runs.append(state(model, optimizer))
    assert same(*runs) and called == ["before", "after"] * 40
    assert caplog.text.count("the training goes on unguarded: ZeroDivisionError") == 1
