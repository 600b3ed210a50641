"""What is noted of optimizers: names, numbers, and how many there were."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.attach.driver import Driver, settings
from surefoot.findings import Cause, Report
from surefoot.watching.session import Session

P = [nn.Parameter(torch.ones(2, 2))]


def test_the_numbers_of_the_first_group_by_torchs_names() -> None:
    adam = torch.optim.AdamW(P, lr=1e-3, betas=(0.8, 0.7), weight_decay=0.1, amsgrad=True)
    found = dict(settings(adam))
    assert (found["beta1"], found["beta2"], found["weight_decay"]) == (0.8, 0.7, 0.1)
    assert found["amsgrad"] == 1.0 and found["maximize"] == 0.0
    assert "params" not in found and all(isinstance(v, float) for v in found.values())


@pytest.mark.parametrize("odd", [object(), type("Empty", (), {"param_groups": []})()])
def test_what_is_no_optimizer_of_torchs_has_none(odd: object) -> None:
    assert settings(odd) == ()


def test_optimizers_are_counted_and_the_last_one_counts() -> None:
    driver = Driver()
    driver.took(torch.optim.Adam(P))
    driver.took(torch.optim.SGD(P, lr=0.5, momentum=0.25))
    facts = driver.facts()
    assert (facts["optimizer"], facts["optimizers"]) == ("SGD", 2)
    assert dict(facts["settings"])["momentum"] == 0.25


def trained(anew: bool, lr: float) -> Report:
    """A classification whose Adam is made once, or at every step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    x = torch.randn(512, 16)
    y = (x @ torch.randn(16, 4)).argmax(1)
    session = Session(folder=None)
    session.start()
    try:
        adam = torch.optim.Adam(model.parameters(), lr=lr)
        for step in range(60):
            if anew:
                adam = torch.optim.Adam(model.parameters(), lr=lr)
            rows = torch.arange(32 * step, 32 * step + 32) % 512
            adam.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            adam.step()
    finally:
        session.stop()
    return session.report()


def test_an_optimizer_made_anew_at_every_step_is_told_if_it_fails() -> None:
    root = trained(anew=True, lr=1.0).root
    assert root is not None and root.rule == "SF308", str(root)
    assert root.cause is Cause.OPTIMIZER_STATE
    assert "optimizers made" in root.sentence


def test_and_not_if_it_learns_or_was_made_once() -> None:
    assert trained(anew=True, lr=1e-2).findings == ()
    assert "SF308" not in {f.rule for f in trained(anew=False, lr=1.0).findings}
