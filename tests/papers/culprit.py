"""One layer planted among thirty: is it named, by how much, and do the parts make up the whole?"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from tests.papers import Row, Seen
from tests.papers.depth import see
from tests.papers.networks import plain
from torch import nn

DEPTH, WIDTH, PLANTED, SEEDS = 30, 128, 20, 3


def planted(factor: float, seed: int) -> nn.Sequential:
    """He-initialised ReLU layers; one of them, its index in the Sequential 2 x 20, is scaled."""
    torch.manual_seed(seed)
    model = plain(nn.ReLU, DEPTH, WIDTH, 2**0.5)
    with torch.no_grad():
        model.get_submodule(str(2 * PLANTED)).weight.mul_(factor)  # type: ignore[operator]
    return model


def deviation(factor: float) -> float:
    """Decades by which the layer named as the culprit stands out, mean; NaN if it is another."""
    found = []
    for seed in range(SEEDS):
        seen = see(planted(factor, seed), torch.randn(64, WIDTH))
        culprit = seen.culprit()
        # of the gap below it: stage k is layer k, and the weights of a gap are the next layer's
        if culprit is None or culprit[0] != PLANTED - 1:
            return float("nan")
        found.append(culprit[1])
    return float(np.mean(found))


def unexplained() -> float:
    """Largest difference between the sum of the gaps and the ratio of norms by autograd alone."""
    worst = 0.0
    for seed in range(SEEDS):
        model = planted(10.0, seed).double()
        x = torch.randn(64, WIDTH, dtype=torch.float64)
        torch.manual_seed(seed)
        seen = see(model, x)
        torch.manual_seed(seed)
        outputs, h = [], x
        for module in model:
            h = module(h)
            if isinstance(module, nn.Linear):
                outputs.append(h)
        gradients = torch.autograd.grad(h, outputs, torch.randn_like(h))
        whole = (gradients[0].norm() / gradients[DEPTH - 1].norm()).log10()
        worst = max(worst, abs(seen.growth - float(whole)))
    return worst


CHAIN = "the chain rule"
ROWS = [
    *(
        Row(
            name=f"decades by which a layer scaled by {factor:g} stands out, if it is named",
            source=f"{CHAIN}: log10 {factor:g}",
            seen=Seen.DERIVED,
            theory=float(np.log10(factor)),
            tolerance=0.08,
            why="3 s.e. of 3 layers of width 128 (5 / n each), against their median",
            measure=partial(deviation, factor),
        )
        for factor in (10.0, 0.1)
    ),
    Row(
        name="growth that the parts of 30 layers leave unexplained, decades",
        source=f"{CHAIN}: none",
        seen=Seen.DERIVED,
        theory=0.0,
        tolerance=1e-9,
        why="rounding of float64",
        measure=unexplained,
    ),
]
