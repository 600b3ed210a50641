"""Steps that GradScaler refuses: seen, counted, and left exactly as they are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from surefoot.watching.session import Session

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "plain": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
}


def train(make: Make, steps: int = 30) -> tuple[nn.Module, torch.amp.GradScaler]:
    """Under float16 autocast, with a scale that is far too high at first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = make(list(model.parameters()))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    for _ in range(steps):
        x = torch.randn(32, 16)
        y = x[:, :4].argmax(1)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return model, scaler


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_refusal_is_seen_and_changes_nothing(name: str) -> None:
    bare, _ = train(OPTIMIZERS[name])
    session = Session(folder=None)
    session.start()
    try:
        model, scaler = train(OPTIMIZERS[name])
    finally:
        session.stop()
    case = session.trainings[0].case()
    series = case.get("loss_scaling")
    halvings = math.log2(2.0**24 / scaler.get_scale())  # one for each refusal, by its definition
    assert halvings > 3
    assert series.last[:, 1].sum() == halvings
    assert case.facts.steps == 30
    assert series.last[0, 0] == 2.0**24
    assert not session.report().findings
    for a, b in zip(bare.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [a.detail["kind"] for a in case.alarms] == ["refused"] * int(halvings)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_refused_step_is_no_update_of_length_nought(name: str) -> None:
    session = Session(folder=None)
    session.start()
    try:
        train(OPTIMIZERS[name])
    finally:
        session.stop()
    ratios = session.trainings[0].case().get("update_ratio")
    assert len(ratios)
    assert (ratios.last[:, 0] > 0).all()
