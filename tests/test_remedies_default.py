"""init.default: what PyTorch draws, against the closed forms of its documentation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surefoot.findings import Remedy
from surefoot.remedies import NotApplicable, Subject, treatment


def apply(net: nn.Module, target: str | None = None) -> Subject:
    subject = Subject([net])
    treatment(Remedy("init.default", target, "")).apply(subject)
    return subject


@pytest.mark.parametrize(
    ("module", "name", "std"),
    [
        (nn.Linear(300, 200), "weight", (3 * 300) ** -0.5),  # U(-b, b) has the variance b^2 / 3
        (nn.Conv2d(8, 64, 3), "weight", (3 * 72) ** -0.5),
        (nn.Embedding(200, 100), "weight", 1.0),
        (nn.LSTM(20, 100), "weight_hh_l0", (3 * 100) ** -0.5),
    ],
)
def test_every_module_draws_as_it_does(module: nn.Module, name: str, std: float) -> None:
    net = nn.ModuleDict({"part": module, "other": nn.Linear(4, 4)})
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(80)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    subject = apply(net, "part")
    assert torch.equal(torch.get_rng_state(), state)
    drawn = getattr(module, name).detach()
    assert float(drawn.std()) == pytest.approx(std, rel=0.03)
    assert torch.equal(net["other"].weight, before["other.weight"])
    subject.undo()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_weights_that_are_so_already_are_no_case_for_it() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with pytest.raises(NotApplicable, match="already"):
        apply(net)
    with torch.no_grad():
        net[2].weight.fill_(float("nan"))
    apply(net)
    assert net[2].weight.isfinite().all()


def test_frozen_modules_are_left_alone() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10))
    with torch.no_grad():
        net[0].weight.mul_(9)
        net[1].weight.mul_(9)
    net[0].requires_grad_(False)
    kept = net[0].weight.clone()
    apply(net)
    assert torch.equal(net[0].weight, kept)
    with pytest.raises(NotApplicable, match="no module"):
        apply(net, "nowhere")
