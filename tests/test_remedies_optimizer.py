"""Remedies that act on learning rate, gradients, settings: each against the same by hand."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import pytest
import torch
from torch import nn

from remedies_fixture import (
    batches,
    perceptron,
    remedied,
    same,
    train,
    twins,
)
from surefoot.findings import Remedy
from surefoot.remedies import TREATMENTS, NotApplicable, Subject, treatment

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAMW = functools.partial(torch.optim.AdamW, lr=0.01)
GROUPS = ("learning_rate", "clipping", "guard", "optimizer", "gradients", "input", "target")
GROUPS += ("loss", "data", "dtype", "amp")
OURS = [name for name in TREATMENTS if name.split(".")[0] in GROUPS]


@pytest.mark.parametrize("name", OURS)
def test_each_says_what_it_is(name: str) -> None:
    kind = TREATMENTS[name]
    words = kind().explain()
    assert words.startswith(f"{name}: ") and kind.source in words and kind.limits
    assert kind().code()
    assert treatment(Remedy(name, None, "why")).name == name
    with pytest.raises(ValueError, match="expected parameters"):
        kind(nonsense=1)


@pytest.mark.parametrize("name", OURS)
def test_each_needs_something_to_act_on(name: str) -> None:
    with pytest.raises(NotApplicable):
        TREATMENTS[name]().apply(Subject([]))


@pytest.mark.parametrize(
    "name", [n for n in OURS if n not in ("data.one_batch", "learning_rate.find")]
)
def test_code_shows_the_parameters(name: str) -> None:
    kind = TREATMENTS[name]
    numbers: dict[str, Any] = {
        "factor": 0.25,
        "steps": 7,
        "step": 7,
        "scale": 4096.0,
        "mean": 0.5,
        "std": 0.75,
    }
    numbers |= {"max_norm": 0.3, "max_value": 0.3, "eps": 0.001, "beta2": 0.9, "momentum": 0.5}
    numbers |= {"weight_decay": 0.3}
    given: dict[str, Any] = {k: numbers[k] for k in kind.defaults if k in numbers}
    if given:
        assert kind(**given).code() != kind().code()
        assert all(f"{x:g}" in kind(**given).code() for x in given.values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("learning_rate.scale", {"factor": 0}),
        ("learning_rate.scale", {"factor": math.nan}),
        ("learning_rate.warmup", {"steps": 0}),
        ("clipping.norm", {"max_norm": -1.0}),
        ("clipping.value", {"max_value": "1"}),
        ("optimizer.beta2", {"beta2": 1.0}),
        ("optimizer.eps", {"eps": -1e-8}),
        ("optimizer.reset", {"step": -1}),
        ("optimizer.settings", {"lr": 0.1}),
        ("loss.mean", {"factor": 0}),
        ("amp.grad_scaler", {"scale": 0}),
    ],
)
def test_absurd_parameters_are_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TREATMENTS[name](**parameters)


# -- learning rate ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [SGD, ADAMW])
def test_scale_is_another_learning_rate(make: Any) -> None:
    # Halving commutes with rounding, so that the two are the same to the last bit.
    model, optimizer, twin, _ = twins(make)
    other = make(twin.parameters(), lr=0.1 * optimizer.param_groups[0]["lr"])
    halve = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.5)
    with remedied("learning_rate.scale", model, optimizer, factor=0.1):
        train(model, optimizer, batches(), scheduler=halve(optimizer))
    train(twin, other, batches(), scheduler=halve(other))
    assert same(model, twin)
    assert optimizer.param_groups[0]["lr"] == make(twin.parameters()).param_groups[0]["lr"] / 16


def test_a_script_that_sets_the_rate_itself_is_followed() -> None:
    model, optimizer, twin, other = twins(SGD)
    with remedied("learning_rate.scale", model, optimizer, factor=0.25):
        for i, batch in enumerate(batches()):
            optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
            other.param_groups[0]["lr"] = 0.25 * 0.1 / (i + 1)
            train(model, optimizer, [batch])
            train(twin, other, [batch])
            assert optimizer.param_groups[0]["lr"] == 0.1 / (i + 1)
    assert same(model, twin)


def test_a_rate_that_is_a_tensor_is_scaled_in_place_and_once() -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        two = [{"params": [p]} for p in parameters]
        return torch.optim.AdamW(two, lr=torch.tensor(0.01), foreach=False)

    model, optimizer, twin, other = twins(make)
    rate = optimizer.param_groups[0]["lr"]
    assert rate is optimizer.param_groups[1]["lr"]
    other.param_groups[0]["lr"].mul_(0.5)
    with remedied("learning_rate.scale", model, optimizer, factor=0.5):
        train(model, optimizer, batches())
    train(twin, other, batches())
    assert same(model, twin)
    assert optimizer.param_groups[0]["lr"] is rate and rate == torch.tensor(0.01)


def test_scale_under_a_closure() -> None:
    model, optimizer, twin, _ = twins(functools.partial(torch.optim.LBFGS, lr=0.5, max_iter=3))
    other = torch.optim.LBFGS(twin.parameters(), lr=0.25, max_iter=3)
    x, y = batches()[0]
    for net, chosen in ((model, optimizer), (twin, other)):

        def closure(net: Any = net, chosen: Any = chosen) -> torch.Tensor:
            chosen.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            return loss

        if net is model:
            with remedied("learning_rate.scale", net, chosen, factor=0.5):
                chosen.step(closure)
        else:
            chosen.step(closure)
    assert same(model, twin)


class _Stubborn(torch.optim.SGD):
    """Sets its own rate while it steps, or fails."""

    new: float | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.new is None:
            raise RuntimeError("no")
        self.param_groups[0]["lr"] = self.new
        return None


def test_a_rate_that_the_step_sets_stays_and_one_of_a_step_that_raised_comes_back() -> None:
    model = perceptron()
    optimizer = _Stubborn(model.parameters(), lr=1.0)
    with remedied("learning_rate.scale", model, optimizer, factor=0.5):
        optimizer.new = 0.3
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.3
        optimizer.new = None
        with pytest.raises(RuntimeError):
            optimizer.step()
        assert optimizer.param_groups[0]["lr"] == 0.15
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_a_guard_that_lowers_the_rate_during_a_step_does_not_compound() -> None:
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=1.0)
    own: list[Any] = []
    used: list[float] = []

    def lower(*_: Any) -> None:
        own.append(optimizer.param_groups[0]["lr"])
        optimizer.param_groups[0]["lr"] = 0.1
        used.append(own[-1])

    with remedied("learning_rate.scale", model, optimizer, factor=0.5):
        optimizer.register_step_pre_hook(lower)
        optimizer.register_step_post_hook(
            lambda *_: optimizer.param_groups[0].__setitem__("lr", own.pop())
        )
        for _ in range(4):
            optimizer.step()
    assert used == [0.5] * 4 and optimizer.param_groups[0]["lr"] == 1.0


def test_warmup_is_a_linear_ramp() -> None:
    model, optimizer, twin, other = twins(SGD)
    ramp = torch.optim.lr_scheduler.LambdaLR(other, lambda t: min(1, (t + 1) / 8))
    with remedied("learning_rate.warmup", model, optimizer, steps=8):
        train(model, optimizer, batches())
    train(twin, other, batches(), scheduler=ramp)
    assert same(model, twin)


def test_undo_leaves_nothing_on_the_optimizer() -> None:
    for name in ("learning_rate.scale", "learning_rate.warmup", "clipping.norm", "gradients.zero"):
        model, optimizer, twin, other = twins(ADAMW)
        with remedied(name, model, optimizer):
            pass
        hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        assert not any(hooks), name
        train(model, optimizer, batches())
        train(twin, other, batches())
        assert same(model, twin), name


def test_optimizers_that_come_later_are_taken_along() -> None:
    model, optimizer, twin, other = twins(SGD)
    with remedied("clipping.norm", model, optimizer, max_norm=0.01) as subject:
        later = SGD(model.parameters())
        subject.take(later)
        train(model, later, batches())
    clip = functools.partial(torch.nn.utils.clip_grad_norm_, list(twin.parameters()), 0.01)
    train(twin, other, batches(), before=clip)
    assert same(model, twin)


# -- the optimizer ------------------------------------------------------------------------------


def test_rebuild_adds_what_is_lacking_and_nothing_else() -> None:
    model, twin = perceptron(), perceptron()
    model[0].bias.requires_grad_(False)
    twin[0].bias.requires_grad_(False)
    foreign = nn.Parameter(torch.ones(2))
    optimizer = ADAMW([{"params": [foreign]}, {"params": [model[0].weight], "lr": 0.02}])
    with remedied("optimizer.rebuild", model, optimizer):
        held = [[id(p) for p in g["params"]] for g in optimizer.param_groups]
        new = [id(model[2].weight), id(model[2].bias)]
        assert held == [[id(foreign)], [id(model[0].weight), *new]]
        train(model, optimizer, batches())
    train(twin, ADAMW([p for p in twin.parameters() if p.requires_grad], lr=0.02), batches())
    assert same(model, twin)
    assert [len(g["params"]) for g in optimizer.param_groups] == [1, 1]
    assert model[2].weight not in optimizer.state
    whole = ADAMW(model.parameters())
    with pytest.raises(NotApplicable, match="already"):
        TREATMENTS["optimizer.rebuild"]().apply(Subject([model], [whole]))


@pytest.mark.parametrize("make", [SGD, ADAMW, functools.partial(torch.optim.Adagrad, lr=0.1)])
def test_reset_is_a_new_optimizer(make: Any) -> None:
    model, optimizer, twin, other = twins(make)
    with remedied("optimizer.reset", model, optimizer, step=5):
        train(model, optimizer, batches())
    train(twin, other, batches()[:5])
    train(twin, make(twin.parameters()), batches()[5:])
    assert same(model, twin)
    with pytest.raises(NotApplicable, match="remembers nothing"):
        TREATMENTS["optimizer.reset"]().apply(Subject([model], [make(model.parameters())]))


def test_undoing_a_reset_brings_the_state_back() -> None:
    model = perceptron()
    optimizer = ADAMW(model.parameters())
    train(model, optimizer, batches()[:3])
    before = {p: dict(s) for p, s in optimizer.state.items()}
    moment = before[model[0].weight]["exp_avg"].clone()
    with remedied("optimizer.reset", model, optimizer):
        train(model, optimizer, batches()[3:4])
        assert optimizer.state[model[0].weight]["step"] == 1
    assert optimizer.state[model[0].weight]["step"] == 3
    assert torch.equal(optimizer.state[model[0].weight]["exp_avg"], moment)


@pytest.mark.parametrize(
    ("name", "wrong", "parameters", "right"),
    [
        ("optimizer.eps", {"eps": 0.1}, {}, {"eps": 1e-8}),
        ("optimizer.beta2", {"betas": (0.8, 0.999)}, {}, {"betas": (0.8, 0.95)}),
        ("optimizer.beta2", {}, {"beta2": 0.5}, {"betas": (0.9, 0.5)}),
        ("optimizer.weight_decay", {"weight_decay": 5.0}, {}, {"weight_decay": 0.01}),
        ("optimizer.settings", {"eps": 0.1}, {}, {"eps": 1e-8}),
        ("optimizer.settings", {"maximize": True}, {}, {"maximize": False}),
        ("optimizer.settings", {"betas": (0.995, 0.9)}, {}, {"betas": (0.9, 0.999)}),
        ("optimizer.settings", {"betas": (0.8, 0.9)}, {"beta2": 0.99}, {"betas": (0.8, 0.99)}),
    ],
)
def test_a_setting_is_that_of_an_optimizer_made_with_it(
    name: str, wrong: dict[str, Any], parameters: dict[str, Any], right: dict[str, Any]
) -> None:
    model, optimizer, twin, _ = twins(functools.partial(ADAMW, **wrong))
    groups = [dict(g) for g in optimizer.param_groups]
    with remedied(name, model, optimizer, **parameters):
        train(model, optimizer, batches())
    train(twin, ADAMW(twin.parameters(), **right), batches())
    assert same(model, twin)
    assert [dict(g) for g in optimizer.param_groups] == groups
    again = Subject([twin], [ADAMW(twin.parameters(), **right)])
    with pytest.raises(NotApplicable, match="already"):
        TREATMENTS[name](**parameters).apply(again)


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (torch.optim.SGD, {"momentum": 0.999}, {"momentum": 0.9}),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.99}, {"momentum": 0.9}),
        (torch.optim.RMSprop, {"alpha": 0.9999}, {"alpha": 0.99}),
        (torch.optim.Adagrad, {"initial_accumulator_value": 64.0}, {}),
    ],
)
def test_settings_of_other_optimizers(
    kind: Any, wrong: dict[str, Any], right: dict[str, Any]
) -> None:
    model, optimizer, twin, _ = twins(functools.partial(kind, lr=0.01, **wrong))
    state = {p: {k: v.clone() for k, v in s.items()} for p, s in optimizer.state.items()}
    subject = Subject([model], [optimizer])
    TREATMENTS["optimizer.settings"]().apply(subject)
    train(twin, kind(twin.parameters(), lr=0.01, **right), batches())
    if state:  # of Adagrad's, which has one before its first step
        subject.undo()
        assert all(
            torch.equal(optimizer.state[p][k], v) for p in state for k, v in state[p].items()
        )
        TREATMENTS["optimizer.settings"]().apply(subject)
    train(model, optimizer, batches())
    assert same(model, twin)


def test_sound_settings_are_left_alone() -> None:
    model = perceptron()
    for optimizer in (SGD(model.parameters()), ADAMW(model.parameters(), betas=(0.9, 0.95))):
        with pytest.raises(NotApplicable, match="usual already"):
            TREATMENTS["optimizer.settings"]().apply(Subject([model], [optimizer]))
    with pytest.raises(NotApplicable, match="SGD has no eps"):
        TREATMENTS["optimizer.eps"]().apply(Subject([model], [SGD(model.parameters())]))
    rms = torch.optim.RMSprop(model.parameters())
    with remedied("optimizer.beta2", model, rms):
        assert rms.param_groups[0]["alpha"] == 0.95


def test_a_setting_holds_against_what_the_program_loads_or_adds() -> None:
    model = perceptron()
    optimizer = ADAMW(model[0].parameters(), eps=0.1)
    saved = optimizer.state_dict()
    for name in ("optimizer.eps", "optimizer.settings"):
        with remedied(name, model, optimizer):
            optimizer.load_state_dict(saved)
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "eps": 0.5})
            optimizer.step()
            assert [g["eps"] for g in optimizer.param_groups] == [1e-8, 1e-8]
        assert [g["eps"] for g in optimizer.param_groups] == [0.1, 0.5]
        optimizer.param_groups.pop()


def test_groups_without_decay_stay_without() -> None:
    model = perceptron()
    groups = [
        {"params": [model[0].weight], "weight_decay": 3.0},
        {"params": [model[0].bias], "weight_decay": 0.0},
    ]
    optimizer = ADAMW(groups)
    with remedied("optimizer.weight_decay", model, optimizer):
        assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [3.0, 0.0]


def test_zero_is_zero_grad() -> None:
    model, optimizer, twin, other = twins(SGD)
    with remedied("gradients.zero", model, optimizer):
        train(model, optimizer, batches(), zero=False)
    train(twin, other, batches())
    assert same(model, twin)
    plain = perceptron()
    train(plain, SGD(plain.parameters()), batches(), zero=False)
    assert not same(plain, twin)


def test_the_names_that_rules_prescribe_exist() -> None:
    from surefoot.diagnosis import prescriptions

    found = [v for _, v in inspect.getmembers(prescriptions) if isinstance(v, Remedy)]
    names = {r.remedy for r in found} & {"guard.skip", "clipping.norm"}
    assert names == {"guard.skip", "clipping.norm"}
    assert treatment(prescriptions.learning_rate(0.5, "")).parameters == {"factor": 0.5}
