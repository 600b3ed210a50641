"""init.rescale: one number a matrix, against He's formula and PyTorch's own draws."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from surefoot.findings import Remedy
from surefoot.remedies import FirstCall, NotApplicable, Subject, treatment


def apply(net: nn.Module, target: str | None = None, x: torch.Tensor | None = None) -> Subject:
    subject = Subject([net], call=None if x is None else FirstCall(net, (x,)))
    treatment(Remedy("init.rescale", target, "")).apply(subject)
    return subject


def net(act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 96), act(), nn.Linear(96, 96), act(), nn.Linear(96, 10))


def gain(layer: nn.Linear) -> float:
    return float(layer.weight.detach().norm()) / layer.out_features**0.5


@pytest.mark.parametrize("traced", [False, True])
def test_every_layer_gets_the_gain_of_what_feeds_it(traced: bool) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    subject = apply(model, x=torch.randn(4, 64) if traced else None)
    assert [gain(model[i]) for i in (0, 2, 4)] == pytest.approx([1.0, 2**0.5, 2**0.5], rel=1e-5)
    for i in (0, 2, 4):  # the direction is what it was, and so are the biases
        ratio = model[i].weight / before[f"{i}.weight"]
        assert torch.allclose(ratio, ratio.mean(), rtol=1e-4)
        assert torch.equal(model[i].bias, before[f"{i}.bias"])
    subject.undo()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_one_layer_on_its_own_gets_what_the_others_have() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(7)))
    sound = model[3].weight.detach().clone()
    with torch.no_grad():
        model[3].weight.mul_(80)
    apply(model, "3")
    assert torch.allclose(model[3].weight, sound, rtol=0.03)


def test_recurrent_matrices_get_the_size_that_torch_draws() -> None:
    cell = nn.LSTM(8, 100, 2)
    with torch.no_grad():
        cell.weight_hh_l1.mul_(0.1)
        cell.bias_hh_l0.fill_(1.0)
    apply(nn.ModuleDict({"cell": cell, "out": nn.Linear(100, 2)}), "cell")
    assert float(cell.weight_hh_l1.detach().std()) == pytest.approx((3 * 100) ** -0.5, rel=0.02)
    assert (cell.bias_hh_l0 == 1).all()


def test_the_code_does_the_same_by_hand() -> None:
    layer, rnn = nn.Linear(64, 96), nn.GRU(8, 100)
    with torch.no_grad():
        layer.weight.mul_(7)
        rnn.weight_hh_l0.mul_(40)
    exec(treatment(Remedy("init.rescale", None, "")).code(), {"torch": torch, **locals()})
    assert float(layer.weight.detach().std()) == pytest.approx((2 / 64) ** 0.5, rel=1e-4)
    for weight in (rnn.weight_ih_l0, rnn.weight_hh_l0):
        assert float(weight.detach().std()) == pytest.approx((3 * 100) ** -0.5, rel=1e-4)


def test_what_has_that_size_is_no_case_for_it() -> None:
    model = net()
    apply(model)
    with pytest.raises(NotApplicable, match="already"):
        apply(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    with pytest.raises(NotApplicable):
        apply(model)
    frozen = net().requires_grad_(False)
    with pytest.raises(NotApplicable):
        apply(frozen)
