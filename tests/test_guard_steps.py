"""The guard on real trainings: a healthy one is left alone, a skipped step leaves no trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from surefoot.guarding.acts import Rung
from surefoot.guarding.clipping import CLIPPINGS
from zoo_fixture import mostly_zoo

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "sgd-foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adam-fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adagrad-fused": lambda p: torch.optim.Adagrad(p, lr=1e-2, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.05),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.02, max_iter=2),
    "counting": lambda p: Counting(p),
}


class Counting(torch.optim.Optimizer):
    """A stranger's optimizer: its groups count steps, and it has a decay that asks for no
    gradient's leave."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.05, "k": 0, "weight_sum": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] += 1
            group["weight_sum"] += group["lr"]
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["lr"] / math.sqrt(group["k"]))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(),
        nn.Linear(16, 3),
    )  # fmt: skip


def batches(count: int, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(6, 3, generator=generator)
    xs = [torch.randn(32, 6, generator=generator) for _ in range(count)]
    return [(x, (x @ truth).argmax(1)) for x in xs]


def step(model: nn.Module, optimizer: Any, x: torch.Tensor, y: torch.Tensor) -> float:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    if isinstance(optimizer, torch.optim.LBFGS):
        return float(optimizer.step(closure).detach())
    loss = closure()
    optimizer.step()
    return float(loss.detach())


def same(a: Any, b: Any) -> bool:
    """Whether two trees of tensors and numbers are the same, bit for bit; NaN is like NaN."""
    if isinstance(a, torch.Tensor):
        return torch.equal(torch.nan_to_num(a.double(), 7.0), torch.nan_to_num(b.double(), 7.0))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def state(model: nn.Module, optimizer: Any) -> Any:
    return copy.deepcopy([model.state_dict(), optimizer.state_dict()])


@pytest.fixture
def guards() -> Iterator[Callable[..., surefoot.Guard]]:
    made: list[surefoot.Guard] = []

    def make(*args: Any, **kwargs: Any) -> surefoot.Guard:
        made.append(surefoot.guard(*args, **kwargs))
        return made[-1]

    yield make
    for guard in made:
        guard.remove()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_healthy_run_is_left_alone_bit_for_bit(name: str, guards: Any) -> None:
    runs = []
    for guarded in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        guard = guards(optimizer, model) if guarded else None
        losses = [step(model, optimizer, x, y) for x, y in batches(60)]
        runs.append((losses, state(model, optimizer)))
    assert guard is not None and len(guard.acts) == 0 and guard.steps == 60
    assert same(*runs)


@pytest.mark.parametrize("name", mostly_zoo(OPTIMIZERS, "sgd", "adam", "adamw", "adam-fused"))
@pytest.mark.parametrize("fault", ["nan", "inf", "large"])
def test_a_skipped_step_leaves_no_trace(name: str, fault: str, guards: Any) -> None:
    """As if the batch had never been there: weights, moments, counters, running statistics."""
    bad = {20, 21, 40} if fault != "large" else {30, 45}
    runs = []
    for guarded in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        guard = guards(optimizer, model) if guarded else None
        for i, (x, y) in enumerate(batches(60)):
            if i in bad and not guarded:
                continue
            if i in bad:
                x = spoilt(model, x, fault)
            step(model, optimizer, x, y)
        final = state(model, optimizer)
        if name == "lbfgs":  # it counts calls of its closure, which did run
            for kept in final[1]["state"].values():
                kept.pop("func_evals")
        runs.append(final)
    assert guard is not None
    assert [a.step for a in guard.acts if a.rung is Rung.SKIP] == sorted(bad)
    assert same(*runs)


def spoilt(model: nn.Module, x: torch.Tensor, fault: str) -> torch.Tensor:
    if fault == "large":  # past the normalisation, or nothing would come of it
        model[3].weight.register_hook(once(lambda g: g * 1e4))  # type: ignore[union-attr, operator]
        return x
    x = x.clone()
    x[0, 0] = math.nan if fault == "nan" else math.inf
    return x


def once(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], Any]:
    called: list[int] = []

    def hook(gradient: torch.Tensor) -> Any:
        called.append(1)
        return change(gradient) if len(called) == 1 else None

    return hook


def test_the_culprit_is_named(guards: Any) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    guard = guards(optimizer, model)
    for i, (x, y) in enumerate(batches(40)):
        step(model, optimizer, spoilt(model, x, "large") if i == 30 else x, y)
    (act,) = guard.acts
    assert (act.step, act.rung, act.parameter) == (30, Rung.SKIP, "3.weight")
    assert 100 < act.factor < 1e5


