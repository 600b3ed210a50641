"""surefoot.apply: a remedy on a live model, and off again bit for bit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import surefoot
from surefoot.findings import Remedy


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


def state(model: nn.Module) -> dict[str, Any]:
    """All that an undo has to put back."""
    kept: dict[str, Any] = {k: v.clone() for k, v in model.state_dict().items()}
    kept["classes"] = [type(m) for m in model.modules()]
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks"
    kept["hooks"] = [len(getattr(m, name)) for m in model.modules() for name in hooks]
    return kept


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if a.keys() != b.keys():
        return False
    return all(torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)


@pytest.mark.parametrize("name", ["init.kaiming_normal", "activation.relu", "residual.rezero"])
def test_on_and_off(name: str) -> None:
    model, x = net(), torch.randn(5, 6)
    before, out = state(model), model(x)
    generator = torch.get_rng_state()
    applied = surefoot.apply(name, model, batch=x)
    assert torch.equal(torch.get_rng_state(), generator)
    assert applied.name == name and applied.explain() and isinstance(applied.code, str)
    assert not torch.equal(model(x), out)
    applied.undo()
    assert same(state(model), before) and torch.equal(model(x), out)
    applied.undo()  # a second time does nothing
    assert same(state(model), before)


def test_an_undo_does_not_touch_what_was_put_on_later() -> None:
    model = net()
    first = surefoot.apply("init.kaiming_normal", model)
    first.undo()
    second = surefoot.apply("init.kaiming_normal", model)
    after = state(model)
    first.undo()
    assert same(state(model), after)
    second.undo()


def test_the_optimizer_trains_at_the_rate_and_gets_it_back() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    remedy = Remedy("learning_rate.scale", None, "", parameters={"factor": 0.1})

    def moved() -> float:
        before = model[4].weight.detach().clone()
        model[4].weight.grad = torch.ones(1, 8)
        optimizer.step()
        return (before - model[4].weight).mean().item()

    with surefoot.apply(remedy, model, optimizer):
        assert moved() == pytest.approx(0.05, rel=1e-5)
    assert moved() == pytest.approx(0.5, rel=1e-5)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_kaiming_has_the_variance_that_it_says() -> None:
    """He et al. 2015: std = sqrt(2 / fan in) behind a ReLU."""
    model = nn.Sequential(nn.Linear(9, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU())
    surefoot.apply("init.kaiming_normal", model)
    assert model[2].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", ["init.nothing", "", "kaiming"])
def test_an_unknown_remedy_is_refused(name: str) -> None:
    model = net()
    before = state(model)
    with pytest.raises(ValueError, match="remedy"):
        surefoot.apply(name, model)
    assert same(state(model), before)


def test_what_does_not_go_together_is_refused_until_undone() -> None:
    model = net()
    first = surefoot.apply("normalization.layer_norm", model)
    between = state(model)
    with pytest.raises(ValueError, match="undo"):
        surefoot.apply("normalization.batch_norm", model)
    assert same(state(model), between)
    first.undo()
    surefoot.apply("normalization.batch_norm", model).undo()


def test_where_it_cannot_be_applied_the_model_stays() -> None:
    model = net()
    before = state(model)
    with pytest.raises(ValueError, match=r"learning_rate\.scale cannot be applied here"):
        surefoot.apply("learning_rate.scale", model)  # no optimizer
    assert same(state(model), before)


@pytest.mark.parametrize("model", [None, "model", nn.Linear, 3])
def test_what_is_no_model_is_said(model: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="model"):
        surefoot.apply("init.kaiming_normal", model)


def test_a_model_is_not_kept_alive() -> None:
    model = net()
    known = weakref.ref(model)
    surefoot.apply("init.kaiming_normal", model)
    del model
    gc.collect()
    assert known() is None
