"""What a step leaves where it was, against counting element by element; and what is kept of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from surefoot.signals.unmoved import unmoved_shares
from surefoot.signals.updates import sample_weights
from surefoot.watching.session import Session


def test_shares_are_those_counted_one_by_one() -> None:
    torch.manual_seed(0)
    before = [torch.randn(40, 30), torch.randn(7), torch.empty(0)]
    after = [w.bfloat16().float() for w in before]  # some happen to be on the grid
    after[1][:3] = before[1][:3]
    shares = unmoved_shares(sample_weights(before), sample_weights(after))
    for b, a, share in zip(before[:2], after[:2], shares, strict=False):
        pairs = zip(b.flatten().tolist(), a.flatten().tolist(), strict=True)
        assert share == pytest.approx(np.mean([x == y for x, y in pairs]))
    assert np.isnan(shares[2])


def test_rounding_to_bfloat16_loses_what_theory_says() -> None:
    # Even weights, a step of u = r rms: lost from the octave on whose half step is above it.
    w = torch.linspace(-1, 1, 4001).bfloat16()[:4000]
    for r in (5e-4, 2e-3):
        u = r / 3**0.5
        moved = w + torch.tensor(u).bfloat16()
        share = unmoved_shares(sample_weights([w]), sample_weights([moved]))[0]
        assert share == pytest.approx(1 - 2.0 ** math.ceil(math.log2(u) + 8), abs=0.01)
        assert 1 - 296 * r <= share <= 1 - 148 * r


def test_different_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="expected sizes"):
        unmoved_shares(sample_weights([torch.ones(3)]), sample_weights([torch.ones(4)]))


@pytest.mark.parametrize(("dtype", "seen"), [(torch.bfloat16, True), (torch.float32, False)])
def test_only_half_precision_is_looked_at(dtype: torch.dtype, seen: bool) -> None:
    session = Session(folder=None)
    session.start()
    try:
        net = nn.Linear(4, 3).to(dtype)
        sgd = torch.optim.SGD(net.parameters(), lr=0.0)
        for _ in range(3):
            sgd.zero_grad()
            net(torch.ones(2, 4, dtype=dtype)).square().sum().backward()
            sgd.step()
    finally:
        session.stop()
    shares = session.trainings[0].case().get("unmoved")
    assert bool(len(shares)) is seen
    if seen:
        assert (shares.high == 1).all()  # a rate of zero moves nothing