def test_one_small_layer_alone_is_clipped_to_its_usual_size(guards: Any) -> None:
    """A spike of a thousand times that the norm of all does not show."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"large": nn.Linear(64, 64), "small": nn.Linear(2, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    guard = guards(optimizer, model)
    before = torch.zeros(())
    for i in range(40):
        x = torch.randn(16, 64)
        loss = model["large"](x).square().mean() * 1e4
        loss = loss + model["small"](x[:, :2]).square().mean() * (1e3 if i == 30 else 1.0)
        optimizer.zero_grad()
        loss.backward()
        before = model["small"].weight.detach().clone()  # type: ignore[operator]
        optimizer.step()
        if i == 30:
            moved = (model["small"].weight - before).norm()  # type: ignore[operator]
            assert moved.item() < 1e-6  # unclipped it would be about 1e-4
    (act,) = guard.acts
    assert act.rung is Rung.CLIP and act.parameter in ("small.weight", "small.bias")


def test_early_faults_are_skipped_before_there_is_a_baseline(guards: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    guard = guards(optimizer, model)
    for i, (x, y) in enumerate(batches(12)):
        x = spoilt(model, x, {0: "nan", 6: "large"}[i]) if i in (0, 6) else x
        step(model, optimizer, x, y)
    assert [(a.step, a.rung) for a in guard.acts] == [(0, Rung.SKIP), (6, Rung.SKIP)]


def test_clustered_spikes_are_all_caught(guards: Any) -> None:
    """Ten spikes of a hundred times within twenty steps, the baseline learns none of them."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    guard = guards(optimizer, model)
    bad = set(range(40, 60, 2))
    for i, (x, y) in enumerate(batches(100)):
        step(model, optimizer, spoilt(model, x, "large") if i in bad else x, y)
    assert {a.step for a in guard.acts} == bad


@pytest.mark.parametrize("change", ["scale", "alternate", "unfreeze"])
def test_a_lasting_change_is_accepted(change: str, guards: Any) -> None:
    """A new level, a new level every other step, and layers that were frozen: at most a few steps
    are held back, and then none any more."""
    model = network()
    if change == "unfreeze":
        for p in model[:4].parameters():  # type: ignore[index]
            p.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    guard = guards(optimizer, model)
    for i, (x, y) in enumerate(batches(300)):
        factor = 1.0
        if i >= 100:
            factor = {"scale": 100.0, "alternate": 100.0 ** (i % 2), "unfreeze": 1.0}[change]
            for p in model.parameters():
                p.requires_grad_(True)
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) * factor).backward()
        optimizer.step()
    assert guard.skipped <= 8
    assert all(act.step < 180 for act in guard.acts)
    assert guard.acts.count(Rung.HALT) == guard.acts.count(Rung.ROLL_BACK) == 0


def test_finite_gradients_whose_norm_float32_cannot_hold_are_clipped_not_zeroed(
    guards: Any,
) -> None:
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    guard = guards(optimizer, model, clip=1.0)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[3e25, 4e25, 0.0, 0.0]])
    optimizer.step()
    torch.testing.assert_close(before - model.weight, torch.tensor([[0.6, 0.8, 0.0, 0.0]]))
    assert guard.clipped == 1


def test_a_dry_run_only_says_it(guards: Any) -> None:
    runs = []
    for dry in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        guard = guards(optimizer, model, dry_run=True) if dry else None
        for i, (x, y) in enumerate(batches(40)):
            step(model, optimizer, spoilt(model, x, "large") if i == 30 else x, y)
        runs.append(state(model, optimizer))
    assert same(*runs)
    assert guard is not None and [a.step for a in guard.acts] == [30]


def test_a_second_guard_takes_the_place_of_the_first(guards: Any) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    first, second = guards(optimizer, model), guards(optimizer, model)
    for x, y in batches(3):
        step(model, optimizer, x, y)
    assert (first.steps, second.steps) == (0, 3)


def test_when_the_optimizer_is_gone_so_is_the_guard() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    surefoot.guard(optimizer, model)
    x, y = batches(1)[0]
    step(model, optimizer, x, y)
    del optimizer  # conftest fails the test if a patch is left


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"clip": "clamp"}, "expected clip to be a number"),
        ({"clip": -1.0}, "expected max_norm to be a positive number"),
        ({"skip": False, "rollback": True}, "expected skip=True"),
    ],
)
def test_what_is_no_guard_is_refused(arguments: Any, words: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(ValueError, match=words):
        surefoot.guard(optimizer, model, **arguments)
    two = [torch.optim.SGD([p], lr=0.05) for p in (model[0].weight, model[0].bias)]  # type: ignore[index, union-attr, list-item]
    with pytest.raises(ValueError, match="expected the name of a clipping for 2 optimizers"):
        surefoot.guard(two, model, clip=CLIPPINGS["zclip"]())
    with pytest.raises(TypeError, match=r"expected model to be a torch\.nn\.Module"):
        surefoot.guard(optimizer, "model")  # type: ignore[arg-type]
